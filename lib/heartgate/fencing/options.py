"""Options of `fence_heartgate`, from stdin (Pacemaker) or from the command line (people). Nothing is guessed."""

from heartgate.fencing.table import ACTIONS, NAME, PARAMETERS, SILENT

STDIN_LIMIT = 64 * 1024
SAME_ACTION = {"meta-data": "metadata", "enable": "on", "disable": "off"}
NAMES = {name: argument for name, _, argument, *_ in PARAMETERS}
SHORT = {short: name for name, short, *_ in PARAMETERS if short}
DEFAULTS = {name: default for name, _, _, _, default, *_ in PARAMETERS}
YES, NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off", "")
UNITS_S = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0}
LONGEST_S = 600.0


class Bad(Exception):
    """What is wrong with the options, in one line that names the remedy."""


class Options:
    """As given; the properties check. Raises Bad."""

    def __init__(self, given: "dict[str, str]", notes: "list[str]") -> None:
        self._given = given
        self.notes = notes

    def text(self, name: str) -> str:
        return self._given.get(name, "") or DEFAULTS.get(name, "")

    def flag(self, name: str) -> bool:
        value = self.text(name).lower()
        if value not in YES + NO:
            raise Bad(f"{name}={value!r:.80} is neither 1 nor 0")
        return value in YES

    def seconds(self, name: str, least: float) -> float:
        value = self.text(name)
        number = value.rstrip("smin")
        unit = UNITS_S.get(value[len(number) :])
        plain = number.replace(".", "", 1)
        found = float(number) * unit if unit and plain.isascii() and plain.isdigit() else -1.0
        if not least <= found <= LONGEST_S:
            raise Bad(f"{name}={value!r:.80} is not a time from {least:g} to {LONGEST_S:g} seconds, e.g. {name}={DEFAULTS[name]}")
        return found

    @property
    def action(self) -> str:
        given = (self.text("action") if "action" in self._given else self.text("option") or DEFAULTS["action"]).lower()
        action = SAME_ACTION.get(given, given)
        if action not in ACTIONS:
            raise Bad(f"action={given!r:.80} is not known, use one of: {' '.join(ACTIONS)}")
        return action

    @property
    def is_on(self) -> bool:
        """Always succeeds: Pacemaker makes off and on of a reboot, and nothing may keep a node from being switched on again."""
        given = self._given.get("action", self._given.get("option", "")).lower()
        return SAME_ACTION.get(given, given) == "on"

    @property
    def target(self) -> str:
        """The node; "" if none is named. What Pacemaker itself calls it (nodename) counts more than plug, which may have been
        translated by pcmk_host_map for another kind of device."""
        plug, port, node = (self._given.get(name, "") for name in ("plug", "port", "nodename"))
        if plug and port and plug != port:
            raise Bad(f"plug={plug!r:.80} and port={port!r:.80} contradict each other: name the node once")
        target = node or plug or port
        if target and not is_name(target):
            raise Bad(f"plug={target!r:.80} is not a node's name (letters, digits, '.', '_', '-')")
        return target

    @property
    def devices(self) -> "tuple[str, ...]":
        names = tuple(self.text("devices").replace(",", " ").split())
        for name in names:
            if not is_name(name):
                raise Bad(f"devices: {name!r:.80} is not a resource's name, write e.g. devices=\"r0 r1\"")
        return names


def is_name(value: str) -> bool:
    return 0 < len(value) <= 64 and value.isascii() and all(char.isalnum() or char in "._-" for char in value)


def from_stdin(data: bytes) -> Options:
    """`name=value` lines; blank lines and comments are left out, names that nobody declared are noted and ignored."""
    given: dict[str, str] = {}
    notes: list[str] = []
    if len(data) > STDIN_LIMIT:
        raise Bad(f"more than {STDIN_LIMIT} bytes on stdin")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise Bad("stdin is not text: name=value lines are expected, e.g. plug=nodeb") from None
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise Bad(f"line {number} on stdin is not name=value: {line!r:.80}")
        if name in NAMES or name in SILENT:
            _take(given, name, value)
        else:
            notes.append(f"option {name!r:.80} is not known and is ignored")
    return Options(given, notes)


def from_arguments(arguments: "list[str]") -> Options:
    given: dict[str, str] = {}
    rest = [*arguments]
    while rest:
        word = rest.pop(0)
        if word == "--" and not rest:
            break
        name, equals, value = _option(word)
        if not NAMES[name]:
            if equals:
                raise Bad(f"option {word!r:.80} takes no value")
            value = "1"
        elif not equals:
            if not rest:
                raise Bad(f"option {word!r:.80} lacks its value")
            value = rest.pop(0)
        _take(given, name, value)
    return Options(given, [])


def _option(word: str) -> "tuple[str, str, str]":
    """(name, "=" or "", value) of --name, --name=value, -x or -xvalue."""
    if word.startswith("--"):
        written, equals, value = word[2:].partition("=")
        name = written.replace("-", "_")
    else:
        name, value = SHORT.get(word[1:2], "") if word.startswith("-") else "", word[2:]
        equals = "=" if value else ""
    if name not in NAMES:
        raise Bad(f"{word!r:.80} is not an option of {NAME}; --help lists them")
    return name, equals, value


def _take(given: "dict[str, str]", name: str, value: str) -> None:
    if given.get(name, value) != value:
        raise Bad(f"{name} is given twice, as {given[name]!r:.80} and as {value!r:.80}")
    given[name] = value

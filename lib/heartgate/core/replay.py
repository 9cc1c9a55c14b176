"""The history of one device's steps, and its replay through the policy: it must come out as it was recorded.

One line of JSON an entry, of four kinds:

* `start`: a run of the daemon began, with the record that it found (or none);
* `step`: an event that changed the state, and the actions that followed. `before` and `config` are in it when the step
  wrote a record or answered a handler (that is a *checkpoint*), otherwise they follow from the entry before it;
* `done`: what an action came to, and how long it took. Nothing follows from it;
* anything else is refused.

Each line ends with `prev`, the check of the line before it in the same run of the daemon, and `sum`, a check of everything
before it in the line. They notice damage; that the contents are true is what the replay shows: the recorded actions, the
state after them and the next checkpoint have to be exactly what the policy gives. `core` names the version of the policy
that was at work, so that a difference can be put down to it.

Times: `at` is the wall clock in ms since 1970 (it may jump), `us` the monotonic clock of this boot in microseconds.
"""

from __future__ import annotations

import hashlib
import re
from enum import Enum
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union, get_type_hints

from heartgate.core import codec, policy
from heartgate.core.codec import CodecError, to_json, value_from_json, value_to_json
from heartgate.core.model import Action, Config, Event, Record, State

HISTORY_VERSION = 1
MAX_LINE = 512 * 1024
CHECK_DIGITS = 16
START = "start"
_LINE = re.compile(rb'(\{.*,"prev":"([0-9a-f]{16}|)"),"sum":"([0-9a-f]{16})"\}\Z')
_HEAD = ("v", "core", "run", "n", "at", "us", "kind")
_TAIL = ("prev", "sum")
_KEYS = {
    START: (("event", "config", "before", "found", "boot", "actions", "after"), ()),
    "step": (("event", "actions", "after"), ("config", "before", "lost")),
    "done": (("what", "ok", "how"), ("took_us", "lost")),
}


class Start(NamedTuple):
    """In the place of the event: the daemon began, with this record. boot: this boot's id."""

    record: Optional[Record]
    boot: str


class Head(NamedTuple):
    """What every entry says about itself. line: in the file, from 1; 0 while it is not written."""

    line: int
    core: str
    run: str
    n: int
    at_ms: int
    us: int


class Step(NamedTuple):
    head: Head
    event: Union[Event, Start]
    config: Config
    before: Optional[State]
    after: State
    actions: Tuple[Action, ...]


class Done(NamedTuple):
    """what: persist, block, release, unblock, drop, rehandle, enforce, answer, flush or refused. took_us: from the order to
    the end, None where that makes no sense."""

    head: Head
    what: str
    ok: bool
    how: str
    took_us: Optional[int]


class Lost(NamedTuple):
    """The daemon says itself that so many entries before this one could not be written."""

    head: Head
    entries: int


class Trouble(str, Enum):
    ALTERED = "altered"  # does not replay, or its check does not match
    VERSION = "version"  # does not replay, and another version of the policy wrote it
    MISSING = "missing"  # entries before it are not there
    UNREADABLE = "unreadable"  # a line that is no entry, or a part of one
    NO_CHECK = "no-check"  # of a version that kept no check
    LATER = "later"  # of a later version of this format


class Refused(NamedTuple):
    """An entry that is not believed, and why. entry: as far as it could be parsed. at_ms: 0 when not known."""

    line: int
    trouble: Trouble
    reason: str
    core: str
    at_ms: int
    entry: Any


Item = Union[Step, Done, Lost, Refused]


# --- writing ---------------------------------------------------------------------------------------------------------


def start_body(config: Config, found: Optional[Record], boot: str, after: State, actions: Tuple[Action, ...]) -> Dict[str, Any]:
    return {
        "event": START,
        "config": value_to_json(config),
        "before": None,
        "found": value_to_json(found),
        "boot": boot,
        "actions": value_to_json(actions),
        "after": digest(after),
    }


def step_body(
    config: Config, before: State, event: Event, after: State, actions: Tuple[Action, ...], checkpoint: bool
) -> Dict[str, Any]:
    body: Dict[str, Any] = {"event": value_to_json(event)}
    if checkpoint:
        body.update(config=value_to_json(config), before=value_to_json(before))
    body.update(actions=value_to_json(actions), after=digest(after))
    return body


def digest(state: State) -> str:
    """Tells one state from another."""
    return _check(to_json(value_to_json(state)))


def seal_line(head: Head, kind: str, body: Dict[str, Any], previous: str, lost: int = 0) -> Tuple[bytes, str]:
    """The entry's line, and its check, which is `previous` of the next one. lost: entries before it that were not written."""
    whole = {"v": HISTORY_VERSION, "core": head.core, "run": head.run, "n": head.n, "at": head.at_ms, "us": head.us}
    whole.update(kind=kind, **body)
    if lost:
        whole["lost"] = lost
    text = to_json(whole)[:-1] + b',"prev":"' + previous.encode("ascii") + b'"'
    check = _check(text)
    return text + b',"sum":"' + check.encode("ascii") + b'"}\n', check


def _check(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:CHECK_DIGITS]


# --- reading ---------------------------------------------------------------------------------------------------------


def replay(data: bytes, core: str) -> Tuple[Item, ...]:
    """Everything in a history, in its order. core: this version of the policy. Never raises on account of the data."""
    reader = _Reader(core)
    for number, line in enumerate(data.splitlines(), 1):
        if line:
            reader.take(number, line)
    return tuple(reader.items)


class _Refuse(Exception):
    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble = trouble


class _Reader:
    """One pass. state, config: after the last step; None where the chain is not known (or interrupted)."""

    def __init__(self, core: str) -> None:
        self.items: List[Item] = []
        self._core = core
        self._last: Optional[Tuple[Head, str]] = None  # of the last entry that could be read, with its check
        self._state: Optional[State] = None
        self._config: Optional[Config] = None

    def take(self, number: int, line: bytes) -> None:
        entry: Any = None
        try:
            entry, previous, check = _open(line)
            head = _head(number, entry)
            self._follow(head, previous, entry.get("lost", 0))
            self._last = (head, check)
            self._entry(head, entry)
        except _Refuse as refusal:
            self._refuse(number, refusal.trouble, str(refusal), entry)

    def _refuse(self, number: int, trouble: Trouble, reason: str, entry: Any) -> None:
        known = entry if isinstance(entry, dict) else {}
        core, at_ms = known.get("core"), known.get("at")
        core = core if isinstance(core, str) else ""
        if trouble is Trouble.ALTERED and core and core != self._core:
            trouble = Trouble.VERSION
        self._state = self._config = None
        at_ms = at_ms if type(at_ms) is int and 0 <= at_ms <= codec.MAX_INT else 0
        self.items.append(Refused(number, trouble, reason, core, at_ms, entry))

    def _follow(self, head: Head, previous: str, lost: int) -> None:
        """Does it follow the entry before it? The first one of the file follows whatever was dropped."""
        last, self._last = self._last, None
        if last is None or last[0].run != head.run:
            if head.n != 1 and (self.items or last is not None):
                self._interrupt(head, f"the entries before number {head.n} of run {head.run} are missing")
            return
        before, check = last
        gap = head.n - before.n - 1
        if gap < 0:
            raise _Refuse(Trouble.ALTERED, f"its number {head.n} does not follow {before.n}")
        if previous != check:
            raise _Refuse(Trouble.ALTERED, "it does not name the check of the entry before it: that one is another, or gone")
        if gap and gap == lost:
            self.items.append(Lost(head, lost))
            self._state = self._config = None
        elif gap != lost:
            raise _Refuse(Trouble.ALTERED, f"{gap} entries before it are not there, and it says {lost}")

    def _interrupt(self, head: Head, reason: str) -> None:
        """Something is missing before this entry; it may be good itself."""
        self._state = self._config = None
        if not (self.items and isinstance(self.items[-1], Refused)):
            self.items.append(Refused(head.line, Trouble.MISSING, reason, head.core, head.at_ms, None))

    def _entry(self, head: Head, entry: Dict[str, Any]) -> None:
        if entry["kind"] == "done":
            self.items.append(_done(head, entry))
            return
        step = self._start(head, entry) if entry["kind"] == START else self._step(head, entry)
        if step is not None:
            self.items.append(step)
            self._state, self._config = step.after, step.config

    def _start(self, head: Head, entry: Dict[str, Any]) -> Step:
        config, found, boot = _value(entry, "config", Config), _value(entry, "found", Optional[Record]), entry["boot"]
        if entry["event"] != START or entry["before"] is not None or not codec.is_name(boot):
            raise _Refuse(Trouble.ALTERED, "it is no start of the daemon")
        after, actions = _played(lambda: policy.initial(config, found, boot, head.run))
        _compare(entry, after, actions)
        return Step(head, Start(found, boot), config, None, after, actions)

    def _step(self, head: Head, entry: Dict[str, Any]) -> Optional[Step]:
        if "before" in entry and "config" in entry:
            config, before = _value(entry, "config", Config), _value(entry, "before", State)
            if self._state is not None and to_json(value_to_json(self._state)) != to_json(entry["before"]):
                reason = _difference("what was known before it", entry["before"], value_to_json(self._state))
                raise _Refuse(Trouble.ALTERED, f"{reason}, from the entry before it")
        elif "before" in entry or "config" in entry:
            raise _Refuse(Trouble.ALTERED, "it is half a checkpoint")
        elif self._state is None or self._config is None:
            return None  # after an interruption, or at the shortened beginning of the file: nothing to replay it on
        else:
            config, before = self._config, self._state
        event = _value(entry, "event", Event)
        after, actions = _played(lambda: policy.step(config, before, event))
        _compare(entry, after, actions)
        return Step(head, event, config, before, after, actions)


def _open(line: bytes) -> Tuple[Dict[str, Any], str, str]:
    """The entry, the check of the one before it, and its own."""
    match = _LINE.match(line)
    try:
        entry = codec.parse_json(line, MAX_LINE)
    except CodecError as error:
        raise _Refuse(Trouble.UNREADABLE, f"the line is damaged or cut off: {error}") from None
    if not isinstance(entry, dict):
        raise _Refuse(Trouble.UNREADABLE, "the line is no entry of a history")
    if "v" not in entry:
        raise _Refuse(Trouble.NO_CHECK, "a version of heartgate wrote it that kept no checks")
    version = entry["v"]
    if type(version) is int and version > HISTORY_VERSION:
        raise _Refuse(Trouble.LATER, f"it has version {version}, this heartgate knows up to {HISTORY_VERSION}")
    if match is None or version != HISTORY_VERSION or type(version) is not int:
        raise _Refuse(Trouble.ALTERED, "it is not a whole entry")
    if _check(match.group(1)) != match.group(3).decode("ascii"):
        raise _Refuse(Trouble.ALTERED, "its check does not match its contents")
    return entry, match.group(2).decode("ascii"), match.group(3).decode("ascii")


def _head(number: int, entry: Dict[str, Any]) -> Head:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise _Refuse(Trouble.ALTERED, "it is of no known kind")
    required, optional = _KEYS[kind]
    lacking = [key for key in (*_HEAD, *required) if key not in entry]
    unknown = set(entry) - {*_HEAD, *required, *optional, *_TAIL}
    if lacking or unknown:
        raise _Refuse(Trouble.ALTERED, f"it lacks fields, or has too many: {', '.join([*lacking, *sorted(unknown)])[:100]}")
    numbers = [entry["n"], entry["at"], entry["us"], entry.get("lost", 0)]
    if not all(type(value) is int and 0 <= value <= codec.MAX_INT for value in numbers):
        raise _Refuse(Trouble.ALTERED, "a number in it is none")
    if not codec.is_name(entry["run"]) or not isinstance(entry["core"], str):
        raise _Refuse(Trouble.ALTERED, "a name in it is none")
    return Head(number, entry["core"], entry["run"], entry["n"], entry["at"], entry["us"])


def _done(head: Head, entry: Dict[str, Any]) -> Done:
    took = entry.get("took_us")
    good = took is None or (type(took) is int and 0 <= took <= codec.MAX_INT)
    if not good or not isinstance(entry["what"], str) or not isinstance(entry["how"], str) or type(entry["ok"]) is not bool:
        raise _Refuse(Trouble.ALTERED, "it is no outcome of an action")
    return Done(head, entry["what"], entry["ok"], entry["how"], took)


def _played(play: Any) -> Tuple[State, Tuple[Action, ...]]:
    try:
        after, actions = play()
    except Exception as error:  # noqa: BLE001 - the policy met what it never gave out itself
        raise _Refuse(Trouble.ALTERED, f"the policy cannot work on it ({type(error).__name__}: {error})") from None
    return after, actions


def _compare(entry: Dict[str, Any], after: State, actions: Tuple[Action, ...]) -> None:
    got = value_to_json(actions)
    if to_json(got) != to_json(entry["actions"]):
        raise _Refuse(Trouble.ALTERED, _difference("what followed", entry["actions"], got))
    if entry["after"] != digest(after):
        raise _Refuse(Trouble.ALTERED, "the same actions come out, but another state after them")


def _difference(what: str, recorded: Any, replayed: Any) -> str:
    """The first place in which two values differ."""
    here, there, path = recorded, replayed, what
    while True:
        if isinstance(here, dict) and isinstance(there, dict) and set(here) == set(there) and len(here) == 1:
            ((name, here),), ((_, there),) = here.items(), there.items()
            path += f", {name}"
        elif isinstance(here, (list, tuple)) and isinstance(there, (list, tuple)):
            place = next((i for i, (a, b) in enumerate(zip(here, there)) if to_json(a) != to_json(b)), min(len(here), len(there)))
            path += f" [{place + 1}]"
            if place >= min(len(here), len(there)):
                return f"{path}: {len(here)} recorded, {len(there)} by the replay"
            here, there = here[place], there[place]
        else:
            return f"{path}: recorded {_brief(here)}, by the replay {_brief(there)}"


def _brief(value: Any) -> str:
    text = to_json(value_to_json(value) if not isinstance(value, (dict, list)) else value).decode("ascii")
    return text if len(text) <= 80 else text[:77] + "..."


# --- types -----------------------------------------------------------------------------------------------------------


def _value(entry: Dict[str, Any], name: str, hint: Any) -> Any:
    try:
        value = value_from_json(entry[name])
    except (CodecError, ValueError, TypeError, RecursionError) as error:
        raise _Refuse(Trouble.ALTERED, f"its {name} cannot be read: {error}") from None
    if not fits(value, hint):
        raise _Refuse(Trouble.ALTERED, f"its {name} is no such value")
    return value


_HINTS: Dict[type, Tuple[Any, ...]] = {}


def fits(value: Any, hint: Any) -> bool:
    """Is this value of the model of that type, down to the last field?"""
    origin = getattr(hint, "__origin__", None)
    inner: Tuple[Any, ...] = getattr(hint, "__args__", ())
    if origin is Union:
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        if type(value) is not tuple:
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(fits(item, one) for item, one in zip(value, inner))
    if origin is frozenset:
        return type(value) is frozenset and all(fits(item, inner[0]) for item in value)
    if type(value) is not hint:
        return False
    if hasattr(hint, "_fields"):
        return all(fits(item, one) for item, one in zip(value, _field_hints(hint)))
    return not isinstance(value, int) or isinstance(value, bool) or abs(value) <= codec.MAX_INT


def _field_hints(kind: type) -> Tuple[Any, ...]:
    if kind not in _HINTS:
        hints = get_type_hints(kind)
        _HINTS[kind] = tuple(hints[name] for name in kind._fields)  # type: ignore[attr-defined]
    return _HINTS[kind]

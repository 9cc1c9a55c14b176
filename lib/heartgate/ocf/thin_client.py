"""What the agents share that are thin clients of the daemon: their parameters, what they say, how they ask and start it.

Few imports, since a `monitor` runs every few seconds: everything else is imported when it is needed.
"""

import os
import sys
import time

from heartgate.daemon import client
from heartgate.ocf import codes

TYPE_CHECKING = False  # typing costs as much as all of this
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable

PREFIX = "OCF_RESKEY_"
INTERVAL = PREFIX + "CRM_meta_interval"
DAEMON = "/usr/sbin/heartgated"
SYSTEMD = "/run/systemd/system"
RUNTIME_DIR = "/run/heartgate"
START_S = 30.0
STOP_S = 5.0  # well below Pacemaker's default of 20 s: a stop that runs into its timeout has the node fenced
REGISTER_S = 50.0  # with what a start of the daemon takes: the 60 s of `start` are Pacemaker's, which kills
MONITOR_S = 10.0
BACK_S = 6.0
NONSENSE = "heartgated gave an answer that makes no sense"


def log(level: str, text: str) -> None:
    """As ocf_log does: Pacemaker's executor records what an agent writes to stderr, crmsh reads the prefix."""
    sys.stderr.write(f"{level}: {text}\n")


def given() -> "dict[str, str]":
    return {name[len(PREFIX) :]: value for name, value in os.environ.items() if name.startswith(PREFIX)}


# --- asking


def is_probe() -> bool:
    """Pacemaker asks what runs; that nothing does is the ordinary state."""
    return os.environ.get(INTERVAL, "0") == "0"


def asked_patiently(line: bytes) -> bytes:
    """A daemon that was killed, or that an upgrade restarts, is back in a moment: that is no failure of the resource, whose
    recovery would stop and start it."""
    deadline = time.monotonic() + (0 if is_probe() else BACK_S)
    while True:
        try:
            return client.ask(line, MONITOR_S)
        except client.Unreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def call(question: "dict[str, object]", known: "Iterable[str]", spent_s: float = 0.0) -> "dict[str, object]":
    """Ask with all parameters of this name that were given. spent_s: of the time for it."""
    import json

    ours = {name: value for name, value in given().items() if name in known}
    line = json.dumps({**question, "params": ours}).encode("ascii") + b"\n"
    try:
        answer = json.loads(client.ask(line, REGISTER_S - spent_s))
    except client.Unreachable as error:
        return {"ok": False, "error": str(error)}
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"ok": False, "error": NONSENSE}


def told(answer: "dict[str, object]", say: "Callable[[str], None]") -> int:
    """Say what is wrong, one line for each problem."""
    if answer.get("ok") is True:
        return codes.SUCCESS
    problems = answer.get("problems")
    if isinstance(problems, list) and problems:
        for problem in problems:
            say(f"{problem.get('message')}; {problem.get('remedy')}")
        return codes.ARGS
    say(str(answer.get("error", "heartgated refused without a reason")))
    return codes.GENERIC


# --- the daemon


def ensure_daemon() -> bool:
    """Start heartgated if it does not answer; through systemd where that runs."""
    if answers():
        return True
    systemd = os.path.isdir(SYSTEMD)  # noqa: PTH112 - pathlib costs more than all of this
    if systemd:
        _run(["/usr/bin/systemctl", "start", "--no-block", "heartgated.service"])  # it would wait without a limit
    else:
        _spawn_daemon()
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if answers():
            return True
        time.sleep(0.05)
    where = "systemctl status heartgated" if systemd else f"{RUNTIME_DIR}/heartgated.log"
    log("ERROR", f"heartgated does not answer {START_S:g} s after its start; see {where}")
    return False


def answers() -> bool:
    try:
        return client.ask(client.request("ping"), 2.0).startswith(b'{"ok":true')
    except client.Unreachable:
        return False


def _run(argv: "list[str]") -> None:
    try:
        pid = os.posix_spawn(argv[0], argv, os.environ)
    except OSError as error:
        log("ERROR", f"{argv[0]}: {error.strerror}")
        return
    os.waitpid(pid, 0)


def _spawn_daemon() -> None:
    """Detached from the agent: a session of its own, so that the end of this action is not its end."""
    os.makedirs(RUNTIME_DIR, mode=0o700, exist_ok=True)  # noqa: PTH103
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, RUNTIME_DIR + "/heartgated.log", log_flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        # posix_spawn(setsid=True) does not exist in every libc that we meet; setsid(1) does, and forks.
        os.posix_spawn("/usr/bin/setsid", ["setsid", "--fork", DAEMON, "--respawn"], environment, file_actions=files)
    except OSError as error:
        log("ERROR", f"{DAEMON}: {error.strerror}")

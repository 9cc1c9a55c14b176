"""`ocf:heartgate:replica-guard`: a thin client of the daemon.

`monitor` is one round trip on the socket and imports nothing but the client; everything else is imported when it is
needed.
"""

import os
import time

from heartgate.daemon import client
from heartgate.ocf import codes
from heartgate.ocf.thin_client import (
    NONSENSE,
    PREFIX,
    STOP_S,
    answers,
    asked_patiently,
    call,
    ensure_daemon,
    given,
    is_probe,
    log,
    told,
)

# --- actions


def monitor() -> int:
    try:
        answer = asked_patiently(client.request("monitor", device=os.environ.get(PREFIX + "device", "")))
    except client.Unreachable as error:
        if is_probe():
            return codes.NOT_RUNNING
        log("ERROR", f"heartgated does not answer, so nothing is decided here (a frozen device stays frozen): {error}")
        return codes.GENERIC
    code = client.number_in(answer, b"rc")
    if code not in (codes.SUCCESS, codes.NOT_RUNNING):
        log("ERROR", client.text_in(answer, b"message") or NONSENSE)
        return codes.GENERIC
    return code


def start() -> int:
    code = _validate(local=False)
    if code != codes.SUCCESS:
        return code
    began = time.monotonic()
    if not ensure_daemon():
        return codes.GENERIC
    return told(_call("register", time.monotonic() - began), _error)


def stop() -> int:
    """Always succeeds: what is frozen stays frozen whether this resource runs or not, and a failed stop would fence the
    node."""
    try:
        client.ask(client.request("unregister", device=os.environ.get(PREFIX + "device", "")), STOP_S)
    except client.Unreachable as error:
        log("WARNING", f"heartgated was not told of the stop: {error}")
    return codes.SUCCESS


def notify() -> int:
    return codes.SUCCESS


def reload_agent() -> int:
    return start()


def validate_all() -> int:
    return _validate(local=os.environ.get("OCF_CHECK_LEVEL", "0") not in ("", "0"))


def _validate(local: bool) -> int:
    """Syntax; with local=True the machine too, as far as a daemon answers."""
    from heartgate.daemon import params

    _, problems = params.parse(given())
    for problem in problems:
        log("ERROR", f"{problem.message}; {problem.remedy}")
    if problems:
        return codes.ARGS
    if local and answers():
        return told(_call("check"), _error)
    if local:
        log("WARNING", "heartgated does not run, so the machine was not looked at")
    return codes.SUCCESS


# --- the daemon


def _call(op: str, spent_s: float = 0.0) -> "dict[str, object]":
    from heartgate.daemon.params import DEFAULTS

    return call({"op": op}, DEFAULTS, spent_s)


def _error(text: str) -> None:
    log("ERROR", text)


ACTIONS = {
    "start": start,
    "stop": stop,
    "monitor": monitor,
    "status": monitor,
    "reload-agent": reload_agent,
    "reload": reload_agent,
    "validate-all": validate_all,
    "notify": notify,
}


def main(action: str) -> int:
    run = ACTIONS.get(action)
    if run is None:
        log("ERROR", f"usage: replica-guard {{{'|'.join(sorted(ACTIONS))}|meta-data}}")
        return codes.UNIMPLEMENTED
    return run()

"""`ocf:heartgate:heartbeat-link`: a thin client of the daemon, which watches the interface and writes the node attribute.

`monitor` is one round trip on the socket and imports nothing but the client.
"""

import os
import sys
import time

from heartgate.daemon import client
from heartgate.ocf import codes
from heartgate.ocf.thin_client import (
    NONSENSE,
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

RESOURCE = "OCF_RESOURCE_INSTANCE"
DEFAULT_RESOURCE = "heartbeat-link"


def resource() -> str:
    """The id of the resource; a clone's instances may have ":0" behind it."""
    return os.environ.get(RESOURCE, "").split(":", 1)[0] or DEFAULT_RESOURCE


def exit_reason(text: str) -> None:
    """As ocf_exit_reason does: crm_mon and pcs show it."""
    log("ERROR", text)
    sys.stderr.write(f"ocf-exit-reason:{text}\n")


# --- actions


def monitor() -> int:
    probe = "1" if is_probe() else "0"
    try:
        answer = asked_patiently(client.request("link-monitor", resource=resource(), probe=probe))
    except client.Unreachable as error:
        if probe == "1":
            return codes.NOT_RUNNING
        exit_reason(f"heartgated does not answer, so nobody watches this interface: {error}")
        return codes.GENERIC
    code = client.number_in(answer, b"rc")
    if code == codes.DEGRADED and probe == "0":
        exit_reason(client.text_in(answer, b"message") or NONSENSE)
        return code
    if code == codes.DEGRADED:
        return codes.SUCCESS  # a probe asks whether it is watched
    if code not in (codes.SUCCESS, codes.NOT_RUNNING):
        exit_reason(client.text_in(answer, b"message") or NONSENSE)
        return codes.GENERIC
    return code


def start() -> int:
    code = _validate(local=False)
    if code != codes.SUCCESS:
        return code
    began = time.monotonic()
    if not ensure_daemon():
        return codes.GENERIC
    return _told(_call("link-register", time.monotonic() - began))


def stop() -> int:
    """Always succeeds, whatever the parameters are: nothing depends on it, and a failed stop would fence the node."""
    try:
        client.ask(client.request("link-unregister", resource=resource()), STOP_S)
    except client.Unreachable as error:
        log("WARNING", f"heartgated was not told of the stop: {error}")
    return codes.SUCCESS


def reload_agent() -> int:
    return start()


def validate_all() -> int:
    return _validate(local=os.environ.get("OCF_CHECK_LEVEL", "0") not in ("", "0"))


def _validate(local: bool) -> int:
    """Syntax; with local=True the interface too, as far as a daemon answers."""
    from heartgate.daemon import link_params

    _, problems = link_params.parse(given())
    for problem in problems:
        exit_reason(f"{problem.message}; {problem.remedy}")
    if problems:
        return codes.ARGS
    if not local:
        return codes.SUCCESS
    if not answers():
        log("WARNING", "heartgated does not run, so the interface was not looked at")
        return codes.SUCCESS
    return _told(_call("link-check"))


# --- the daemon


def _call(op: str, spent_s: float = 0.0) -> "dict[str, object]":
    from heartgate.daemon.link_params import DEFAULTS

    return call({"op": op, "resource": resource()}, DEFAULTS, spent_s)


def _told(answer: "dict[str, object]") -> int:
    """One line for each finding. What the rules do not like of this host's interface is never said to be wrong everywhere."""
    notes = answer.get("notes") if answer.get("ok") is True else None
    for note in notes if isinstance(notes, list) else ():
        log("WARNING", str(note))
    return told(answer, exit_reason)


ACTIONS = {
    "start": start,
    "stop": stop,
    "monitor": monitor,
    "status": monitor,
    "reload-agent": reload_agent,
    "reload": reload_agent,
    "validate-all": validate_all,
}


def main(action: str) -> int:
    run = ACTIONS.get(action)
    if run is None:
        log("ERROR", f"usage: heartbeat-link {{{'|'.join(sorted(ACTIONS))}|meta-data}}")
        return codes.UNIMPLEMENTED
    return run()

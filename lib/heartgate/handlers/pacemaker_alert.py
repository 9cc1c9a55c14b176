"""`pacemaker-alert`: Pacemaker runs it for whatever happens in the cluster. Of a fencing it tells the daemon, which then reads
the history.

Always exits with 0, without having waited for anything: an alert that fails or hangs helps nobody, and the daemon finds the fencing
without it too. What is wrong is said to stderr, which Pacemaker logs.
"""

import os

from heartgate.daemon import client

KIND = "CRM_alert_kind"


def complain(text: str) -> None:
    try:  # noqa: SIM105 - contextlib loads collections and functools, for one line
        os.write(2, f"heartgate pacemaker-alert: {text}\n".encode("ascii", "replace"))
    except OSError:
        pass


def alert(path: str = client.ALERT_SOCKET) -> int:
    kind = os.environ.get(KIND, "")
    if not kind:
        complain(f"{KIND} is not set: only Pacemaker runs this (pcs alert create path=...)")
    elif kind == "fencing":
        try:
            client.nudge(path)
        except client.Unreachable as error:
            complain(f"heartgated is not told, and finds the fencing when it reads the history next: {error}")
    return 0

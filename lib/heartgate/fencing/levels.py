"""Whether anything cuts the power beside this agent, by the CIB that this node has itself.

Read while the daemon is asked, so that the answer is no later for it. What cannot be read or understood keeps nobody from being
shot: Pacemaker's own trouble must not leave two nodes that wait for each other.
"""

from __future__ import annotations

import threading
import time
from typing import Sequence

from heartgate.adapters.process import Completed, run

CIB_S = 3.0
USAGE = 64  # Pacemaker's exit code for an option that it does not have
LOCAL = "--local"


class Levels:
    """Reading begins at once. reason, note: after wait()."""

    def __init__(self, target: str, query: Sequence[str]) -> None:
        self.reason = ""  # why this agent's yes could count as a completed fencing
        self.note = f"the fencing levels of {target} are not known: no answer within {CIB_S:g} s"
        self._target = target
        self._query = query
        self._deadline = time.monotonic() + CIB_S
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self) -> Levels:
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return self

    def _read(self) -> None:
        try:
            done = self._asked()
            if done.ok:
                self._judge(done.stdout)
            else:
                self.note = f"the fencing levels of {self._target} are not known: {self._query[0]}: {done.brief()}"
        except Exception as error:  # noqa: BLE001 - a fault of ours must not decide anything
            self.note = f"the fencing levels of {self._target} are not known ({type(error).__name__}: {error})"

    def _asked(self) -> Completed:
        done = run(self._query, timeout_s=CIB_S)
        if done.rc != USAGE or LOCAL not in self._query:
            return done
        rest = [word for word in self._query if word != LOCAL]
        return run(rest, timeout_s=max(0.1, self._deadline - time.monotonic()))

    def _judge(self, text: str) -> None:
        from heartgate.checks import cib_conf, fencing_levels  # here, beside the question to the daemon

        self.reason, self.note = fencing_levels.why_alone(cib_conf.parse(text), self._target), ""

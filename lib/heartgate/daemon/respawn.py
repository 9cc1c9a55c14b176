"""`heartgated --respawn`: where no systemd restarts it, a small parent does.

The parent does nothing else, so that nothing of it can fail; if it is killed, the daemon goes on without it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import List

PAUSES_S = (0.1, 0.3, 1.0, 3.0)
GOOD_RUN_S = 60.0  # after that a death is the first one again


def respawn(argv: List[str], final: tuple[int, ...]) -> int:
    """Run argv until it ends with one of the codes `final`, again and again. SIGTERM and SIGINT are passed on."""
    child = 0

    def pass_on(number: int, frame: object) -> None:
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    deaths = 0
    while True:
        started = time.monotonic()
        child = os.posix_spawn(argv[0], argv, os.environ, setsigdef=[signal.SIGTERM, signal.SIGINT])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        child = 0
        if code in final:
            return code
        deaths = 1 if time.monotonic() - started > GOOD_RUN_S else deaths + 1
        sys.stderr.write(f"heartgated ended with {code}, is started again\n")
        time.sleep(PAUSES_S[min(deaths, len(PAUSES_S)) - 1])

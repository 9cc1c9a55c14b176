"""Processes that die with us, and the lab's own network namespace."""

from __future__ import annotations

import queue
import subprocess
import threading
from typing import IO, Any, Callable, List, Optional, Sequence, Tuple

from tests.lab.api import LabError


class _Spawner(threading.Thread):
    """Starts every child from one thread that lives on: PR_SET_PDEATHSIG follows the *thread* that forked."""

    def __init__(self) -> None:
        super().__init__(name="lab-spawner", daemon=True)
        self._jobs: queue.Queue[Tuple[Callable[[], Any], queue.Queue[Any]]] = queue.Queue()
        self.start()

    def run(self) -> None:
        while True:
            job, answer = self._jobs.get()
            try:
                answer.put((job(), None))
            except BaseException as error:  # handed to the caller
                answer.put((None, error))

    def do(self, job: Callable[[], Any]) -> Any:
        answer: queue.Queue[Any] = queue.Queue()
        self._jobs.put((job, answer))
        value, error = answer.get()
        if error is not None:
            raise error
        return value


_spawner: Optional[_Spawner] = None
_spawner_lock = threading.Lock()


def spawn(argv: Sequence[str], *, stdout: Any = subprocess.DEVNULL, stderr: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a child that the kernel kills when this process ends, however it ends."""
    global _spawner
    with _spawner_lock:
        if _spawner is None or not _spawner.is_alive():
            _spawner = _Spawner()
    full = ["setpriv", "--pdeathsig", "KILL", *argv]
    process: subprocess.Popen[bytes] = _spawner.do(
        lambda: subprocess.Popen(full, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True)
    )
    return process


def end(process: subprocess.Popen[bytes], timeout_s: float = 10.0) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(timeout_s)


class NetNamespace:
    """A network namespace with loopback up, held by a sleeping child: no frame leaves it, ports never clash."""

    def __init__(self) -> None:
        self._holder = spawn(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._holder.stdout is not None
        out: IO[bytes] = self._holder.stdout
        first = out.readline().strip()
        if first != b"ready":
            end(self._holder)
            raise LabError(f"cannot make a network namespace (root needed): {first.decode(errors='replace')}")

    def prefix(self) -> List[str]:
        """What to put before a command to run it inside."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def run(self, argv: Sequence[str]) -> None:
        outcome = subprocess.run([*self.prefix(), *argv], capture_output=True, text=True, timeout=10)
        if outcome.returncode != 0:
            raise LabError(f"{' '.join(argv)} ended with {outcome.returncode}: {outcome.stderr.strip()}")

    def close(self) -> None:
        end(self._holder)
        if self._holder.stdout is not None:
            self._holder.stdout.close()

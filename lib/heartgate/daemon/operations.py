"""What a guard does to its replica, in workers: one driver operation a device at a time, each with a deadline.

The dangerous one is `release`: the driver ends the users before it lets I/O fail. If it cannot (users inside the
kernel, no end in sight) this node resets itself, which is as safe and costs its other services.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Union

from heartgate.adapters.base import NOT_THAT, NOT_WANTED, Driver, Outcome
from heartgate.core.fold import FAILED_BLOCK
from heartgate.core.model import UNKNOWN_REPLICA, BlockDone, Link, Replica, Role, Standing
from heartgate.daemon.history import now_us
from heartgate.daemon.loop import Timer
from heartgate.daemon.services import FlushResult, why
from heartgate.daemon.workers import TimedOut

if TYPE_CHECKING:
    from heartgate.daemon.guard import Guard

BLOCK_S = 10.0
RELEASE_S = 30.0
ENFORCE_S = 20.0
SHORT_S = 10.0
RETRIES = 3
BLOCK_TRIES = 5
RETRY_PAUSE_S = 1.0
ENFORCE_FIRST_S = 2.0
ENFORCE_LONGEST_S = 16.0

Answer = Union[Outcome, Exception]


class Operations:
    """Loop thread only; the work itself is done in the device's lane."""

    def __init__(self, guard: Guard, driver: Driver) -> None:
        self.driver = driver
        self.flushed: Optional[Dict[str, object]] = None  # the last flush, as shown by status
        self._guard = guard
        self._services = guard.services
        self._blocks = 0  # under way
        self._enforcing = False
        self._enforce_again = False
        self._enforce_pause = ENFORCE_FIRST_S
        self._enforce_timer: Optional[Timer] = None
        self._flush_epoch: Optional[int] = None
        self._releasing = False
        self._release_began = False  # nothing else is before it in the lane any more
        self._took_us = 0  # of the operation whose answer is being looked at

    # --- orders of the policy

    def block(self, token: int, left: int = BLOCK_TRIES) -> None:
        """Tried again by itself: a peer waits for it, and has this node fenced in the end."""

        def done(answer: Answer) -> None:
            ok = isinstance(answer, Outcome) and answer.ok
            self._blocks -= 1
            self._note("block", ok, answer)
            if ok or left <= 1 or not self._still_wanted(token):
                self._guard.handle(BlockDone(token, ok))
                self._enforce()
            else:
                self._services.loop.after(RETRY_PAUSE_S, lambda: self.block(token, left - 1))

        def work(driver: Driver, replica: Replica) -> Outcome:
            if not self._is_blocked():  # it waited for another operation, and has come too late: it would outdate a server
                return Outcome(False, "not blocked any more")
            return driver.block(replica, BLOCK_S)

        self._blocks += 1
        if self._release_began:
            self._look_first(work, done)
        else:
            self._do(work, done, BLOCK_S)

    def _look_first(self, work: Callable[[Driver, Replica], Outcome], done: Callable[[Answer], None]) -> None:
        """The release may take longer than a peer waits, and afterwards a look says the same: at every moment of it the replica is
        frozen, or has neither disk nor connection. A connection that comes back voids the answer, as it does every other one."""
        driver, ordered_us = self.driver, now_us()

        def looked(answer: Answer) -> None:
            if isinstance(answer, Outcome) and answer.ok:
                self._took_us = now_us() - ordered_us
                done(answer)
            else:
                self._do(work, done, BLOCK_S)

        def look() -> Outcome:
            return driver.holds(BLOCK_S) if self._is_blocked() else Outcome(False, NOT_WANTED)

        self._services.workers.submit(f"holds:{self._guard.device}", look, looked, BLOCK_S)

    def release(self) -> None:
        if self._releasing:
            return
        if self._guard.params.on_blocked_promoted == "fence":
            self._reset_self("on_blocked_promoted=fence")
            return
        self._releasing = True
        self._release(RETRIES)

    def unblock(self) -> None:
        self._retry("unblock", lambda driver, replica: driver.unblock(replica, SHORT_S), self._may_serve)

    def drop(self, peer: str, incarnation: int) -> None:
        """Only that connection: one that was established meanwhile is another one, and stays."""

        def wanted() -> bool:
            link = self._replica.peer(peer)
            return link.incarnation == incarnation and link.link is not Link.DOWN

        def work(driver: Driver, replica: Replica) -> Outcome:
            # Asked once more by the driver right before it cuts: what it reads first takes time, and the kernel connects again.
            return driver.drop(peer, SHORT_S, wanted)

        self._retry("drop", work, wanted, stale=NOT_THAT)

    def rehandle(self) -> None:
        def wanted() -> bool:
            return self._may_serve() and self._replica.frozen is not False

        self._retry("rehandle", lambda driver, replica: driver.rehandle(replica, SHORT_S), wanted)

    def flush(self, epoch: int) -> None:
        """Remembered until the handlers have returned and the replica is not frozen: flushing a frozen device would
        hang."""
        self._flush_epoch = epoch
        self.flush_if_ready()

    # --- facts

    def facts_changed(self) -> None:
        self.flush_if_ready()
        if self._guard.state.record.standing is Standing.BLOCKED:
            self._enforce_pause = ENFORCE_FIRST_S
            self._enforce()

    def flush_if_ready(self) -> None:
        epoch = self._flush_epoch
        if epoch is None or self._replica.frozen is not False or self._guard.outside.handlers(self._guard.device):
            return
        if self._about_to_freeze():
            return
        self._flush_epoch = None
        self._flush_now(epoch)

    def _about_to_freeze(self) -> bool:
        """The verdict (a fencing) was faster than the kernel, which will freeze when it notices that the peer is gone."""
        guard, record = self._guard, self._guard.state.record
        gone = [node for node in guard.config.nodes if node != guard.config.me and node not in record.in_sync]
        return any(self._replica.peer(node).link is not Link.DOWN for node in gone)

    # --- release and its last resort

    def _release(self, left: int) -> None:
        def done(answer: Answer) -> None:
            ok = isinstance(answer, Outcome) and answer.ok
            self._release_began = False
            self._note("release", ok, answer)
            if ok or not self._must_be_released():
                self._releasing = False
            elif _is_hopeless(answer) or left <= 1:
                self._releasing = False
                self._reset_self(f"the blocked replica could not be released: {why(answer)}")
            else:
                self._services.loop.after(RETRY_PAUSE_S, lambda: self._release(left - 1))

        def work(driver: Driver, replica: Replica) -> Outcome:
            if not self._must_be_released():  # as for `block`: a meeting may have chosen this replica while the order waited
                return Outcome(True, NOT_WANTED)
            self._release_began = True
            return driver.release(replica, RELEASE_S, self._must_be_released)

        if not self._must_be_released():
            self._releasing = False
            return
        self._do(work, done, RELEASE_S)

    def _must_be_released(self) -> bool:
        replica = self._replica
        return self._is_blocked() and replica.role is not Role.SECONDARY and replica.frozen is not False

    def _reset_self(self, reason: str) -> None:
        guard = self._guard
        persisted = guard.persisted is not None and guard.persisted.standing is Standing.BLOCKED
        if not (persisted and self._must_be_released()):
            return
        self._services.journal.send(
            "self-reset", f"{guard.device}: this node resets itself: {reason}", device=guard.device, reason=reason
        )
        self._services.world.self_reset()

    # --- staying blocked

    def _enforce(self) -> None:
        if not self._is_blocked() or self._replica == UNKNOWN_REPLICA:
            return
        if self._block_is_due():  # it does what is needed now, and a peer waits for it: nothing goes before it in the lane
            return
        if self._enforcing:
            self._enforce_again = True
            return
        self._enforcing = True
        if self._enforce_timer is not None:
            self._enforce_timer.cancel()
        self._do(self._enforce_work, self._enforced, ENFORCE_S)

    def _block_is_due(self) -> bool:
        ordered = self._guard.state.blocking
        return self._blocks > 0 or (ordered is not None and ordered.token != FAILED_BLOCK)

    def _enforce_work(self, driver: Driver, replica: Replica) -> Outcome:
        if not self._is_blocked():  # as for `block`: readmitted while this waited
            return Outcome(True, "not blocked any more")
        return driver.enforce_blocked(replica, ENFORCE_S)

    def _enforced(self, answer: Answer) -> None:
        self._enforcing = False
        ok = isinstance(answer, Outcome) and answer.ok
        if not ok:
            self._note("enforce", False, answer)
        if not self._is_blocked():
            return
        if self._enforce_again:
            self._enforce_again = False
            self._enforce()
            return
        # Nothing changes and nothing is wrong: look less often, a hundred blocked devices must not keep the node busy.
        self._enforce_timer = self._services.loop.after(self._enforce_pause, self._enforce)
        self._enforce_pause = min(self._enforce_pause * 2, ENFORCE_LONGEST_S) if ok else ENFORCE_FIRST_S

    # --- flushing

    def _flush_now(self, epoch: int) -> None:
        """Flush every target, one after the other; the results are recorded and journalled."""
        specs, deadline_s, device = self._guard.params.flush, self._guard.params.flush_timeout_s, self._guard.device
        world, store, started = self._services.world, self._services.store, int(time.time() * 1000)

        def work() -> List[Dict[str, object]]:
            results = [_flushed(world.flush_target(spec).flush(device, deadline_s)) for spec in specs]
            store.save_note(device, "flush", {"at": started, "epoch": epoch, "results": results})
            return results

        def done(answer: Union[List[Dict[str, object]], Exception]) -> None:
            results = answer if isinstance(answer, list) else [_flushed_badly(" ".join(specs), why(answer))]
            self.flushed = {"at": started, "epoch": epoch, "results": results}
            self._tell_flushed(epoch, results)

        self._services.workers.submit(f"flush:{device}", work, done, deadline_s * max(1, len(specs)))

    def _tell_flushed(self, epoch: int, results: List[Dict[str, object]]) -> None:
        device, failed = self._guard.device, [result for result in results if not result["ok"]]
        for result in results:
            self._services.journal.send(
                "flush" if result["ok"] else "flush-failed",
                f"{device}: flush of {result['target']}: {result['how']} ({result['elapsed_ms']} ms)",
                device=device,
                epoch=epoch,
                target=result["target"],
            )
            how, took_us = f"{result['target']}: {result['how']}", int(str(result["elapsed_ms"])) * 1000
            self._guard.history.done("flush", bool(result["ok"]), how, took_us)
        if results:
            self._guard.outside.publish(f"{device}-flush", "failed" if failed else None)

    # --- helpers

    def _still_wanted(self, token: int) -> bool:
        blocking = self._guard.state.blocking
        return self._is_blocked() and blocking is not None and blocking.token == token

    @property
    def _replica(self) -> Replica:
        return self._guard.state.replica

    def _is_blocked(self) -> bool:
        return self._guard.state.record.standing is Standing.BLOCKED and not self._guard.ended

    def _may_serve(self) -> bool:
        return self._guard.state.record.standing in (Standing.SYNCED, Standing.SOLO) and not self._guard.ended

    def _do(
        self, work: Callable[[Driver, Replica], Outcome], done: Callable[[Answer], None], deadline_s: float
    ) -> None:
        driver, guard, ordered_us = self.driver, self._guard, now_us()

        def timed(answer: Answer) -> None:
            self._took_us = now_us() - ordered_us
            done(answer)

        # The facts are read when the operation starts, not when it was ordered: others may run before it.
        self._services.workers.submit(
            f"driver:{guard.device}", lambda: work(driver, guard.state.replica), timed, deadline_s
        )

    def _retry(
        self,
        name: str,
        work: Callable[[Driver, Replica], Outcome],
        wanted: Callable[[], bool],
        left: int = RETRIES,
        stale: str = NOT_WANTED,
    ) -> None:
        """`wanted` is asked when the operation starts as well: the order may have waited in the lane."""

        def done(answer: Answer) -> None:
            ok = isinstance(answer, Outcome) and answer.ok
            self._note(name, ok, answer)
            if not ok and left > 1:
                self._services.loop.after(
                    RETRY_PAUSE_S, lambda: self._retry(name, work, wanted, left - 1, stale) if wanted() else None
                )

        self._do(lambda driver, replica: work(driver, replica) if wanted() else Outcome(True, stale), done, SHORT_S)

    def _note(self, name: str, ok: bool, answer: Answer) -> None:
        device = self._guard.device
        self._services.journal.send(
            "operation" if ok else "action-failed",
            f"{device}: {name}: {why(answer)}",
            device=device,
            epoch=self._guard.state.record.epoch,
            action=name,
            how=why(answer),
        )
        self._guard.history.done(name, ok, why(answer), self._took_us)


def _is_hopeless(answer: Answer) -> bool:
    """Whether trying the release again is in vain. It is not if something slow before it has taken its time."""
    if isinstance(answer, TimedOut):
        return answer.ran_s is not None and answer.ran_s >= RELEASE_S
    return why(answer).startswith(("kernel-users", "timeout"))


def _flushed(result: FlushResult) -> Dict[str, object]:
    return {"target": result.target, "ok": result.ok, "how": result.how, "elapsed_ms": int(result.elapsed_ms)}


def _flushed_badly(target: str, how: str) -> Dict[str, object]:
    return {"target": target, "ok": False, "how": how, "elapsed_ms": 0}



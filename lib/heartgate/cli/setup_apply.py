"""Carrying a set-up out: each step is seen to have had its effect before the next begins; it stops at the first surprise."""

from __future__ import annotations

import json
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Protocol, Tuple

from heartgate.adapters import process
from heartgate.adapters.setup_node import SetupError
from heartgate.checks import setup_tools
from heartgate.checks.setup_model import Action, Command, Facts, SetupPlan, State, Step, Wish
from heartgate.cli import setup_show

if TYPE_CHECKING:
    from heartgate.checks.findings import Finding

OK, STOPPED = 0, 1
COMMAND_S = 180.0
POLL_S = 1.0
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Clock = Any


class Surprise(Exception):
    """Why it stops, for a person."""


class Hands(Protocol):
    """What carries actions out: `setup_node.Nodes`."""

    def put(self, node: str, path: str, text: str, mode: int) -> None: ...
    def run(self, node: str, argv: Tuple[str, ...], stdin: str, timeout_s: float) -> process.Completed: ...


class Source(Protocol):
    """What the plan is made from, again and again: `setup.Prepared`."""

    wish: Wish
    findings: Tuple[Finding, ...]

    @property
    def nodes(self) -> Any: ...
    def look(self) -> Facts: ...
    def plan(self, facts: Facts) -> SetupPlan: ...


class Run:
    """One run of --apply. clock, sleep: of a monotonic clock in seconds (tests give their own)."""

    def __init__(
        self, source: Source, plan: SetupPlan, as_json: bool, clock: Any = time.monotonic, sleep: Any = time.sleep
    ) -> None:
        self._source = source
        self._hands: Hands = source.nodes
        self._announced = plan
        self._now = plan
        self._json = as_json
        self._clock, self._sleep = clock, sleep
        self._done: List[str] = []
        self._before = [step.ident for step in plan.steps if step.state is State.DONE]
        self._begun = ""
        self._signal: Optional[int] = None

    def carry_out(self) -> int:
        before = {number: signal.signal(number, self._note) for number in WATCHED}
        why = ""
        try:
            for step in self._announced.steps:
                self._one(step.ident)
        except Surprise as surprise:
            why = str(surprise)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self._report(why)
        return STOPPED if why else OK

    def _note(self, number: int, _frame: Optional[FrameType]) -> None:
        if self._signal is None:
            say(f"{signal.Signals(number).name}: stopping as soon as the present command has ended")
        self._signal = number

    def _check_signal(self) -> None:
        if self._signal is not None:
            raise Surprise(f"interrupted by {signal.Signals(self._signal).name}")

    # --- one step

    def _one(self, ident: str) -> None:
        step = self._present(ident)
        if step.state is State.DONE:
            if ident not in self._before:  # a step before it, or somebody else
                self._done.append(ident)
            say(f"{ident}: done already")
            return
        self._check_signal()
        if step.state is State.BY_HAND:
            raise Surprise(f"{ident} is for you to do:\n{_indented(step.by_hand)}")
        say(f"{ident}: {step.expects}")
        self._begun = ident
        for action in step.actions if step.state is State.TODO else ():
            self._check_signal()
            self._act(action)
        self._wait(step)
        self._begun = ""
        self._done.append(ident)
        self._still_as_announced()

    def _present(self, ident: str) -> Step:
        step = self._now.step(ident)
        if step is None:
            raise Surprise(f"the step {ident} is not in the plan any more: something else has changed the cluster")
        return step

    def _act(self, action: Action) -> None:
        say("  " + setup_show.shown(action, self._source.wish.local)[0])
        if not isinstance(action, Command):
            try:
                self._hands.put(action.node, action.path, action.text, action.mode)
            except SetupError as error:
                raise Surprise(str(error)) from error
            return
        done = self._hands.run(action.node, action.argv, action.stdin, COMMAND_S)
        if not done.ok:
            raise Surprise(f"{action.argv[0]} on {action.node} ended with {done.rc}:\n{_indented(_said(done))}")

    def _wait(self, step: Step) -> None:
        """Look until the step is done. Its own failures end the waiting, and so does the time."""
        deadline = self._clock() + step.wait_s
        trouble = ""
        while True:
            try:
                self._now = self._source.plan(self._source.look())
                trouble = ""
            except SetupError as error:
                trouble = str(error)
            now = self._now.step(step.ident) or step
            if not trouble and self._now.step(step.ident) is None:
                trouble = "the cluster does not tell what it has (cibadmin --query)"
            if not trouble and now.state is State.DONE:
                return
            if not trouble and now.failures:
                primitive = now.failures[0].partition(" ")[0]
                remedy = f"when it is mended: {setup_tools.cleanup(self._source.wish.tool, primitive)}"
                raise Surprise(f"{step.ident} does not work:\n{_indented(chr(10).join((*now.failures, remedy)))}")
            self._check_signal()
            if self._clock() >= deadline:
                seen = trouble or now.seen or now.by_hand or "it is as before"
                raise Surprise(f"{step.ident}: after {step.wait_s:.0f} s it is not so that {step.expects}; now: {seen}")
            self._sleep(POLL_S)

    def _still_as_announced(self) -> None:
        """What was done stays done, and what is to come is what was announced."""
        for announced in self._announced.steps:
            now = self._present(announced.ident)
            if announced.ident in (*self._done, *self._before):
                if now.state is not State.DONE:
                    raise Surprise(
                        f"{announced.ident} was done and is {now.state.value} now ({now.seen or now.by_hand or now.expects})"
                    )
            elif now.state is State.TODO and now.actions != announced.actions:
                raise Surprise(f"{announced.ident} has other commands now than in the beginning: the cluster changed meanwhile")
        if self._now.problems:
            raise Surprise(self._now.problems[0].what)

    # --- afterwards

    def _report(self, why: str) -> None:
        left = [step.ident for step in self._announced.steps if step.ident not in (*self._done, *self._before)]
        if self._json:
            data: Dict[str, Any] = setup_show.as_data(self._source.wish, self._now, self._source.findings)
            data.update(
                stopped=why or None, done_now=self._done, done_before=self._before, not_done=left, begun=self._begun or None
            )
            print(json.dumps(data, indent=2, sort_keys=True))
        if not why:
            say(setup_show.closing(self._source.wish, self._now))
            return
        say(f"heartgate setup: stopped: {why}")
        say(f"done by this run: {', '.join(self._done) or 'nothing'}")
        if self._begun:
            say(f"begun: {self._begun}: what of it has had its effect is seen by the next run")
        say(f"not done: {', '.join(ident for ident in left if ident != self._begun) or 'nothing else'}")
        say("To go on: run the same command again when the cause is away. It looks first, and what is done stays done.")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _said(done: process.Completed) -> str:
    lines = [line.rstrip()[:300] for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    return "\n".join(lines[:12]) or "it said nothing"

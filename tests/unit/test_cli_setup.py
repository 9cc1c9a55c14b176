"""`heartgate setup` as a person calls it: bad words, what --apply does, and where it stops.

The cluster is a stand-in that takes exactly the commands of the plan, in their order, and changes when the last one of a step has
been run; tests/ns/test_setup.py has the real one.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import pytest

from heartgate.adapters.process import Completed
from heartgate.adapters.setup_node import SetupError
from heartgate.checks.findings import Finding
from heartgate.checks.setup_model import Command, Facts, SetupPlan, State, Wish
from heartgate.checks.setup_plan import make_plan
from heartgate.cli import main as command
from heartgate.cli.setup import RANK_DELAY_MAX_S
from heartgate.cli.setup_apply import Run
from heartgate.fencing import options as fencing_options
from tests.unit import setup_world as world
from tests.unit.setup_world import BARE, DONE, World, dump

OK = Completed(0, "", "")
# What each step changes, in the order of the plan.
EFFECTS: Dict[str, Dict[str, Any]] = {
    "link-sync0": {"links": DONE.links},
    "beat-hb0": {"beats": ("hb0",)},
    "beat-hb1": {"beats": ("hb0", "hb1")},
    "drbd": {"drbd": DONE.drbd, "trial": None},
    "guard": {"guarded": True},
    "gate": {"gated": True},
    "rule": {"constraints": world.RULE},
}
STEPS = list(EFFECTS)


class Cluster:
    """Hands and source at once."""

    def __init__(self, **changes: Any) -> None:
        self.state: Dict[str, Any] = {"beats": (), "guarded": False, "gated": False}
        self.world = BARE.but(trial=dump(world.FENCING, world.HANDLERS)).but(**changes)
        self.ran: List[str] = []
        self.findings: Tuple[Finding, ...] = ()
        self.before: Optional[Callable[[int], Optional[Completed]]] = None  # told the number of each command
        self.effects = dict(EFFECTS)
        self.mute: Tuple[str, ...] = ()  # steps whose commands have no effect
        self.looks: List[Optional[str]] = []  # what the next looks fail with
        self.now_s = 0.0
        self.wish: Wish = self.made().wish()
        self.first = self.plan(self.look())
        self.left = {step.ident: len(step.actions) for step in self.first.steps}

    @property
    def nodes(self) -> Cluster:
        return self

    def made(self) -> World:
        kinds = [f"beat-{name}" for name in self.state["beats"]]
        attributes = {f"heartgate-link-{name}": ("1", "1") for name in self.state["beats"]}
        resources = world.IPMI + world.DRBD
        resources += "".join(world.clone(kind, "heartbeat-link", interface=kind[5:]) for kind in kinds)
        if self.state["guarded"]:
            resources += world.GUARD
            attributes["heartgate-r0"] = ("synced", "synced")
        changes: Dict[str, Any] = {"resources": resources, "attributes": attributes}
        if self.state["gated"]:
            changes.update(resources=resources + world.GATE, topology=world.LEVELS, started=DONE.started)
        return self.world.but(**{**changes, **{k: v for k, v in self.state.items() if k not in ("beats", "guarded", "gated")}})

    # --- as `setup.Prepared`

    def look(self) -> Facts:
        failure = self.looks.pop(0) if self.looks else None
        if failure:
            raise SetupError(failure)
        return self.made().facts()

    def plan(self, facts: Facts) -> SetupPlan:
        return make_plan(self.wish, facts)

    # --- as `setup_node.Nodes`

    def put(self, node: str, path: str, text: str, mode: int) -> None:
        self._took(f"put {node} {path}", "drbd")

    def run(self, node: str, argv: Sequence[str], stdin: str, timeout_s: float) -> Completed:
        owner = next(
            (s.ident for s in self.first.steps if any(isinstance(a, Command) and a.argv == argv for a in s.actions)), None
        )
        assert owner, f"a command that was not announced: {argv}"
        answer = self.before(len(self.ran)) if self.before else None
        if answer is None or answer.ok:
            self._took(" ".join(argv), owner)
        return answer or OK

    def _took(self, what: str, ident: str) -> None:
        self.ran.append(what)
        self.left[ident] -= 1
        if not self.left[ident] and ident not in self.mute:
            self.state.update(self.effects[ident])

    # --- one run

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def apply(self, as_json: bool = False) -> int:
        plan = self.plan(self.look())
        self.left = {step.ident: len(step.actions) for step in plan.steps}
        self.first = plan
        return Run(self, plan, as_json, clock=lambda: self.now_s, sleep=self.sleep).carry_out()


def finished(cluster: Cluster) -> bool:
    return cluster.plan(cluster.look()).finished


def test_everything_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    announced = [a for step in cluster.first.steps for a in step.actions]
    assert cluster.apply() == 0
    told = capsys.readouterr().err
    assert len(cluster.ran) == len(announced) and finished(cluster)
    assert [line.split(":")[0] for line in told.splitlines() if not line.startswith(" ")][:4] == [
        "cluster", "link-hb0", "link-hb1", "link-sync0"]  # fmt: skip
    assert "Everything is done" in told
    assert cluster.apply() == 0 and len(cluster.ran) == len(announced), "a second run does nothing"
    assert capsys.readouterr().err.count("done already") == len(cluster.first.steps)


COMMANDS = 2 + sum(isinstance(a, Command) for step in Cluster().first.steps for a in step.actions)


@pytest.mark.parametrize("number", range(COMMANDS))
def test_a_command_that_fails_stops_it(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """At every command in turn: nothing after it is begun, and the next run goes on."""
    cluster = Cluster()

    def fails(at: int) -> Optional[Completed]:
        return Completed(3, "", "the tool's own words\n") if at == number else None

    cluster.before = fails
    code = cluster.apply()
    if code == 0:
        assert number in (3, 4), "the two files of DRBD are no commands"
        return
    told = capsys.readouterr().err
    assert code == 1 and "the tool's own words" in told and "ended with 3" in told and len(cluster.ran) == number
    assert "To go on: run the same command again" in told and "not done: " in told
    cluster.before = None
    assert cluster.apply() == 0 and finished(cluster)


@pytest.mark.parametrize("number", range(COMMANDS))
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_command_and_stops_there(
    which: int, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """At every command in turn. A step of several commands has no effect before its last one: nothing is half done."""
    cluster = Cluster()

    def interrupts(at: int) -> None:
        if at == number:
            os.kill(os.getpid(), which)

    cluster.before = interrupts
    code = cluster.apply()
    told = capsys.readouterr().err
    if code == 0:
        assert number >= COMMANDS - 1 or number in (3, 4)
        return
    assert f"interrupted by {signal.Signals(which).name}" in told and len(cluster.ran) == number + 1
    now = cluster.plan(cluster.look())
    changed = [step.ident for step in now.steps if step.ident in STEPS and step.state is State.DONE]
    assert changed == STEPS[: len(changed)], "a step without those before it"
    assert signal.getsignal(which) in (signal.SIG_DFL, signal.default_int_handler)
    cluster.before = None
    assert cluster.apply() == 0 and finished(cluster)


@pytest.mark.parametrize("ident", STEPS)
def test_a_step_without_its_effect_stops_it(ident: str, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    cluster.mute = (ident,)
    assert cluster.apply() == 1
    told = capsys.readouterr().err
    assert f"stopped: {ident}: after" in told and "it is not so that" in told and f"begun: {ident}" in told
    later = STEPS[STEPS.index(ident) + 1 :]
    assert not any(cluster.plan(cluster.look()).step(each).state is State.DONE for each in later)  # type: ignore[union-attr]


def test_a_failed_operation_ends_the_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    beats = "".join(world.clone(f"beat-{name}", "heartbeat-link", interface=name) for name in ("hb0", "hb1"))
    failed = (("guard", "nodeb", "no DRBD here"),)
    cluster.effects["guard"] = {"resources": world.IPMI + world.DRBD + beats + world.GUARD, "failures": failed}
    assert cluster.apply() == 1
    told = capsys.readouterr().err
    assert 'guard on nodeb: start failed (code 2): "no DRBD here"' in told and "pcs resource cleanup guard" in told
    assert cluster.now_s == 0.0, "it did not wait for what cannot come"


@pytest.mark.parametrize(
    "change, says",
    [
        ({"online": ("nodea",)}, "cluster was done and is waiting now (not online: nodeb)"),
        ({"properties": {"stonith-enabled": "false"}}, "stonith was done and is by hand now"),
        ({"topology": '<fencing-level id="z" index="2" target="nodea" devices="ipmi-b"/>'}, "gate has other commands now"),
        ({"drbd": (dump(), dump("protocol A;"))}, None),
    ],
)
def test_somebody_else_changes_the_cluster_meanwhile(
    change: Dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster()

    def changes(at: int) -> None:
        if at == 0:
            cluster.world = cluster.world.but(**change)

    cluster.before = changes
    assert cluster.apply() == 1
    told = capsys.readouterr().err
    assert (says or "drbd is for you to do") in told
    assert not any("stonith create" in words for words in cluster.ran)


def test_a_look_that_fails_once_is_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    cluster.before = lambda at: cluster.looks.append("nodeb cannot be reached") if at == 0 else None
    assert cluster.apply() == 0
    gone = Cluster()
    gone.before = lambda at: gone.looks.extend(["nodeb cannot be reached"] * 500)
    assert gone.apply() == 1 and len(gone.ran) == 1
    assert "now: nodeb cannot be reached" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_for_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    """An election takes seconds, and says nothing about what is configured."""
    cluster = Cluster()

    def silent(at: int) -> None:
        cluster.world = cluster.world.but(running=at != 1)

    cluster.before = silent
    cluster.sleep = lambda seconds: cluster.state.update(running=True)  # type: ignore[method-assign]
    assert cluster.apply() == 0 and finished(cluster)
    gone = Cluster()

    def silent_for_good(at: int) -> None:
        gone.world = gone.world.but(running=at < 1)

    gone.before = silent_for_good
    assert gone.apply() == 1 and len(gone.ran) == 2
    assert "the cluster does not tell what it has" in capsys.readouterr().err


def test_what_is_by_hand_stops_it_before_anything_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(properties={"stonith-enabled": "false"})
    assert cluster.apply() == 1
    told = capsys.readouterr().err
    assert "stonith is for you to do:\n  stonith-enabled is false" in told and "done by this run: link-sync0" in told
    assert cluster.ran == ["heartgate heartbeat add nodea=10.77.20.1 nodeb=10.77.20.2"]


def test_a_step_that_is_done_meanwhile_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody makes the other watcher by hand while the first one is made."""
    cluster = Cluster()
    cluster.effects["beat-hb0"] = {"beats": ("hb0", "hb1")}
    assert cluster.apply() == 0 and finished(cluster)
    assert "beat-hb1: done already" in capsys.readouterr().err and not any("interface=hb1" in words for words in cluster.ran)


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    cluster.mute = ("rule",)
    assert cluster.apply(as_json=True) == 1
    data = json.loads(capsys.readouterr().out)
    assert (
        data["done_now"] == STEPS[:-1]
        and data["begun"] == "rule"
        and data["not_done"] == ["rule"]
        and "rule: after" in data["stopped"]
    )


# --- bad words

HOST = os.uname().nodename


def call(capsys: pytest.CaptureFixture[str], *words: str) -> Tuple[int, str]:
    try:
        code = command.main(["setup", *words])
    except SystemExit as error:
        code = int(error.code or 0)
    told = capsys.readouterr()
    assert not told.out and "Traceback" not in told.err
    return code, told.err


@pytest.mark.parametrize(
    "words, says",
    [
        ((), "the following arguments are required: NODE"),
        ((HOST,), "the following arguments are required: NODE"),
        (("one", "two"), f"this host is {HOST}: run it on one of the two nodes"),
        ((HOST, HOST), f"both nodes are {HOST}"),
        ((HOST, "no de"), "'no de' is no node name"),
        ((HOST, "-b"), "NODE"),
        ((HOST, "b", "--priority", f"{HOST}:1"), "priorities names one node"),
        ((HOST, "b", "--priority", f"{HOST}:1", "b:1"), "both have priority 1"),
        ((HOST, "b", "--priority", f"{HOST}:1", "c:2"), f"and the nodes are {HOST} and b"),
        ((HOST, "b", "--priority", "1"), "is not NODE:NUMBER"),
        ((HOST, "b", "--bias", "b"), "on_isolation=fence does not use it"),
        ((HOST, "b", "--on-isolation", "bias"), "bias does not name the node"),
        ((HOST, "b", "--on-isolation", "never"), "invalid choice"),
        ((HOST, "b", "--fence", "b"), "write NODE:DEVICE"),
        ((HOST, "b", "--fence", "c:ipmi"), f"c is none of the two nodes {HOST} and b"),
        ((HOST, "b", "--fence", "b:x", "b:y"), "names b twice"),
        ((HOST, "b", "--guard", "policy=priority"), "NAME one of confirm_timeout"),
        ((HOST, "b", "--guard", "confirm_timeout=never"), "is not a time"),
        ((HOST, "b", "--flush", 'filesystem:/"x"'), "quotation marks"),
        ((HOST, "b", "--flush", "srv"), "is not KIND:ARGUMENT"),
        ((HOST, "b", "--device", "/dev/drbd0"), "give the name of the resource"),
        ((HOST, "b", "--device", "r;0"), "neither a resource name"),
        ((HOST, "b", "--driver", "exec"), "exec_program"),
        ((HOST, "b", "--driver", "exec", "--exec-program", "/x"), "--clone has to name"),
        ((HOST, "b", "--waive", "vlan"), "gives no reason"),
        ((HOST, "b", "--waive", "nothing=because"), 'there is no rule "nothing"'),
        ((HOST, "b", "--heartbeat", "a:b:c"), "write an interface"),
        ((HOST, "b", "--listen", "long"), "no number of seconds"),
        ((HOST, "b", "--with", "hands"), "invalid choice"),
        ((HOST, "b", "--rank-delay", "0"), "from 1 to 600 seconds"),
        ((HOST, "b", "--rank-delay", "601"), "from 1 to 600 seconds"),
        ((HOST, "b", "--rank-delay", "soon"), "invalid int"),
        ((HOST, "b", "--cluster-name", "a b"), "at most 15 letters"),
    ],
)
def test_bad_words_get_one_message(words: Tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = call(capsys, *words)
    assert code == 2 and says in told, told
    assert len([line for line in told.splitlines() if "heartgate setup:" in line]) == 1


def test_rank_delay_is_what_the_agent_takes() -> None:
    assert RANK_DELAY_MAX_S == fencing_options.LONGEST_S

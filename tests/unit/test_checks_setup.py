"""The planner of `heartgate setup`: golden plans, what is done stays alone, and one clear message for each thing that is wrong.

HEARTGATE_REWRITE=1 writes the plans as they are now into tests/unit/data/setup; the difference is then for a person to judge.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional, Tuple

import pytest

from heartgate.adapters import setup_node
from heartgate.checks import setup_cib, setup_codec, setup_drbd, setup_tools
from heartgate.checks.findings import Finding, Severity, Waiver
from heartgate.checks.setup_model import Command, PutFile, SetupPlan, State, Step, Tool
from heartgate.checks.setup_plan import make_plan
from heartgate.checks.source import ParseError
from heartgate.cli import setup_show
from tests.unit import setup_world as world
from tests.unit.setup_world import BARE, DONE, NODES, World, dump

DATA = Path(__file__).with_name("data") / "setup"
NEW = BARE.but(links=None, running=False, resources="", started=())
OURS = BARE.but(trial=dump(world.FENCING, world.HANDLERS))
SITUATIONS: Dict[str, World] = {"new": NEW, "bare": OURS, "done": DONE}


def states(plan: SetupPlan) -> Dict[str, str]:
    return {step.ident: step.state.value for step in plan.steps}


def step(plan: SetupPlan, ident: str) -> Step:
    found = plan.step(ident)
    assert found is not None, states(plan)
    return found


def by_hand(plan: SetupPlan, ident: str) -> str:
    found = step(plan, ident)
    assert found.state is State.BY_HAND and not found.actions, found
    return found.by_hand


# --- golden plans


@pytest.mark.parametrize("tool", list(Tool), ids=lambda tool: tool.value)
@pytest.mark.parametrize("name", SITUATIONS)
def test_golden_plans(name: str, tool: Tool) -> None:
    made = SITUATIONS[name]
    page = setup_show.page(made.wish(tool=tool), made.plan(tool=tool), ())
    path = DATA / f"{name}-{tool.value}.txt"
    if os.environ.get("HEARTGATE_REWRITE") == "1":
        path.write_text(page + "\n", encoding="utf-8")
    assert page.splitlines() == path.read_text(encoding="utf-8").splitlines(), f"{path.name}: HEARTGATE_REWRITE=1 rewrites it"


@pytest.mark.parametrize("tool", list(Tool), ids=lambda tool: tool.value)
def test_a_finished_set_up_has_nothing_to_do(tool: Tool) -> None:
    plan = DONE.plan(tool=tool)
    assert plan.finished and not plan.problems and not any(each.actions for each in plan.steps), states(plan)


def test_from_the_other_node_it_is_as_done() -> None:
    facts = DONE.facts()
    made = DONE.wish(local="nodeb")
    turned = replace(made, heartbeats=tuple(replace(link, ends=link.ends[::-1]) for link in made.heartbeats),
                     syncs=tuple(replace(link, ends=link.ends[::-1]) for link in made.syncs or ()))  # fmt: skip
    plan = make_plan(turned, replace(facts, nodes=facts.nodes[::-1]))
    assert plan.finished, states(plan)


@pytest.mark.parametrize(
    "changes, undone",
    [
        ({"links": ("hb0", "sync0")}, {"link-hb1": "to do"}),
        ({"links": ("hb0", "hb1")}, {"link-sync0": "to do"}),
        ({"online": ("nodea",)}, {"cluster": "waiting"}),
        ({"constraints": ""}, {"rule": "to do"}),
        ({"topology": ""}, {"gate": "to do"}),
        ({"topology": world.LEVELS.replace("gate,ipmi-b", "ipmi-b,gate")}, {"gate": "to do"}),
        ({"topology": world.LEVELS.replace("gate,ipmi-a", "ipmi-a")}, {"gate": "to do"}),
        ({"started": ("ipmi-a", "ipmi-b", "drbd", "guard", "beat-hb0", "beat-hb1")}, {"gate": "waiting"}),
        ({"started": ("ipmi-a", "ipmi-b", "gate", "guard", "beat-hb0", "beat-hb1")}, {"replica": "waiting"}),
        ({"resources": world.IPMI + world.DRBD + world.GATE + world.BEATS}, {"guard": "to do"}),
        ({"resources": world.IPMI + world.DRBD + world.GATE + world.GUARD}, {"beat-hb0": "to do", "beat-hb1": "to do"}),
        ({"attributes": {**DONE.attributes, "heartgate-r0": ("synced", "")}}, {"guard": "waiting"}),
        ({"attributes": {**DONE.attributes, "heartgate-r0": ("synced", "blocked")}}, {"guard": "waiting"}),
        ({"attributes": {**DONE.attributes, "heartgate-link-hb1": ("1", "0")}}, {"beat-hb1": "waiting"}),
        ({"drbd": (dump(world.FENCING, world.HANDLERS), dump(world.FENCING))}, {"drbd": "by hand"}),
        ({"properties": {"stonith-enabled": "false"}}, {"stonith": "by hand"}),
    ],
)
def test_only_what_is_missing_is_to_be_done(changes: Dict[str, object], undone: Dict[str, str]) -> None:
    found = states(DONE.but(**changes).plan())
    assert {ident: state for ident, state in found.items() if state != "done"} == undone


# --- what is dangerous


@pytest.mark.req("E7")
@pytest.mark.parametrize("tool", list(Tool), ids=lambda tool: tool.value)
def test_the_gate_and_its_levels_are_one_change(tool: Tool) -> None:
    """Alone, fence_heartgate's yes would be taken for a completed fencing."""
    commands = [action for action in step(BARE.plan(tool=tool), "gate").actions if isinstance(action, Command)]
    tools = [each for each in commands if each.argv[0] in ("pcs", "crm")]
    live = [each for each in tools if each.argv[1] != "-f" and each.argv[:3] != ("pcs", "cluster", "cib")]
    assert len(live) == 1, commands
    text = (
        " ".join((*commands[-1].argv, commands[-1].stdin))
        if tool is Tool.CRMSH
        else " ".join(w for c in commands for w in c.argv)
    )
    assert "fence_heartgate" in text and "ipmi-a" in text and "ipmi-b" in text
    # The copies hold the passwords of power switches.
    made = [each.argv for each in commands if setup_tools.BEFORE in each.argv]
    if tool is Tool.PCS:
        assert made[0] == ("install", "-m", "600", "/dev/null", setup_tools.BEFORE) and made[-1][:2] == ("rm", "-f")
    # Without power devices there is no gate at all, in no way of setting up.
    for isolation in ("fence", "freeze"):
        plan = BARE.but(resources=world.DRBD).plan(
            tool=tool, guard={"priorities": "nodea:1 nodeb:2", "on_isolation": isolation}
        )
        assert "fence_heartgate" not in setup_show.page(BARE.wish(), plan, ()).replace("fence_heartgate decides", "")


@pytest.mark.req("E7")
def test_the_gate_goes_into_every_level_and_other_levels_stay() -> None:
    levels = (
        '<fencing-level id="x1" index="1" target="nodea" devices="ipmi-a"/><fencing-level id="x2" index="3" target="nodea" '
        'devices="pdu,gate"/><fencing-level id="x3" index="1" target="nodec" devices="pdu"/>'
    )
    pdu = '<primitive id="pdu" class="stonith" type="fence_apc"/>'
    made = BARE.but(resources=world.IPMI + pdu + world.GATE + world.DRBD, topology=levels)
    words = [
        " ".join(a.argv[3:])
        for a in step(made.plan(), "gate").actions
        if isinstance(a, Command) and a.argv[:2] == ("pcs", "-f")
    ]
    assert words == [
        "stonith level remove 1 target nodea stonith ipmi-a",
        "stonith level add 1 nodea gate ipmi-a",
        "stonith level remove 3 target nodea stonith pdu gate",
        "stonith level add 3 nodea gate pdu",
        "stonith level add 1 nodeb gate ipmi-b",
    ]
    (load,) = step(made.plan(tool=Tool.CRMSH), "gate").actions
    assert isinstance(load, Command)
    assert load.stdin == "fencing_topology nodea: gate,ipmi-a gate,pdu nodeb: gate,ipmi-b nodec: pdu\n"


def test_the_rule_comes_last_and_the_guard_before_it() -> None:
    order = list(states(BARE.plan()))
    assert order[-1] == "rule" and order.index("guard") < order.index("gate") and order.index("stonith") < order.index("drbd")


def test_a_link_is_forced_only_where_an_error_is_waived() -> None:
    made = BARE.but(links=("hb0",))
    assert "--force" not in step(made.plan(), "link-hb1").actions[0].argv  # type: ignore[union-attr]
    asked = made.wish(waivers=(Waiver("speed-clients", "slow is enough", "hb1"),))
    waived = [finding("speed-clients", Severity.ERROR, "hb1", "slow is enough"), finding("mtu", Severity.WARNING, "sync0", "x")]
    plan = make_plan(asked, made.facts(), waived)
    assert "--force" in step(plan, "link-hb1").actions[0].argv  # type: ignore[union-attr]
    assert "--force" not in step(plan, "link-sync0").actions[0].argv  # type: ignore[union-attr]
    beat = step(plan, "beat-hb1").actions[0]
    assert isinstance(beat, Command) and "waivers=speed-clients=slow is enough" in beat.argv
    assert not any("waivers" in word for word in step(plan, "beat-hb0").actions[0].argv)  # type: ignore[union-attr]


# --- the rules of heartbeat links


def finding(rule: str, severity: Severity, subject: str = "hb1", waived: str = "") -> Finding:
    return Finding(rule, severity, subject, "it is a VLAN", "use an adapter", ("nodea",), waived or None)


@pytest.mark.req("B3")
def test_an_error_refuses_and_a_waiver_lets_through() -> None:
    facts, asked = BARE.facts(), BARE.wish()
    (problem,) = make_plan(asked, facts, (finding("vlan", Severity.ERROR),)).problems
    assert problem.what == "vlan: it is a VLAN" and "--waive vlan@hb1=REASON" in problem.remedy
    for harmless in (finding("vlan", Severity.ERROR, waived="I know"), finding("speed", Severity.WARNING),
                     finding("direct", Severity.UNKNOWN)):  # fmt: skip
        assert not make_plan(asked, facts, (harmless,)).problems
    # A link that the plan makes is not missing; one that is there and does not work is.
    missing = BARE.but(links=("hb0",))
    assert not make_plan(missing.wish(), missing.facts(), (finding("corosync-link", Severity.ERROR),)).problems
    assert make_plan(asked, facts, (finding("corosync-link", Severity.ERROR),)).problems


# --- Corosync


@pytest.mark.parametrize(
    "made, changes, says",
    [
        (BARE, {"heartbeats": ()}, "which interfaces carry heartbeats is not known"),
        (BARE, {"nodes": ("nodea", "nodex")}, None),
        (BARE.but(links=("hb0",), addresses={**world.NETWORKS, "hb1": ""}), {}, "no two addresses of one network"),
        (NEW.but(addresses={**world.NETWORKS, "hb1": ""}), {}, "hb1 of nodea (no address)"),
    ],
)
def test_links_that_cannot_be_planned(made: World, changes: Dict[str, object], says: str) -> None:
    if says is None:
        facts = made.facts()
        asked = made.wish(**changes)
        plan = make_plan(asked, replace(facts, nodes=(facts.nodes[0], replace(facts.nodes[1], node="nodex"))))
        says = "the cluster's nodes are nodea, nodeb, and you named nodea and nodex"
    else:
        plan = made.plan(**changes)
    assert [problem.what for problem in plan.problems if says in problem.what], plan.problems
    assert not plan.finished


def test_one_node_with_a_corosync_conf_and_one_without() -> None:
    facts = BARE.facts()
    plan = make_plan(BARE.wish(), replace(facts, nodes=(facts.nodes[0], replace(facts.nodes[1], corosync=None))))
    assert not plan.steps and "nodeb has no /etc/corosync/corosync.conf" in plan.problems[0].what
    other = replace(facts.nodes[1], corosync=(facts.nodes[1].corosync or "").replace("10.77.11.2", "10.77.11.9"))
    plan = make_plan(BARE.wish(), replace(facts, nodes=(facts.nodes[0], other)))
    assert "another node list on nodea than on nodeb" in plan.problems[0].what
    broken = replace(facts.nodes[1], corosync="nodelist {\n")
    plan = make_plan(BARE.wish(), replace(facts, nodes=(facts.nodes[0], broken)))
    assert "is not closed" in plan.problems[0].what


@pytest.mark.parametrize("tool, says", [(Tool.PCS, "pcs cluster start --all"), (Tool.CRMSH, "crm cluster start")])
def test_a_cluster_that_does_not_run(tool: Tool, says: str) -> None:
    plan = BARE.but(running=False).plan(tool=tool)
    assert says in by_hand(plan, "cluster")
    assert list(states(plan)) == ["cluster"], "what its CIB holds is not known: nothing is planned"


SAMPLE = "totem {\n version: 2\n}\nnodelist {\n node {\n  name: node1\n  nodeid: 1\n  ring0_addr: 127.0.0.1\n }\n}\n"


@pytest.mark.parametrize("tool, says", [(Tool.PCS, "pcs cluster destroy"), (Tool.CRMSH, "systemctl stop pacemaker corosync")])
def test_the_sample_that_debian_brings_is_no_cluster(tool: Tool, says: str) -> None:
    facts = BARE.facts()
    for text in (SAMPLE, "totem {\n version: 2\n}\n"):
        sampled = replace(facts, nodes=(facts.nodes[0], replace(facts.nodes[1], corosync=text)))
        plan = make_plan(BARE.wish(tool=tool), sampled, (finding("crypto", Severity.ERROR, "corosync.conf"),))
        assert list(states(plan)) == ["cluster"] and not plan.problems
        told = by_hand(plan, "cluster")
        assert told.startswith("/etc/corosync/corosync.conf of nodeb is a sample") and says in told


def test_pcs_has_to_know_the_nodes_of_a_new_cluster() -> None:
    plan = NEW.but(pcs_hosts=("nodea",)).plan()
    told = by_hand(plan, "cluster")
    assert list(states(plan)) == ["cluster"]
    assert "no token for nodeb" in told and "pcs host auth nodea nodeb" in told


def test_a_key_that_is_there_is_not_made_anew() -> None:
    def programs(made: World) -> Tuple[str, ...]:
        return tuple(a.argv[0] for a in step(made.plan(tool=Tool.CRMSH), "cluster").actions if isinstance(a, Command))

    assert programs(NEW)[:2] == ("corosync-keygen", "scp")
    assert "corosync-keygen" not in programs(NEW.but(authkey=True))


def test_the_sync_network_may_be_left_out() -> None:
    assert "link-sync0" not in states(BARE.plan(sync_heartbeat=False))
    assert "link-sync0" not in states(BARE.plan(syncs=None))


def test_a_heartbeat_that_carries_replication_has_no_watcher_unless_it_was_named() -> None:
    every = tuple(DONE.link(name) for name in ("hb0", "sync0"))
    assert "beat-sync0" not in states(DONE.plan(heartbeats=every))
    assert "beat-sync0" in states(DONE.plan(heartbeats=every, named=True))


# --- fencing

DUMMY = '<primitive id="{}" class="ocf" type="Dummy"/>'


@pytest.mark.req("D6")
@pytest.mark.parametrize(
    "resources, power, says",
    [
        ("", {}, "nodea: there is no fencing device"),
        (world.GATE, {}, "nodea: there is no fencing device"),
        (
            world.IPMI.replace("nodeb", "nodea"),
            {},
            "ipmi-a, ipmi-b can all fence it: name the one, or several in their order, with --fence",
        ),
        (world.IPMI.replace("pcmk_host_list", "ip"), {}, "none of ipmi-a, ipmi-b says to fence it (pcmk_host_list)"),
        (world.IPMI, {"nodea": ("ipmi-x",)}, "there is no fencing device ipmi-x that cuts power (there is ipmi-a, ipmi-b)"),
    ],
)
def test_fencing_that_is_missing_is_told(resources: str, power: Dict[str, Tuple[str, ...]], says: str) -> None:
    plan = BARE.but(resources=resources + world.DRBD).plan(power=power)
    assert says in by_hand(plan, "stonith")
    assert "needs the devices" in by_hand(plan, "gate")


def test_the_devices_that_cut_the_power() -> None:
    mapped = world.IPMI.replace("pcmk_host_list", "pcmk_host_map").replace('"nodea"', '"nodea:1;other:2"')
    assert step(BARE.but(resources=mapped + world.DRBD).plan(), "stonith").notes == ("nodea: ipmi-a; nodeb: ipmi-b",)
    named = {"nodea": ("ipmi-b", "ipmi-a"), "nodeb": ("ipmi-b",)}
    assert step(BARE.plan(power=named), "stonith").notes == ("nodea: ipmi-b, ipmi-a; nodeb: ipmi-b",)
    levels = world.LEVELS.replace("gate,", "")
    assert "its levels have ipmi-a, you named ipmi-b" in by_hand(BARE.but(topology=levels).plan(power=named), "stonith")


def test_a_cluster_without_fencing_by_choice() -> None:
    bias = {"priorities": "nodea:1 nodeb:2", "on_isolation": "bias", "bias": "nodea"}
    plan = BARE.but(resources=world.DRBD, properties={"stonith-enabled": "false"}).plan(guard=bias)
    found = step(plan, "stonith")
    assert found.state is State.DONE and "on_isolation=bias goes without fencing" in found.notes[0]
    assert "gate" not in states(plan)


@pytest.mark.parametrize(
    "made, ident, says",
    [
        (BARE.but(topology='<fencing-level id="p" index="1" target-pattern="node.*" devices="ipmi-a"/>'), "gate", "by pattern"),
        (BARE.but(resources=BARE.resources + DUMMY.format("gate")), "gate", "is called gate"),
        (BARE.but(resources=BARE.resources + DUMMY.format("guard-r0")), "guard", "is called guard-r0"),
        (BARE.but(resources=BARE.resources + DUMMY.format("beat-hb0")), "beat-hb0", "is called beat-hb0"),
        (BARE.but(resources=world.IPMI + DUMMY.format("drbd-r0")), "replica", "drbd-r0 is there and is not"),
        (BARE.but(resources=BARE.resources.replace('value="true"', 'value="false"')), "replica", "in no promotable clone"),
        (DONE.but(constraints=world.RULE.replace("unproven", "deciding")), "rule", "any on drbd-clone is another rule"),
        (DONE.but(constraints=world.RULE.replace('boolean-op="or"', 'boolean-op="and"')), "rule", "is another rule"),
        (DONE.but(constraints=world.RULE.replace('"-INFINITY"', '"-1000"')), "rule", "is another rule"),
        (DONE.but(constraints=world.RULE.replace('rsc="drbd-clone"', 'rsc="other"')), "rule", "any on other is another rule"),
    ],
)  # fmt: skip
def test_what_is_there_and_is_something_else(made: World, ident: str, says: str) -> None:
    assert says in by_hand(made.plan(), ident)


def test_a_clone_by_name() -> None:
    exec_driver = {"priorities": "nodea:1 nodeb:2", "driver": "exec", "exec_program": "/x"}
    assert step(BARE.plan(guard=exec_driver, clone="drbd-clone"), "replica").state is State.DONE
    assert "drbd" not in states(BARE.plan(guard=exec_driver, clone="drbd-clone"))
    assert "there is no promotable clone other (there is drbd-clone)" in by_hand(
        BARE.plan(guard=exec_driver, clone="other"), "replica"
    )


# --- replica-guard


def test_another_guard_is_changed_only_by_a_person() -> None:
    asked = {"priorities": "nodea:1 nodeb:2", "policy": "active-first"}
    told = by_hand(DONE.plan(guard=asked), "guard")
    assert told == "guard has policy=(not set), and you want active-first: pcs resource update guard policy=active-first"
    turned = {"priorities": "nodeb:1 nodea:2"}
    assert step(DONE.plan(guard=turned), "guard").state is State.DONE, "priorities that nobody named are no wish"
    assert "crm resource param guard set priorities 'nodeb:1 nodea:2'" in by_hand(
        DONE.plan(guard=turned, assumed=frozenset(), tool=Tool.CRMSH), "guard"
    )
    assert step(DONE.plan(guard={"priorities": "nodeb:2  nodea:1"}, assumed=frozenset()), "guard").state is State.DONE


def test_a_guard_that_names_a_path_is_no_missing_guard() -> None:
    told = by_hand(
        DONE.but(resources=DONE.resources.replace('value="r0"', 'value="/dev/drbd0"')).plan(clone="drbd-clone"), "guard"
    )
    assert told.startswith("guard guards /dev/drbd0: if that is r0") and told.endswith("pcs resource update guard device=r0")


def test_a_guard_that_fails_says_why() -> None:
    made = DONE.but(attributes={}, failures=(("guard", "nodeb", "no DRBD here"),))
    found = step(made.plan(), "guard")
    assert found.state is State.WAITING and found.seen == "not set on nodea, not set on nodeb"
    assert found.failures == ('guard on nodeb: start failed (code 2): "no DRBD here"',)


# --- DRBD


@pytest.mark.req("A3")
@pytest.mark.parametrize("drbd9", [True, False])
def test_lines_for_a_person_where_no_file_can_be_put(drbd9: bool) -> None:
    told = by_hand(BARE.but(drbd9=drbd9).plan(), "drbd")
    assert "conflicting use of resource section 'common'" in told and "/etc/drbd.d/r0.res:1" in told
    assert ("    net { fencing resource-and-stonith; }" if drbd9 else "    disk { fencing resource-and-stonith; }") in told
    assert ("; unfence-peer" if drbd9 else "; after-resync-target") in told
    assert "drbdadm adjust r0" in told and told.startswith("nodea and nodeb: ")


@pytest.mark.req("A3")
def test_a_file_of_its_own_where_drbdadm_takes_it() -> None:
    actions = step(OURS.plan(), "drbd").actions
    assert [(a.node, a.path) for a in actions if isinstance(a, PutFile)] == [(n, setup_drbd.OWN_FILE) for n in NODES]
    assert not [a for a in actions if isinstance(a, Command)], "the kernel has no such resource: nothing is adjusted"
    text = setup_drbd.own_file(True)
    assert world.FENCING in text and all(word in text for word in world.HANDLERS.split())


KERNEL = "resource r0 { net { protocol C; } }"
ADJUST = (
    "drbdsetup net-options r0 1 --set-defaults --fencing=resource-and-stonith\ndrbdsetup-84 disk-options 0 --set-defaults\n"
)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"trial": dump(world.FENCING + " ping-int 3;", world.HANDLERS)}, "reads more differently"),
        ({"trial": dump(world.FENCING)}, "with it there is still no handler"),
        ({"trial": dump(world.FENCING, world.HANDLERS, ("r0", "r1"))}, "reads more differently"),
        ({"drbd": (dump(resources=("r0", "r1")),) * 2}, "a common section would be that of r1 too"),
        ({"show": KERNEL, "adjust": None}, "could not be asked"),
        ({"show": KERNEL, "adjust": "drbdsetup attach 0 /dev/vdb\n"}, "adjust would do more than set options: drbdsetup attach"),
        ({"show": KERNEL, "adjust": "drbdsetup net-options-and-attach r0\n"}, "would do more than set options"),
        ({"drbd": (dump("protocol A;"),) * 2, "trial": dump("protocol A;" + world.FENCING, world.HANDLERS)}, "protocol C;"),
        ({"drbd": None}, "DRBD's configuration cannot be read: drbdadm is not installed"),
        ({"drbd": (dump(resources=("other",)),) * 2}, "DRBD has no resource r0 (it has other)"),
        ({"drbd": (dump().replace("on nodeb", "on nodec"),) * 2}, "r0 is on nodea, nodec"),
    ],
)  # fmt: skip
def test_nothing_is_guessed_about_drbd(changes: Dict[str, object], says: str) -> None:
    assert says in by_hand(OURS.but(**changes).plan(), "drbd")


def test_the_kernel_is_adjusted_where_only_options_are_set() -> None:
    made = OURS.but(show=KERNEL, adjust=ADJUST)
    actions = step(made.plan(), "drbd").actions
    assert [a.argv for a in actions if isinstance(a, Command)] == [("drbdadm", "adjust", "r0")] * 2
    files = made.but(drbd=DONE.drbd, trial=None)  # the files are right, the kernel is not
    assert [type(a).__name__ for a in step(files.plan(), "drbd").actions] == ["Command", "Command"]


# --- what cannot be read


@pytest.mark.parametrize(
    "text, says", [("<cib", "expected the XML of a CIB"), ("<configuration/>", "expected <cib>"), ("", "XML")]
)
def test_a_cib_that_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        setup_cib.parse(text)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"format": "other"}, "install the same version"),
        ({"version": 2}, "install the same version"),
        ({"host": "{}"}, "not made by"),
        ({"host": 7}, "host has another form"),
        ({"programs": "pcs"}, "programs has another form"),
        ({"pcs_hosts": [1]}, "pcs_hosts has another form"),
        ({"drbd": []}, "drbd has another form"),
        ({"drbd": {"dump": "resource {"}}, "drbdadm dump on nodea"),
        ({"drbd": {"dump": 1}}, "dump has another form"),
    ],
)
def test_facts_of_a_node_that_cannot_be_read(change: Dict[str, object], says: str) -> None:
    with pytest.raises(ParseError, match=says):
        setup_codec.decode("nodea", {**BARE.raw("nodea"), **change})


@pytest.mark.parametrize(
    "state, online",
    [
        ('in_ccm="true" crmd="online" join="member"', True),
        ('in_ccm="1700000000" crmd="1700000001" join="member"', True),
        ('in_ccm="0" crmd="0" join="down"', False),
        ('in_ccm="true" crmd="offline" join="down"', False),
        ('in_ccm="true" crmd="online" join="pending"', False),
        ("", False),
    ],
)
def test_who_is_online(state: str, online: bool) -> None:
    text = f'<cib><configuration/><status><node_state uname="n" {state}/></status></cib>'
    assert setup_cib.parse(text).online == (frozenset({"n"}) if online else frozenset())


# --- what the tools really wrote


@pytest.mark.parametrize("name", ["cib-pcs.xml", "cib-crmsh.xml"])
def test_what_pcs_and_crmsh_made_of_the_plan_is_read_as_done(name: str) -> None:
    """Made with these plans' commands by pcs 0.11.5 and crmsh 4.4.1 on Debian 12, in a file."""
    text = (DATA / name).read_text(encoding="utf-8")
    status = BARE.but(started=("gate", "power", "drbd-r0", "guard-r0", "beat-hb0"), attributes=DONE.attributes).cib()
    text = text.replace("<status/>", status[status.index("<status>") : status.index("</cib>")])
    facts = replace(DONE.facts(), cluster=setup_cib.parse(text))
    plan = make_plan(DONE.wish(heartbeats=(DONE.link("hb0"),)), facts)
    assert plan.finished, [each for each in plan.steps if each.state is not State.DONE]


@pytest.mark.skipif(not shutil.which("drbdadm", path="/usr/sbin:/sbin"), reason="drbd-utils are not installed")
@pytest.mark.parametrize(
    "others, says",
    [
        ("", None),
        ("common { net { ping-int 3; } }", "conflicting use of resource section 'common'"),
        (None, 'does not include "drbd.d/*.res"'),
    ],
)
def test_whether_a_file_fits_is_asked_of_the_real_drbdadm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: Optional[str], says: Optional[str]
) -> None:
    (tmp_path / "drbd.d").mkdir()
    resource = "".join(
        f"on {node} {{ device /dev/drbd0; disk /dev/vda; meta-disk internal; address 10.77.20.{number}:7789; }}\n"
        for number, node in enumerate(NODES, 1)
    )
    (tmp_path / "drbd.d" / "r0.res").write_text(f'resource r0 {{ net {{ shared-secret "hidden"; }}\n{resource} }}\n')
    include = (
        '# include "drbd.d/*.res";\ninclude "drbd.d/r0.res";\n' if others is None else f'{others}\ninclude "drbd.d/*.res";\n'
    )
    (tmp_path / "drbd.conf").write_text(include)
    monkeypatch.setattr(setup_drbd, "MAIN_FILE", str(tmp_path / "drbd.conf"))
    monkeypatch.setattr(setup_drbd, "OWN_FILE", str(tmp_path / "drbd.d" / "heartgate.res"))
    raw, why = setup_node._drbd("r0")
    assert raw is not None and not why and "hidden" not in str(raw)
    facts = setup_codec.decode("nodea", {**BARE.raw("nodea"), "drbd": raw}).drbd
    assert facts is not None
    made = facts.resource("r0")
    assert made is not None and {each.rule for each in setup_drbd.wrong(facts, made, "nodea")} == {
        "drbd-fencing",
        "drbd-handler",
    }
    told = setup_drbd.no_own_file(facts, made)
    assert told is None or "/tmp/heartgate" not in told
    assert told is None if says is None else told is not None and says in told
    if says is None:  # and as it is promised, so it is
        monkeypatch.setattr(setup_node, "MAY_PUT", (setup_drbd.OWN_FILE,))
        setup_node.put(setup_drbd.OWN_FILE, setup_drbd.own_file(facts.drbd9), 0o644)
        raw, _ = setup_node._drbd("r0")
        after = setup_codec.decode("nodea", {**BARE.raw("nodea"), "drbd": raw}).drbd
        assert after is not None and not setup_drbd.wrong(after, after.resources[0], "nodea")
        setup_node.put(setup_drbd.OWN_FILE, setup_drbd.own_file(facts.drbd9), 0o644)  # again: it is there
        with pytest.raises(setup_node.SetupError, match="another content: it is left as it is"):
            setup_node.put(setup_drbd.OWN_FILE, "else", 0o644)
        with pytest.raises(setup_node.SetupError, match="no file that the set-up makes"):
            setup_node.put("/etc/passwd", "x", 0o644)
        assert sorted(path.name for path in (tmp_path / "drbd.d").iterdir()) == ["heartgate.res", "r0.res"]


@pytest.mark.parametrize(
    "request_text", ["", "[]", "{}", '{"op": 3}', '{"op": "facts"}', '{"op": "put", "path": "/etc/x"}', "\x00"]
)
def test_a_request_of_the_other_node_that_makes_no_sense(request_text: str) -> None:
    answer = setup_node.serve(request_text)
    assert answer["ok"] is False and "no request that this version of heartgate knows" in answer["error"]

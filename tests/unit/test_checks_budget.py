"""The timeout budget: what each law says of real configurations, what is unknown, and the change that is proposed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Dict, Optional, Tuple

import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from heartgate.checks import budget, budget_doc, budget_quantities, config_lint
from heartgate.checks.budget import Budget, Status
from heartgate.checks.budget_laws import LAWS, ROLES
from heartgate.checks.budget_quantities import OurTimes
from heartgate.checks.findings import Severity
from heartgate.checks.lint_facts import LintFacts, Unreadable
from heartgate.checks.source import ParseError
from heartgate.checks.storage_conf import SbdHeader
from tests.unit.test_checks_config_lint import COROSYNC, DRBD, THIRD, facts, swap

OPERATIONS = (
    '<operations><op name="start" timeout="60s"/><op name="stop" timeout="30s"/><op name="monitor" interval="10s" '
    'timeout="20s"/></operations>'
)


def cib(
    guard: str = "", properties: str = "", gate: str = "", power: str = "", more: str = "", operations: str = OPERATIONS,
    levels: Tuple[str, ...] = (),
) -> str:  # fmt: skip
    def pairs(text: str, tag: str) -> str:
        items = "".join(
            f'<nvpair name="{name}" value="{value}"/>'
            for name, _, value in (part.partition("=") for part in text.split("|") if part)
        )
        return f'<{tag} id="{tag}">{items}</{tag}>'

    topology = "".join(
        f'<fencing-level id="level{i}" target="nodea" index="{i}" devices="{devices}"/>' for i, devices in enumerate(levels, 1)
    )
    return (
        f'<cib><configuration><crm_config>{pairs(properties, "cluster_property_set")}</crm_config><nodes><node uname="nodea"/>'
        '<node uname="nodeb"/></nodes><resources><primitive id="gate" class="stonith" type="fence_heartgate">'
        f'{pairs(gate, "instance_attributes")}</primitive><primitive id="power" class="stonith" type="fence_ipmilan">'
        f'{pairs(power, "instance_attributes")}</primitive><primitive id="guard" class="ocf" provider="heartgate" '
        f'type="replica-guard">{pairs("device=r0|" + guard, "instance_attributes")}{operations}</primitive>{more}</resources>'
        f"<fencing-topology>{topology}</fencing-topology></configuration></cib>"
    )


def shot(power: str, gate: str = "", levels: Tuple[str, ...] = ("gate,power",)) -> LintFacts:
    return facts(cib=cib(power=power, gate=gate, levels=levels))


SHOT = {"gate-shot": "power behind gate"}


def promote(timeout: str) -> str:
    return (
        '<primitive id="disk" class="ocf" provider="linbit" type="drbd"><instance_attributes id="d"><nvpair name="drbd_resource" '
        f'value="r0"/></instance_attributes><operations><op name="promote" timeout="{timeout}"/></operations></primitive>'
    )


def totem(lines: str) -> str:
    return swap(COROSYNC, ("version: 2", f"version: 2\n{lines}"))


def link(number: int, lines: str) -> str:
    return totem(f"interface {{\nlinknumber: {number}\n{lines}\n}}")


def net(lines: str) -> str:
    return swap(DRBD, ("protocol C;", f"protocol C; {lines}"))


def made(of: LintFacts) -> Budget:
    return budget_quantities.build(of)


def sbd(settings: str, header: Optional[Tuple[int, int]] = None, **others: str) -> LintFacts:
    found = facts(sbd=settings, **{"cib": cib(), **others})
    assert found.sbd is not None
    headers = (SbdHeader("/dev/s", *header),) if header else ()
    return replace(found, sbd=found.sbd.with_headers(headers))


DISK = "SBD_DEVICE=/dev/s"
# situation: facts, the violated laws and where, a piece of the proposal
VIOLATED: Dict[str, Tuple[LintFacts, Dict[str, str], str]] = {
    "defaults": (facts(cib=cib()), {}, ""),
    "defaults, three nodes": (facts(corosync=swap(COROSYNC, THIRD), cib=""), {}, ""),
    "consensus below the token, three nodes": (
        facts(corosync=swap(totem("consensus: 4000"), THIRD), cib=""),
        {"consensus-token": "corosync.conf"},
        "set consensus in totem { } of corosync.conf to at least 4380 ms (now 4 s, corosync.conf:3)",
    ),
    "consensus below the token, two nodes": (facts(corosync=totem("consensus: 2000"), cib=cib()), {}, ""),
    "consensus below join": (
        facts(corosync=totem("consensus: 200\njoin: 300"), cib=""),
        {"consensus-join": "corosync.conf"},
        "set consensus in totem { } of corosync.conf to at least 301 ms",
    ),
    "knet slower than the token": (
        facts(corosync=link(1, "knet_ping_interval: 500\nknet_ping_timeout: 3000"), cib=""),
        {"knet-before-token": "link 1"},
        "set token in totem { } of corosync.conf to at least 3501 ms (now 3 s, default)",
    ),
    "one lost ping": (
        facts(corosync=link(0, "knet_ping_interval: 900\nknet_ping_timeout: 1000"), cib=""),
        {"knet-one-ping": "link 0"},
        "set knet_ping_timeout in interface { linknumber: 0 } of corosync.conf to at least 1800 ms",
    ),
    "drbd timeout": (
        facts(drbd=net("timeout 60; ping-int 5;"), cib=""),
        {"drbd-timeout-ping": "r0"},
        "set ping-int in resource r0 { net { } } to at least 7 s (now 5 s, /etc/drbd.d/r0.res:1",
    ),
    "drbd connect": (
        facts(drbd=net("connect-int 6;"), cib=""),
        {"drbd-timeout-connect": "r0"},
        "timeout in resource r0 { net { } } to at most 5900 ms",
    ),
    "drbd ping": (
        facts(drbd=net("ping-int 1; ping-timeout 20; timeout 8;"), cib=""),
        {"drbd-ping-answer": "r0"},
        "ping-int in resource r0 { net { } } to at least 3 s",
    ),
    "lab timers": (facts(drbd=net("ping-int 1; ping-timeout 2; timeout 8; connect-int 1;"), cib=""), {}, ""),
    "token beyond confirm": (
        facts(corosync=totem("token: 10000"), cib=cib(gate="rank_delay=30|pcmk_off_timeout=120|pcmk_reboot_timeout=120")),
        {"confirm-membership": "guard"},
        "set confirm_timeout of guard to at least 22 s (now 10 s, default)",
    ),
    "confirm too short": (
        facts(corosync=totem("token: 1000"), cib=cib(guard="confirm_timeout=4")),
        {"confirm-block": "guard", "confirm-daemon": "guard"},
        "set confirm_timeout of guard to at least",
    ),
    "no operations": (
        facts(cib=cib(operations="")),
        {"guard-start": "guard"},
        "set timeout of the operation start of guard to at least 50 s",
    ),
    "short operations": (
        facts(cib=cib(operations=OPERATIONS.replace("30s", "4s").replace("20s", "15s"))),
        {"guard-stop": "guard", "guard-monitor": "guard"},
        "5 s (now 4 s, CIB, guard, operation stop)",
    ),
    "flush": (
        facts(cib=cib(guard="flush=hook:/etc/x|flush_timeout=5")),
        {"flush-hook": "guard"},
        "set flush_timeout of guard to at least 10 s",
    ),
    "flush without hooks": (facts(cib=cib(guard="flush=filesystem:/srv|flush_timeout=5")), {}, ""),
    "promote": (facts(cib=cib(more=promote("60s"))), {"promote-waits": "disk", "promote-confirm": "disk"}, ""),
    "promote as advised": (facts(cib=cib(more=promote("90s"))), {}, ""),
    "stonith-timeout": (
        facts(cib=cib(properties="stonith-timeout=400s")),
        {"fence-wait": "fencing"},
        "stonith-timeout to at most 300 s",
    ),
    "gate": (facts(cib=cib(gate="rank_delay=20")), {"gate-timeout": "gate"}, ""),
    "gate with time": (facts(cib=cib(gate="rank_delay=20|pcmk_off_timeout=70|pcmk_reboot_timeout=70")), {}, ""),
    "gate, only one timeout": (facts(cib=cib(gate="rank_delay=20|pcmk_off_timeout=70")), {"gate-timeout": "gate"}, ""),
    "gate in a hurry": (facts(cib=cib(gate="rank_delay=3")), {"gate-rank": "gate"}, "set rank_delay of gate to at least 7 s"),
    "shot, the device waits": (shot("delay=7"), SHOT, "set rank_delay of gate to at least 14 s (now 10 s, default)"),
    "shot, in one level of two": (shot("delay=7", levels=("power", "gate,power")), SHOT, ""),
    "shot, Pacemaker waits": (shot("pcmk_delay_base=7s"), SHOT, ""),
    "shot, Pacemaker waits for one node": (shot("pcmk_delay_base=nodea:1;nodeb:7s"), SHOT, ""),
    "shot, Pacemaker waits at random": (shot("pcmk_delay_base=1|pcmk_delay_max=7"), SHOT, ""),
    "shot, power_wait": (shot("power_wait=7"), SHOT, ""),
    "shot, all together": (shot("power_wait=2|delay=1|pcmk_delay_base=1s"), SHOT, ""),
    "shot in time": (shot("power_wait=1|delay=1|pcmk_delay_base=1s"), {}, ""),
    "shot, time enough": (shot("delay=7", "rank_delay=15"), {}, ""),
    "shot before the gate": (shot("delay=7", levels=("power,gate",)), {}, ""),
    "shot without levels": (shot("delay=7", levels=()), {}, ""),
    "device": (facts(cib=cib(power="delay=60")), {"device-delay": "power"}, ""),
    "msgwait": (sbd(DISK, (15, 20)), {"sbd-msgwait": "sbd"}, "SBD"),
    "sbd stonith": (
        sbd(DISK, (30, 60)),
        {"sbd-stonith": "sbd"},
        "set the cluster property stonith-timeout to at least 72 s (now 60 s, default)",
    ),
    "sbd": (sbd(DISK, (5, 10)), {}, ""),
    "sbd start delay": (
        sbd(DISK + "\nSBD_DELAY_START=12", (5, 10)),
        {"sbd-start-delay": "sbd"},
        "set SBD_DELAY_START in /etc/default/sbd to at least 17 s",
    ),
    "watchdog": (
        sbd("SBD_WATCHDOG_TIMEOUT=10", cib=cib(properties="stonith-watchdog-timeout=15s")),
        {"sbd-watchdog-time": "sbd"},
        "set the cluster property stonith-watchdog-timeout to at least 20 s",
    ),
    "watchdog, automatic": (sbd("SBD_WATCHDOG_TIMEOUT=10", cib=cib(properties="stonith-watchdog-timeout=-1")), {}, ""),
}


@pytest.mark.req("E5", "D2")
@pytest.mark.parametrize("name", VIOLATED)
def test_violated(name: str) -> None:
    given, expected, proposal = VIOLATED[name]
    found = made(given)
    violated = {item.law.name: item.subject for item in found.inequalities if found.status(item) is Status.VIOLATED}
    assert violated == expected
    assert not any(found.status(item) is Status.UNKNOWN for item in found.inequalities)
    said = budget.findings(found)
    assert {each.rule: each.subject for each in said} == expected
    assert not proposal or any(proposal in each.remedy for each in said), [each.remedy for each in said]


@pytest.mark.req("E5")
@pytest.mark.parametrize("name", VIOLATED)
def test_a_proposal_solves_what_it_says(name: str) -> None:
    found = made(VIOLATED[name][0])
    changes = found.change()
    after = found
    for change in changes or ():
        after = after.with_value(change.quantity.name, change.ms)
        assert change.ms % change.quantity.unit_ms == 0 and change.quantity.setting
    if changes is not None:
        assert all(after.status(item) is Status.HOLDS for item in after.inequalities)
    else:
        pytest.fail("no way out of a plain situation")


@pytest.mark.req("E5")
@pytest.mark.parametrize("name", VIOLATED)
def test_the_conflict_is_a_conflict(name: str) -> None:
    given, expected, _ = VIOLATED[name]
    found = made(given)
    conflict = found.conflict()
    assert (conflict is None) == (not expected)
    for item in conflict or ():
        assert item.setting and item.ms is not None


def test_every_law_is_violated_somewhere() -> None:
    assert {name for _, expected, _ in VIOLATED.values() for name in expected} == {law.name for law in LAWS}


@pytest.mark.req("E5")
def test_unknown_is_never_satisfied() -> None:
    """Every quantity in turn becomes unknown; whatever it stands in is unknown then, also if the rest would settle it."""
    for given, _, _ in VIOLATED.values():
        whole = made(given)
        for name in whole.quantities:
            lost = whole.with_value(name, None)
            touched = [item for item in lost.inequalities if name in item.names]
            assert touched and all(lost.status(item) is Status.UNKNOWN for item in touched)
            others = [item for item in lost.inequalities if name not in item.names]
            assert [lost.status(item) for item in others] == [whole.status(item) for item in others]
    lost = whole.with_value("token", None)
    (first, *_) = [each for each in budget.findings(lost) if "token" in each.evidence]
    assert first.severity is Severity.UNKNOWN and "not known: " in first.evidence


def test_what_cannot_be_read_is_unknown_with_its_reason() -> None:
    given = replace(facts(cib=cib()), corosync=None, unreadable=(Unreadable("corosync.conf", "no permission"),))
    found = made(given)
    said = {each.rule: each for each in budget.findings(found)}
    assert said["confirm-membership"].severity is Severity.UNKNOWN
    assert "token (corosync.conf: no permission)" in said["confirm-membership"].evidence
    unreadable_time = made(facts(cib=cib(properties="stonith-timeout=soon")))
    assert "'soon' is no time" in next(each for each in budget.findings(unreadable_time) if each.rule == "fence-wait").evidence
    for wrong in ("delay=soon", "power_wait=x", "pcmk_delay_base=nodea:1;nodeb:soon", "pcmk_delay_max=later"):
        said = {each.rule: each for each in budget.findings(made(shot(wrong)))}
        assert said["gate-shot"].severity is Severity.UNKNOWN, wrong
    header = made(sbd(DISK))
    assert {each.rule for each in budget.findings(header)} == {"sbd-msgwait", "sbd-stonith"}


@pytest.mark.req("E5")
def test_the_smallest_conflict_reaches_over_several_laws() -> None:
    """A link that is given up after 6 s needs a longer token, and that needs a longer rank_delay: no law names both."""
    found = made(facts(corosync=link(1, "knet_ping_interval: 900\nknet_ping_timeout: 6000"), cib=cib()))
    conflict = found.conflict()
    assert conflict is not None and {item.name for item in conflict} == {"gate rank_delay", "knet_ping_timeout of link 1"}
    assert not any({item.name for item in conflict} <= set(each.names) for each in found.inequalities)
    changes = found.change()
    assert changes is not None and [change.quantity.name for change in changes] == ["knet_ping_timeout of link 1"]


def test_two_settings_where_one_is_not_enough() -> None:
    given = facts(corosync=totem("token: 40000"), cib=cib(guard="confirm_timeout=90", gate="rank_delay=90|pcmk_off_timeout=400|"
                  "pcmk_reboot_timeout=400", more=promote("80s"), properties="stonith-timeout=301s"))  # fmt: skip
    changes = made(given).change()
    assert changes is not None and [change.quantity.name for change in changes] == ["stonith-timeout", "timeout of disk promote"]
    assert str(changes[1]).startswith("set timeout of the operation promote of disk to at least 390 s (now 80 s, CIB, disk, ")


def test_a_remedy_breaks_nothing_else() -> None:
    """Raising the token would do for knet, and would break confirm_timeout."""
    given = facts(corosync=link(1, "knet_ping_interval: 900\nknet_ping_timeout: 4000"), cib=cib())
    found = made(given)
    (item,) = [item for item in found.inequalities if found.status(item) is Status.VIOLATED]
    changes = found.change(item)
    assert changes is not None and [change.quantity.name for change in changes] == ["knet_ping_timeout of link 1"]


def test_the_evidence_shows_values_and_places() -> None:
    (said,) = budget.findings(made(facts(cib=cib(gate="rank_delay=20"))))
    assert said.evidence == (
        "gate delay (0 ms, default) + 3 x gate rank_delay (20 s, CIB, gate) + looks of fence_heartgate (built in) (7 s, "
        "built in) = 67 s "
        "must be at most stonith-timeout (60 s, default)"
    )


def test_the_document_is_in_step() -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "timeouts.md"
    assert path.read_text(encoding="utf-8") == budget_doc.render(), (
        "run python3 -m heartgate.checks.budget_doc > docs/timeouts.md"
    )


def test_the_table() -> None:
    assert len({law.name for law in LAWS}) == len(LAWS)
    assert {role for law in LAWS for _, role in (*law.left, *law.right)} == set(ROLES)
    assert all(factor > 0 for law in LAWS for factor, _ in (*law.left, *law.right))


def test_built_in_times_are_those_of_the_code() -> None:
    from heartgate.adapters import flush
    from heartgate.daemon import fences, operations, params
    from heartgate.ocf import thin_client

    unit = (Path(__file__).resolve().parents[2] / "packaging" / "heartgated.service").read_text()
    ours = OurTimes()
    assert "WatchdogSec=4s\n" in unit and "RestartSec=100ms\n" in unit and ours.back_ms == 4100
    seconds = {
        ours.block_ms: operations.BLOCK_S,
        ours.fence_wait_ms: fences.FENCE_S,
        ours.start_ms: thin_client.REGISTER_S,
        ours.stop_ms: thin_client.STOP_S,
        ours.monitor_ms: thin_client.MONITOR_S + thin_client.BACK_S,
        ours.hook_ms: flush.HOOK_TIMEOUT_S,
    }
    assert all(Fraction(ms) == Fraction(str(value)) * 1000 for ms, value in seconds.items())
    assert ours.confirm_default_ms == int(params.DEFAULTS["confirm_timeout"]) * 1000
    assert ours.flush_default_ms == int(params.DEFAULTS["flush_timeout"]) * 1000


def some_lines(text: str) -> st.SearchStrategy[str]:
    """The text without some of its lines, or with some twice."""
    lines = text.split("\n")
    return st.lists(st.sampled_from([0, 1, 1, 1, 1, 1, 2]), min_size=len(lines), max_size=len(lines)).map(
        lambda counts: "\n".join(line for line, count in zip(lines, counts) for _ in range(count))
    )


@pytest.mark.apart
@settings(max_examples=120, deadline=None)
@examples(
    some_lines(link(1, "knet_ping_interval: 500")),
    some_lines(DRBD),
    some_lines(cib(more=promote("9s"), gate="delay=x").replace("><", ">\n<")),
)
def test_half_a_configuration_raises_nothing(corosync: str, drbd: str, xml: str) -> None:
    try:
        given_facts = facts(corosync=corosync, drbd=drbd, cib=xml, sbd="SBD_DEVICE=/dev/s\nSBD_DELAY_START=x")
    except ParseError:
        return
    budget.findings(made(given_facts))
    config_lint.findings(given_facts)

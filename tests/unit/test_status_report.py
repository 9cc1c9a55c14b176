"""What `heartgate status` concludes: each reason where it belongs and nowhere else, the word that follows, who serves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.checks import cib_conf, crm_mon, drbd_conf
from heartgate.checks.crm_mon import Ban, Fencing
from heartgate.checks.lint_facts import LintFacts, Unreadable
from heartgate.checks.status_model import (
    Daemon,
    Device,
    Flush,
    Health,
    Interface,
    Missing,
    PeerWord,
    Served,
    StatusFacts,
    SyncLink,
)  # fmt: skip
from heartgate.checks.status_reasons import BY_IDENT, REASONS
from heartgate.checks.status_report import report
from tests.unit.status_facts import (
    BLOCKED_PEER,
    DOWN,
    HEALTHY,
    SOLO,
    UNKNOWN,
    UP,
    heartbeat,
    said,
    text,
    three,
    with_cib,
    with_daemon,
    with_device,
    with_instance,
    with_node,
    with_pacemaker,
)  # fmt: skip

pytestmark = pytest.mark.req("C1", "E1")
AT_RISK, DEGRADED, PROTECTED = Health.AT_RISK, Health.DEGRADED, Health.PROTECTED
RULE = '<rule id="location-r0-clone-rule" boolean-op="or" role="Master" score="-INFINITY">'
STONITH_OFF = ('name="stonith-enabled" value="true"', 'name="stonith-enabled" value="false"')


def peer(**changes: Any) -> Dict[str, Any]:
    word = {"standing": "synced", "epoch": 4, "disk": "uptodate", "role": "secondary", **changes}
    return {"peers": {"nodeb": PeerWord(**word)}}


def sync(link: str, **more: Any) -> StatusFacts:
    return with_device(live={"links": {"nodeb": SyncLink(link, "uptodate")}, **more})


def drbd(fencing: str = "resource-and-stonith", protocol: str = "C", two: str = "no", kernel: str = "C",
         handler: str = drbd_conf.FENCE_HANDLER) -> StatusFacts:  # fmt: skip
    """r0 on DRBD, from the text that drbdadm prints."""
    text = f"""resource r0 {{
    on nodea {{ node-id 0; address ipv4 10.0.0.1:7789; volume 0 {{ device minor 0; disk /dev/vdb; meta-disk internal; }} }}
    on nodeb {{ node-id 1; address ipv4 10.0.0.2:7789; volume 0 {{ device minor 0; disk /dev/vdb; meta-disk internal; }} }}
    net {{ protocol {protocol}; allow-two-primaries {two}; fencing {fencing}; }}
    handlers {{ fence-peer "{handler}"; unfence-peer "{drbd_conf.UNFENCE_HANDLER}"; }}
}}
"""
    files = drbd_conf.parse_dump(text, "drbdadm dump")
    running = drbd_conf.parse_dump(text.replace(f"protocol {protocol}", f"protocol {kernel}"), "drbdsetup show")
    facts = with_device(live={"driver": "drbd"})
    assert isinstance(facts.config, LintFacts)
    return replace(facts, config=replace(facts.config, drbd=files, drbd_running=running))


def alone(live: Any = None, **device: Any) -> StatusFacts:
    """nodea, and nodeb is no member and not heard."""
    gone = {"links": {"nodeb": SyncLink("down", "unknown")}, "peers": {}, "lacks": {}, **(live or {})}
    facts = with_daemon(with_device(live=gone, **device), reachable=("nodea",), online=("nodea",))
    return replace(facts, pacemaker=with_node("nodeb", online=False).pacemaker,
                   heartbeats=(heartbeat("0", DOWN, UNKNOWN, DOWN), heartbeat("1", DOWN, UNKNOWN, DOWN)))  # fmt: skip


STORED = Device("r0", "solo", "solo", 5, ("nodea",), since_ms=1_795_000_000_000, priorities={"nodea": 1, "nodeb": 2})
NO_DAEMON = Missing("/run/x: Connection refused", down=True)
FAILED = Fencing("nodeb", "reboot", "failed", "2026-11-21 23:49:07Z", "no answer")
UNPROVEN = {"standing": "unproven", "shown": "unproven"}
WITHOUT_POWER = ('<primitive id="power" class="stonith" type="fence_lab">', '<primitive id="power" class="ocf" type="x">')

# Each reason: the facts in which one thing is wrong.
WRONG: Dict[str, StatusFacts] = {
    "two-serve": with_device(live=peer(role="primary")),
    "nobody-serves": with_device(live={"role": "secondary", **peer(standing="blocked")}, shown="blocked", standing="blocked"),
    "device-frozen": with_device(live={"frozen": True, "waits": "waits for nodeb"}, shown="deciding", standing="deciding"),
    "person-needed": alone({"role": "secondary", "waits": "waits to hear nodeb", "ends_wait": "heartgate mark-synchronized r0"},
                           **UNPROVEN),
    "record-not-written": with_device(live={"persist_failure": "No space left on device"}),
    "record-unreadable": with_device(error="checksum is wrong"),
    "invariant-stopped": with_device(live={"broken": ("I3",)}),
    "daemon-down": replace(HEALTHY, daemon=NO_DAEMON, devices=(STORED,)),
    "carrier-lost": with_daemon(carrier=False, reachable=(), online=()),
    "node-offline": alone(),
    "daemon-silent": with_daemon(with_device(live={"peers": {}}), reachable=("nodea",)),
    "replica-unheard": with_device(live={"peers": {}}),
    "no-spare": with_device(live={"role": "secondary", "disk": "uptodate", "frozen": True}),
    "replica-blocked": with_device(live=BLOCKED_PEER, **SOLO),
    "replica-resyncing": with_device(live=peer(standing="blocked", disk="inconsistent"), **SOLO),
    "replica-unproven": with_device(live=peer(standing="unproven")),
    "replica-deciding": with_device(live=peer(standing="deciding")),
    "replica-not-uptodate": with_device(live=peer(disk="diskless")),
    "sync-link-down": sync("down", interfaces={"sync0": False}),
    "pacemaker-down": replace(HEALTHY, pacemaker=Missing("Pacemaker does not run here", down=True)),
    "no-dc": with_pacemaker(dc=""),
    "no-quorum": with_pacemaker(quorate=False),
    "maintenance-mode": replace(HEALTHY, pacemaker=said("maint")),
    "stop-all": with_pacemaker(stop_all=True),
    "node-unclean": with_node("nodeb", unclean=True),
    "node-standby": with_node("nodeb", standby=True),
    "node-maintenance": with_node("nodeb", maintenance=True),
    "node-pending": with_node("nodeb", pending=True),
    "fence-disabled": with_cib(STONITH_OFF),
    "fence-none": with_cib(WITHOUT_POWER),
    "fence-failed": replace(HEALTHY, pacemaker=said("fencefail")),
    "fence-device-down": with_instance("power", "nodea", role="Stopped", node=""),
    "fence-level-device": with_cib(('devices="gate,power" target="nodeb"', 'devices="gate,gone" target="nodeb"')),
    "fence-fabric": with_cib(('<primitive id="power" class="stonith" type="fence_lab">',
                              '<primitive id="power" class="stonith" type="fence_scsi">')),
    "fence-gate-alone": with_cib(('devices="gate,power" target="nodeb"', 'devices="gate" target="nodeb"')),
    "location-rule-missing": with_cib(("heartgate-r0", "heartgate-other")),
    "resource-banned": replace(HEALTHY, pacemaker=said("unmanaged-ban")),
    "resource-disabled": with_instance("r0", "nodea", disabled=True),
    "resource-unmanaged": replace(HEALTHY, pacemaker=said("unmanaged-ban")),
    "resource-blocked": with_instance("r0", "nodea", blocked=True, failed=True),
    "replica-stopped": with_instance("r0", "nodeb", role="Stopped", node=""),
    "attribute-wrong": with_pacemaker(attributes={("nodea", "heartgate-r0"): "synced"}),
    "drbd-fencing": drbd(fencing="dont-care"),
    "drbd-handler": drbd(handler="/usr/lib/drbd/crm-fence-peer.9.sh"),
    "drbd-protocol": drbd(protocol="A", kernel="A"),
    "drbd-two-primaries": drbd(two="yes"),
    "no-heartbeat": replace(HEALTHY, heartbeats=(heartbeat("0", DOWN, UNKNOWN, DOWN), heartbeat("1", DOWN, UNKNOWN, DOWN))),
    "nothing-guarded": replace(HEALTHY, devices=()),
    "daemon-unknown": replace(HEALTHY, daemon=Missing("heartgated's answer makes no sense"), devices=()),
    "replica-unknown": with_device(live=peer(disk="unknown", role="unknown")),
    "sync-link-unknown": sync("unknown"),
    "pacemaker-unknown": replace(HEALTHY, pacemaker=Missing("Pacemaker did not answer within 4 s (crm_mon)")),
    "fencing-unknown": with_pacemaker(fencings=None),
    "config-unknown": replace(HEALTHY, config=LintFacts("nodea", unreadable=(Unreadable("CIB", "cibadmin: rc 1"),))),
    "cib-conditional": with_cib(
        ("</crm_config>", '<cluster_property_set id="x"><rule id="y" score="1"/><nvpair id="z" name="stonith-enabled" value="0"/>'
         "</cluster_property_set></crm_config>")),
    "heartbeats-unknown": replace(HEALTHY, heartbeats=Missing("Corosync does not run here, or does not answer")),
    "heartbeat-unknown": replace(HEALTHY, heartbeats=(heartbeat("0"), heartbeat("1", UNKNOWN, UNKNOWN, UNKNOWN))),
    "one-heartbeat": replace(HEALTHY, heartbeats=(heartbeat("0"),)),
    "heartbeat-down": replace(HEALTHY, heartbeats=(heartbeat("0"), heartbeat("1"), heartbeat("2", DOWN, DOWN, UP))),
    "heartbeat-interface": with_daemon(interfaces=(Interface("beat", "hb0", "lost", "hb0 has no carrier"),)),
    "isolation-policy": with_device(live={"on_isolation": "freeze"}),
    "bias-not-agreed": with_device(live={"on_isolation": "bias", "bias_wanted": "nodea"}),
    "flush-failed": with_device(
        live={"peers": {"nodeb": PeerWord("blocked", 4, "outdated", "secondary")}},
        flush=Flush(0, (("filesystem:/srv", False, "no answer"),)), shown="solo", standing="solo"),
    "fence-pending": with_pacemaker(fencings=(replace(FAILED, status="pending"),)),
    "fence-gate": with_cib(('devices="gate,power" target="nodeb"', 'devices="power" target="nodeb"')),
    "fence-gate-first": with_cib(('devices="gate,power" target="nodeb"', 'devices="power,gate" target="nodeb"')),
    "fence-gate-bypass": with_cib(
        ("</fencing-topology>", '<fencing-level index="2" devices="power" target="nodea" id="fl2"/></fencing-topology>')),
    "fence-race": with_cib(('type="fence_heartgate"', 'type="fence_ipmilan"')),
    "fence-startup": with_cib(('name="dc-deadtime" value="200ms"', 'name="startup-fencing" value="false"')),
    "quorum-policy": with_cib(('name="no-quorum-policy" value="stop"', 'name="no-quorum-policy" value="ignore"')),
    "drbd-not-in-force": drbd(kernel="B"),
    "guard-stopped": with_instance("guard", "nodeb", role="Stopped", node=""),
    "resource-failed": with_instance("r0-writer", "nodea", failed=True),
    "hung-operations": with_daemon(hung=2),
    "daemon-name": with_daemon(name_trouble=("Corosync calls this node nodex now", "give it the name nodea back")),
}  # fmt: skip


def idents(facts: StatusFacts) -> Tuple[str, ...]:
    return tuple(each.ident for each in report(facts).reasons)


# --- reasons


def test_nothing_wrong_is_protected() -> None:
    made = report(HEALTHY)
    assert (made.reasons, made.health, made.unknown) == ((), PROTECTED, ())
    assert report(drbd()).reasons == ()
    assert report(three()).reasons == ()


def test_every_reason_has_its_situation() -> None:
    assert set(WRONG) == set(BY_IDENT) and len(REASONS) == len(BY_IDENT)


@pytest.mark.parametrize("ident", [each.ident for each in REASONS])
def test_a_reason_is_given_and_decides_the_health(ident: str) -> None:
    made = report(WRONG[ident])
    (found, *_) = [each for each in made.reasons if each.ident == ident]
    assert found.level is BY_IDENT[ident].level
    assert found.evidence and found.remedy and not found.evidence.endswith(".") and not found.remedy.endswith(".")
    assert made.health is not PROTECTED
    order = list(Health)
    assert made.health is min((each.level for each in made.reasons), key=order.index)
    assert [order.index(each.level) for each in made.reasons] == sorted(order.index(each.level) for each in made.reasons)


ONLY = {  # what follows from the one thing that is wrong; every other situation has its one reason
    "nobody-serves": {"replica-blocked", "attribute-wrong"},
    "person-needed": {"node-offline", "no-heartbeat", "replica-unproven"},
    "node-offline": {"no-heartbeat"},
    "carrier-lost": set(),
    "fence-none": {"fence-gate-alone", "fence-level-device"},
    "fence-level-device": {"fence-device-down"},
    "resource-banned": {"resource-unmanaged"},
    "resource-unmanaged": {"resource-banned"},
    "replica-stopped": set(),
    "daemon-unknown": {"nothing-guarded"},
    "fence-gate": {"fence-gate-bypass"},
    "fence-race": {"fence-gate"},
    "drbd-fencing": set(),
    "config-unknown": set(),
    "flush-failed": {"replica-resyncing"},
    "replica-unproven": set(),
}


@pytest.mark.parametrize("ident", [each.ident for each in REASONS])
def test_nothing_else_is_said_than_what_is_wrong(ident: str) -> None:
    assert set(idents(WRONG[ident])) - {ident} <= ONLY.get(ident, set())


# --- levels


@pytest.mark.parametrize("word", ["blocked", "unproven", "deciding"])
def test_with_another_good_replica_a_bad_one_only_degrades(word: str) -> None:
    made = report(three(nodeb={"standing": word}))
    assert {each.level for each in made.reasons} == {DEGRADED} and made.health is DEGRADED
    worse = report(three(nodeb={"standing": word}, nodec={"standing": word}))
    assert worse.health is AT_RISK


def test_a_node_in_standby_is_no_spare() -> None:
    standby = with_node("nodeb", standby=True)
    both = replace(three(nodec={"standing": "blocked"}), pacemaker=standby.pacemaker)
    assert [each.level for each in report(both).reasons if each.ident == "replica-blocked"] == [AT_RISK]


def test_no_stonith_is_less_bad_with_an_agreed_bias() -> None:
    off = with_cib(STONITH_OFF)
    agreed = {"on_isolation": "bias", "bias_wanted": "nodea", "bias_agreed": "nodea"}
    assert report(with_device(off, live=agreed)).health is DEGRADED
    not_agreed = report(with_device(off, live={**agreed, "bias_agreed": ""}))
    assert {each.ident: each.level for each in not_agreed.reasons} == {"fence-disabled": AT_RISK, "bias-not-agreed": AT_RISK}


def test_one_fencing_device_of_two_levels_only_degrades() -> None:
    second = '<fencing-level index="2" devices="gate,watchdog" target="{0}" id="fl-{0}-2"/>'
    levels = "".join(map(second.format, ("nodea", "nodeb")))
    facts = replace(with_cib(("</fencing-topology>", f"{levels}</fencing-topology>")),
                    pacemaker=WRONG["fence-device-down"].pacemaker)  # fmt: skip
    assert [(each.ident, each.level) for each in report(facts).reasons] == [("fence-device-down", DEGRADED)]


def test_a_fencing_that_failed_before_one_that_succeeded_is_over() -> None:
    good = replace(FAILED, status="success")
    assert idents(with_pacemaker(fencings=(good, FAILED))) == ()
    assert idents(with_pacemaker(fencings=(FAILED, good))) == ("fence-failed",)
    elsewhere = replace(FAILED, target="remote7")
    assert idents(with_pacemaker(fencings=(elsewhere,))) == ()


def test_our_own_rule_is_no_ban() -> None:
    """While a replica is blocked crm_mon lists the rule as a ban: to delete it would be the worst advice."""
    made = idents(replace(with_device(live=BLOCKED_PEER, **SOLO), pacemaker=said("sync")))
    assert "replica-blocked" in made and "resource-banned" not in made
    mine = Ban("location-mine", "r0-clone", "nodeb", False)
    assert idents(with_pacemaker(bans=(mine,))) == ("resource-banned",)
    assert idents(with_pacemaker(bans=(replace(mine, resource="something-else"),))) == ()


@pytest.mark.parametrize("spoilt", [
    (RULE, RULE.replace("Master", "Started")), (RULE, RULE.replace("-INFINITY", "-1000")),
])  # fmt: skip
def test_a_rule_that_does_not_forbid_promotion_is_none(spoilt: Tuple[str, str]) -> None:
    assert "location-rule-missing" in idents(with_cib(spoilt))


def test_the_newer_word_for_the_role_counts_too() -> None:
    assert idents(with_cib((RULE, RULE.replace("Master", "Promoted")))) == ()


def test_a_stopped_resource_of_a_node_that_is_away_is_no_second_reason() -> None:
    away = replace(with_node("nodeb", standby=True), devices=HEALTHY.devices)
    stopped = with_instance("r0", "nodeb", role="Stopped", node="").pacemaker
    facts = replace(away, pacemaker=replace(stopped, nodes=away.pacemaker.nodes))  # type: ignore[union-attr, type-var]
    assert idents(facts) == ("node-standby",)


@pytest.mark.parametrize("level, links", [
    (None, ("0", "1")), ("heartbeat-down", ("0", "1", "2")), ("one-heartbeat", ("0",)), ("no-heartbeat", ()),
])  # fmt: skip
def test_heartbeats_left(level: Any, links: Tuple[str, ...]) -> None:
    dead = () if level is None else (heartbeat("9", DOWN, UNKNOWN, DOWN),)
    found = idents(replace(HEALTHY, heartbeats=(*map(heartbeat, links), *dead)))
    assert (level in found) if level else found == ()


def test_one_direction_lost_is_told() -> None:
    made = report(replace(HEALTHY, heartbeats=(heartbeat("0"), heartbeat("1", DOWN, DOWN, UP))))
    (down,) = [each for each in made.reasons if each.ident == "heartbeat-down"]
    assert "sending down, receiving up" in down.evidence and "10.77.11.1 (hb1) -> 10.77.11.2" in down.evidence


def test_who_waits_for_a_fencing_is_told_how_a_person_vouches_for_it() -> None:
    frozen = alone({"frozen": True, "waits": "waits for nodeb to be fenced"}, shown="deciding", standing="deciding")
    (reason,) = [each for each in report(frozen).reasons if each.ident == "device-frozen"]
    assert "waits for nodeb to be fenced" in reason.evidence and reason.remedy.endswith("off: stonith_admin --confirm nodeb")
    (reason,) = [each for each in report(WRONG["device-frozen"]).reasons if each.ident == "device-frozen"]
    assert "--confirm" not in reason.remedy, "nodeb is heard: it confirms by itself"


def test_a_node_whose_pacemaker_has_ended_is_not_told_to_leave_standby() -> None:
    """Seen: crm_mon calls it pending and standby, and `unstandby` would do nothing."""
    left = said("pcmk-down-a").node("nodeb")
    assert left is not None and left.standby and left.pending
    assert idents(with_node("nodeb", standby=True, pending=True)) == ("node-pending",)


def test_a_guard_of_another_device_does_not_count() -> None:
    second = ('name="device" value="r0"', 'name="device" value="r1"')
    assert idents(with_cib(second)) == ()  # which one is r0's is not to be seen (its device may be named by its path)
    other = (
        '<clone id="other-clone"><primitive id="other" class="ocf" provider="heartgate" type="replica-guard">'
        '<instance_attributes id="oi"><nvpair id="on" name="device" value="r1"/></instance_attributes></primitive></clone>'
    )
    xml = text("cib.xml").replace('<primitive id="gate"', f'{other}<primitive id="gate"')
    stopped = with_instance("guard", "nodeb", role="Stopped", node="").pacemaker
    running = replace(said("healthy").instances[5], ident="other", parent="other-clone", node="nodeb")
    assert running.agent == "ocf:heartgate:replica-guard"
    facts = replace(HEALTHY, config=LintFacts("nodea", cib=cib_conf.parse(xml)), pacemaker=stopped)
    assert isinstance(facts.pacemaker, crm_mon.Pacemaker)
    facts = with_pacemaker(facts, instances=(*facts.pacemaker.instances, running))
    assert idents(facts) == ("guard-stopped",)


def test_a_node_without_a_replica_is_missed_less() -> None:
    third = (heartbeat("0", DOWN, UNKNOWN, DOWN, node="nodec"),)
    made = report(replace(HEALTHY, heartbeats=(*HEALTHY.heartbeats, *third)))  # type: ignore[misc]
    assert [(each.ident, each.level) for each in made.reasons] == [("no-heartbeat", DEGRADED)]


def test_words_of_a_daemon_that_has_fallen_silent_do_not_count() -> None:
    """It hangs: the group has not noticed, and what it said last may be hours old."""
    for beats in ({"nodeb": 60_000}, {}):
        made = report(with_daemon(beats_ms=beats))
        assert [(each.ident, each.level) for each in made.reasons] == [("daemon-silent", AT_RISK)]
    assert idents(with_daemon(beats_ms={"nodeb": 900})) == ()


def test_a_name_that_pacemaker_does_not_know() -> None:
    nodes = tuple(replace(each, name=f"{each.name}.example.org") for each in said("healthy").nodes)
    found = report(with_pacemaker(nodes=nodes))
    assert [each.subject for each in found.reasons if each.ident == "node-offline"] == ["nodea", "nodeb"]
    assert "knows no node nodeb (its nodes: nodea.example.org" in found.reasons[1].evidence and found.health is AT_RISK


def test_a_node_to_which_no_heartbeat_leads() -> None:
    assert idents(replace(HEALTHY, heartbeats=())) == ("no-heartbeat",)


def test_a_rule_for_a_resource_that_is_not_there() -> None:
    assert idents(with_cib(('rsc="r0-clone">', 'rsc="gone">'))) == ("replica-stopped",)


def test_a_device_that_drbds_configuration_does_not_name() -> None:
    assert idents(with_device(live={"driver": "drbd"})) == ("config-unknown",)


def test_no_word_about_quorum_is_no_quorum() -> None:
    assert report(with_pacemaker(quorate=None)).health is Health.UNKNOWN


WORDS = st.sampled_from(["synced", "solo", "blocked", "unproven", "deciding"])
DISKS = st.sampled_from(["uptodate", "outdated", "unknown", "absent"])
ROLES = st.sampled_from(["primary", "secondary", "unknown"])
LINKS = st.sampled_from(["up", "down", "unknown"])
STATES = st.sampled_from([UP, DOWN, UNKNOWN])
FROZEN = st.sampled_from([False, True, None])


OTHER = st.one_of(st.none(), st.tuples(WORDS, DISKS, ROLES))


def test_a_primary_that_serves_from_the_other_nodes_disk() -> None:
    """The loss of that node would end the service, although it could be moved there."""
    peers = {"nodeb": PeerWord("synced", 4, "uptodate", "secondary")}
    live = {"peers": peers, "links": {"nodeb": SyncLink("up", "unknown")}, "role": "primary", "frozen": False}
    assert report(with_device(live={**live, "disk": "uptodate"})).health is PROTECTED
    assert report(with_device(live={**live, "disk": "uptodate"}, standing="solo", shown="solo")).health is AT_RISK
    for disk in ("outdated", "diskless", "failed"):
        made = report(with_device(live={**live, "disk": disk}))
        assert made.health is AT_RISK and made.serving[0].state is Served.SERVED, made
        assert [each.ident for each in made.reasons] == ["replica-not-uptodate"]


@given(WORDS, DISKS, ROLES, FROZEN, OTHER, LINKS, st.booleans(), STATES, st.booleans())
def test_good_words_are_said_only_of_what_is_seen_to_be_good(
    standing: str, disk: str, role: str, frozen: Any, other: Any, link: str, reachable: bool, beat: Any, known: bool
) -> None:
    peers = {} if other is None else {"nodeb": PeerWord(other[0], 4, other[1], other[2])}
    live = {"peers": peers, "links": {"nodeb": SyncLink(link, "unknown")}, "role": role, "disk": disk, "frozen": frozen}
    facts = with_daemon(with_device(live=live, standing=standing, shown=standing),
                        reachable=("nodea", "nodeb") if reachable else ("nodea",))  # fmt: skip
    facts = replace(facts, heartbeats=(heartbeat("0"), heartbeat("1", beat, beat, beat)))  # type: ignore[misc]
    facts = facts if known else replace(facts, pacemaker=Missing("no answer"))
    made = report(facts)
    (now,) = made.serving
    if made.health in (PROTECTED, DEGRADED):
        assert other is not None and reachable and known and link == "up"
        assert (standing, other[0], disk, other[1]) == ("synced", "synced", "uptodate", "uptodate")
        assert frozen is False or (frozen, role) == (None, "secondary")
        assert "unknown" not in (role, other[2]) and (role, other[2]) != ("primary", "primary")
        assert now.state in (Served.SERVED, Served.READY)
    if now.state is Served.SERVED:
        assert (role == "primary" and frozen is False and standing in ("synced", "solo")) or (other and other[2] == "primary")
    if made.health is PROTECTED:
        assert beat is UP


# --- unknown is never good


@pytest.mark.parametrize("field", ["daemon", "pacemaker", "heartbeats", "config"])
@pytest.mark.parametrize("missing", [
    Missing("no answer"), Missing("not allowed", refused=True), Missing("not asked (--quick)", asked=False),
])  # fmt: skip
def test_a_source_that_tells_nothing_is_never_protected(field: str, missing: Missing) -> None:
    facts = replace(HEALTHY, **{field: missing})
    if field == "daemon":
        facts = replace(facts, devices=())
    if field == "config":  # comes with Pacemaker in practice
        facts = replace(facts, pacemaker=missing)
    made = report(facts)
    assert made.health is Health.UNKNOWN and made.unknown
    if missing.refused:
        assert any("root" in each.remedy for each in made.reasons)


def test_without_a_daemon_what_is_written_is_shown_and_nothing_is_claimed() -> None:
    made = report(WRONG["daemon-down"])
    (now,) = made.serving
    assert now.state is Served.UNKNOWN and now.nodes == ("nodea",) and "Pacemaker has it promoted on nodea" in now.words
    (row, *_) = made.devices[0].replicas
    assert (row.source, row.standing, row.role, row.disk) == ("written", "solo", "unknown", "unknown")


def test_bytes_out_of_sync_that_are_not_known_are_told() -> None:
    made = report(with_device(live={"lacks": {}, "lacks_unknown": "the replication driver does not answer"}))
    assert made.health is PROTECTED and made.devices[0].replicas[1].lacks_bytes is None
    assert [(each.source, each.hides) for each in made.unknown] == [("r0", "bytes out of sync")]


def test_a_carrier_that_is_lost_says_nothing_about_nodes() -> None:
    assert "node-offline" not in idents(WRONG["carrier-lost"])


# --- who serves


SECONDARY = {"role": "secondary"}
SERVES = [
    (HEALTHY, Served.SERVED, ("nodea",)),
    (with_device(live=BLOCKED_PEER, **SOLO), Served.SERVED, ("nodea",)),
    (with_device(live={**SECONDARY, **peer(role="primary")}), Served.SERVED, ("nodeb",)),
    (with_device(live=SECONDARY), Served.READY, ("nodea", "nodeb")),
    (with_device(live={**SECONDARY, **BLOCKED_PEER}, **SOLO), Served.READY, ("nodea",)),
    (WRONG["device-frozen"], Served.FROZEN, ("nodea",)),
    (with_device(live={"frozen": True}), Served.FROZEN, ("nodea",)),
    (with_device(live={**SECONDARY, **peer(role="primary", standing="deciding")}), Served.FROZEN, ("nodeb",)),
    (WRONG["nobody-serves"], Served.NOBODY, ()),
    (alone(SECONDARY, **UNPROVEN), Served.UNKNOWN, ("nodea",)),
    (alone(SECONDARY), Served.UNKNOWN, ("nodea",)),  # synced: nodeb may have it Primary for all that is known here
    (alone(SECONDARY, **SOLO), Served.READY, ("nodea",)),  # solo has proof about nodeb
    (with_device(live={"role": "unknown", "disk": "unknown", "frozen": None}), Served.UNKNOWN, ("nodea",)),
    (with_device(live={"frozen": None}), Served.UNKNOWN, ("nodea",)),
    (with_device(live={"role": "unknown", **BLOCKED_PEER}, **SOLO), Served.UNKNOWN, ("nodea",)),
    (WRONG["daemon-down"], Served.UNKNOWN, ("nodea",)),
]


@pytest.mark.parametrize("number", range(len(SERVES)))
def test_who_serves(number: int) -> None:
    facts, state, nodes = SERVES[number]
    (now,) = report(facts).serving
    assert (now.state, now.nodes) == (state, nodes), now.words


def test_pacemakers_word_is_named_as_such_where_the_node_is_not_heard() -> None:
    (now,) = report(alone(SECONDARY)).serving
    assert now.words.startswith("not known: nodea is synced; nodeb is not heard") and "Pacemaker has it" in now.words


def test_a_resync_of_a_peer_is_told_as_one() -> None:
    made = report(WRONG["replica-resyncing"])
    assert made.devices[0].replicas[1].standing == "resyncing"


def test_the_daemon_of_the_facts_is_the_one_that_answered() -> None:
    assert isinstance(HEALTHY.daemon, Daemon) and UP.value == "up"

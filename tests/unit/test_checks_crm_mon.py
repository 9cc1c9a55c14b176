"""What Pacemaker 2.1.5 said on a real cluster of the namespace lab, and what is no such answer."""

from __future__ import annotations

import pytest

from heartgate.checks import cib_conf, crm_mon
from heartgate.checks.source import ParseError
from tests.unit.status_facts import said, text


def test_a_healthy_cluster() -> None:
    found = said("healthy")
    assert (found.dc, found.quorate, found.maintenance_mode, found.stop_all, found.fencings, found.bans) == (
        "nodea", True, False, False, (), ())  # fmt: skip
    assert [(node.name, node.online, node.standby, node.pending, node.unclean) for node in found.nodes] == [
        ("nodea", True, False, False, False), ("nodeb", True, False, False, False)]  # fmt: skip
    assert [(x.ident, x.parent, x.node, x.promoted) for x in found.instances if x.ident == "r0"] == [
        ("r0", "r0-clone", "nodea", True), ("r0", "r0-clone", "nodeb", False)]  # fmt: skip
    assert all(x.active and x.managed and not (x.failed or x.blocked or x.disabled) for x in found.instances)
    assert found.attributes is not None and found.attributes["nodeb", "heartgate-r0"] == "synced"


def test_what_is_wrong_is_seen() -> None:
    assert said("maint").maintenance_mode and not any(x.managed for x in said("maint").instances)
    standby = said("standby").node("nodeb")
    assert standby is not None and standby.standby and standby.online
    (idle,) = [x for x in said("standby").instances if x.ident == "guard" and not x.active]
    assert (idle.role, idle.node) == ("Stopped", "")
    left = said("pcmk-down-a").node("nodeb")
    assert left is not None and left.pending
    ban = said("unmanaged-ban")
    assert [(x.ident, x.resource, x.node) for x in ban.bans] == [("cli-ban-r0-clone-on-nodeb", "r0-clone", "nodeb")]
    assert {x.ident for x in ban.instances if not x.managed} == {"r0"}
    (fencing,) = said("fencefail").fencings or ()
    assert (fencing.target, fencing.action, fencing.status) == ("nodeb", "reboot", "failed")


def test_what_pacemaker_3_and_1_write_differently() -> None:
    older = crm_mon.parse(text("healthy.xml").replace('"Promoted"', '"Master"').replace('"Unpromoted"', '"Slave"'))
    assert [(x.node, x.promoted, x.active) for x in older.instances if x.ident == "r0"] == [
        ("nodea", True, True), ("nodeb", False, True)]  # fmt: skip
    group, inside = '<group id="g" managed="false" disabled="true">', '<resource id="r0-writer"'
    grouped = text("healthy.xml").replace(inside, group + inside)
    head, tail = grouped.split('<clone id="guard-clone"')
    (inner,) = [x for x in crm_mon.parse(f'{head}</group><clone id="guard-clone"{tail}').instances if x.ident == "r0-writer"]
    assert (inner.parent, inner.managed, inner.disabled) == ("g", False, True)


@pytest.mark.parametrize("name, code, why", [("pcmk-down-b", 102, "Connection refused"), ("nobody", 4, "Permission denied")])
def test_a_failure_says_why(name: str, code: int, why: str) -> None:
    found, reason = crm_mon.failure(text(f"{name}.xml"))
    assert found == code and why in reason
    with pytest.raises(ParseError, match="expected <summary>"):
        crm_mon.parse(text(f"{name}.xml"))


def test_an_answer_is_no_failure() -> None:
    assert crm_mon.failure(text("healthy.xml"))[0] == 0


@pytest.mark.parametrize("nonsense", ["", "crm_mon: error", "<html/>", "<pacemaker-result/>", "\0", text("healthy.xml")[:900]])
def test_nonsense_is_refused_with_its_place(nonsense: str) -> None:
    with pytest.raises(ParseError, match="crm_mon:"):
        crm_mon.parse(nonsense)


def test_no_fencer_is_no_empty_history() -> None:
    broken = text("fencefail.xml").replace("<fence_history>", '<fence_history status="102">')
    assert crm_mon.parse(broken).fencings is None


# --- location rules of the CIB


def test_rules_of_locations() -> None:
    found = cib_conf.parse(text("cib.xml")).locations
    assert [(x.ident, x.resources, x.promoted, x.never, x.attributes) for x in found] == [
        ("location-r0-clone-rule", ("r0-clone",), True, True, ("heartgate-r0",)),
        ("location-r0-clone-1-rule", ("r0-clone",), True, False, ("#uname",)),
    ]


def test_rules_in_other_shapes() -> None:
    constraints = """<rsc_location id="a" rsc-pattern="^r"><rule id="a1" role="promoted" score="-INFINITY">
      <rule id="a2" boolean-op="and"><expression attribute="heartgate-r0" operation="ne" value="solo"/></rule></rule></rsc_location>
      <rsc_location id="b"><resource_set id="s" role="Promoted"><resource_ref id="x"/><resource_ref id="y"/></resource_set>
      <rule id="b1" score="-infinity"><expression attribute="heartgate-r0" operation="not_defined"/></rule></rsc_location>
      <rsc_location id="c" rsc="z" role="Promoted" node="n" score="-INFINITY"/>"""
    cib = cib_conf.parse(f"<cib><configuration><constraints>{constraints}</constraints></configuration></cib>")
    assert [(x.ident, x.resources, x.promoted, x.never) for x in cib.locations] == [
        ("a1", ("PATTERN~^r",), True, True), ("b1", ("x", "y"), True, True)]  # fmt: skip

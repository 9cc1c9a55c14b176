"""What is asked before a heartbeat pair is added: the rules of `heartgate check`, over the facts of both ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Set, Tuple

import pytest

from heartgate.checks.findings import Severity
from heartgate.checks.model import HostFacts
from heartgate.cli.heartbeat_rules import End, Pair, check_pair
from tests.unit.test_checks_heartbeat_rules import E, W, adapter, added, bond, changed, good


def hosts() -> Tuple[HostFacts, HostFacts]:
    return added(good(1), adapter(1, 7, "new")), added(good(2), adapter(2, 7, "new"))


def told(one: Any, two: Any, theirs: str = "new") -> Set[Tuple[str, Severity]]:
    ends = (End("node1", "10.0.7.1", "new", "new"), End("node2", "10.0.7.2", theirs, theirs))
    pair = Pair(1, ends, {}, (), "node1", one, {"node2": two} if two else {})
    return {(each.rule, each.severity) for each in check_pair(pair)}


def test_a_good_pair_is_silent() -> None:
    assert told(*hosts()) == set()
    assert told(hosts()[0], None) == set() and told(None, None) == set()  # not known is no reason to refuse


@pytest.mark.req("B2", "B3", "B4", "B5", "C7")
def test_both_ends_are_judged() -> None:
    one, two = hosts()
    assert ("duplex", E) in told(one, changed(two, "new", duplex="half"))
    assert ("speed", W) in told(changed(one, "new", speed_mbit=1000), two)
    assert ("virtual-switch", E) in told(changed(one, "new", kind="macvlan"), None)
    assert ("same-adapter", E) in told(one, two, theirs="sync0")
    assert ("mtu", W) in told(one, changed(two, "new", mtu=9000))
    vlan = replace(two, interfaces=tuple(replace(item, kind="vlan", lower=("hb0",)) if item.name == "new" else item
                                         for item in two.interfaces))  # fmt: skip
    assert ("vlan", E) in told(one, vlan)


@pytest.mark.req("B7")
def test_a_bond_that_balances_is_refused() -> None:
    one, two = bond("balance-alb")(good(1), good(2))
    ends = (End("node1", "10.0.1.1", "hb0", "hb0"), End("node2", "10.0.1.2", "hb0", "hb0"))
    found = check_pair(Pair(1, ends, {}, (), "node1", one, {"node2": two}))
    assert ("bond-mode", E) in {(each.rule, each.severity) for each in found}


def test_with_three_nodes_each_thing_is_said_once() -> None:
    one, two = hosts()
    one = changed(one, "new", duplex="half")
    three = replace(two, host="node3")
    ends = tuple(End(f"node{number}", f"10.0.7.{number}", "new", "new") for number in (1, 2, 3))
    found = check_pair(Pair(1, ends, {}, (), "node1", one, {"node2": two, "node3": three}))
    assert [each.rule for each in found] == ["duplex"]

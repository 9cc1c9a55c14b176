"""Another set of nodes in `priorities` is refused while there is a record for the old one; everything goes on under that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from heartgate.core.model import Disk, Link, PeerLink, Proof, ProofKind, Record, Replica, ReplicaChanged, Role, Standing
from heartgate.daemon.store import Saved
from tests.unit.test_daemon_fakes import PARAMS, Bench

BOTH = ("nodea", "nodeb")
LINKED = Replica(Disk.UPTODATE, Role.SECONDARY, False, (("nodeb", PeerLink(Link.UP, 1, Disk.UPTODATE)),), "G1")
SYNCED = Record(Standing.SYNCED, 4, BOTH, "boot-1")
SOLO = Record(Standing.SOLO, 5, ("nodea",), "boot-1", (Proof("nodeb", ProofKind.CONFIRMED, 5),))
BLOCKED = Record(Standing.BLOCKED, 5, ("nodeb",), "boot-1", (), "nodeb")


def make(directory: Path, record: Optional[Record] = SYNCED) -> Bench:
    it = Bench(directory)
    it.world.initial = {"r0": LINKED}
    it.world.names = ("nodea", "nodeb", "nodec")
    if record is not None:
        it.daemon.services.store.save_record("r0", record)
    it.daemon.start()
    return it


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = make(tmp_path)
    it.guard()
    yield it
    it.close()


def call(bench: Bench, op: str, **params: str) -> Dict[str, Any]:
    line = json.dumps({"op": op, "params": {**PARAMS, **params}}).encode() + b"\n"
    answer: Dict[str, Any] = json.loads(bench.ask(line))
    return answer


def codes(answer: Dict[str, Any]) -> List[str]:
    return [each["code"] for each in answer.get("problems", [])]


def moves(bench: Bench) -> None:
    """Steps are taken: the facts change, and nothing is refused."""
    guard = bench.daemon.guards["r0"]
    for role in (Role.PRIMARY, Role.SECONDARY):
        guard.handle(ReplicaChanged(LINKED._replace(role=role)))
        assert guard.broken == () and guard.state.replica.role is role
    assert b'"rc":0' in bench.ask(b'{"op":"monitor","device":"r0"}\n')


OTHERS = ["nodea:1 nodeb:2 nodec:3", "nodea:1 nodec:2"]


@pytest.mark.req("A10", "E1")
@pytest.mark.parametrize("priorities", OTHERS)
@pytest.mark.parametrize("op", ["register", "check"])
def test_other_nodes_are_refused_and_the_guard_goes_on(bench: Bench, op: str, priorities: str) -> None:
    answer = call(bench, op, priorities=priorities)
    assert answer["ok"] is False and codes(answer) == ["priorities-nodes-changed"], answer
    told = f"{answer['problems'][0]['message']}; {answer['problems'][0]['remedy']}"
    for part in ("is for the nodes nodea nodeb,", f'priorities="{priorities}"', 'priorities="nodea:1 nodeb:2"', "resource cleanup",
                 "`heartgate forget r0` on every node", "delete the location rule on heartgate-r0"):  # fmt: skip
        assert part in told, (part, told)
    assert told.index("1. when all say") < told.index("2. `heartgate forget") < told.index("3. create")
    guard = bench.daemon.guards["r0"]
    assert guard.config.nodes == BOTH and guard.active and guard.state.record.standing is Standing.SYNCED
    moves(bench)
    saved, _ = bench.daemon.services.store.load_config("r0")
    assert saved is not None and saved.params["priorities"] == "nodea:1 nodeb:2"
    assert "invariant" not in bench.world.journal.kinds()


@pytest.mark.parametrize("priorities", OTHERS)
def test_a_restart_of_the_daemon_changes_nothing_of_that(bench: Bench, tmp_path: Path, priorities: str) -> None:
    """Pacemaker has the new parameters all the while, and tries to start."""
    assert not call(bench, "register", priorities=priorities)["ok"]
    bench.close()
    again = make(tmp_path, None)
    try:
        assert again.daemon.guards["r0"].config.nodes == BOTH
        assert codes(call(again, "register", priorities=priorities)) == ["priorities-nodes-changed"]
        again.until("facts", lambda: again.daemon.guards["r0"].state.replica == LINKED)
        moves(again)
    finally:
        again.close()


@pytest.mark.parametrize("priorities", ["nodeb:2 nodea:1", "nodea:2 nodeb:1", "nodea:10 nodeb:20"])
def test_the_same_nodes_in_another_order_are_taken_over(bench: Bench, priorities: str) -> None:
    assert call(bench, "register", priorities=priorities)["ok"] is True
    wanted = {item.split(":")[0]: int(item.split(":")[1]) for item in priorities.split()}
    assert dict(bench.daemon.guards["r0"].config.priorities) == wanted
    moves(bench)


def test_the_old_nodes_again_after_a_refusal(bench: Bench) -> None:
    assert not call(bench, "register", priorities=OTHERS[0])["ok"]
    assert call(bench, "register")["ok"] is True
    moves(bench)


@pytest.mark.parametrize("record", [SYNCED, SOLO])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_record_alone_tells_as_much(tmp_path: Path, record: Record, damaged: bool) -> None:
    it = make(tmp_path, record)
    try:
        if damaged:
            (it.directory / "state" / "r0.config").write_bytes(b"garbage")
        assert codes(call(it, "register", priorities=OTHERS[0])) == ["priorities-nodes-changed"]
        assert "r0" not in it.daemon.guards and it.daemon.services.store.read_record("r0") == record
        assert call(it, "register")["ok"] is True
        moves(it)
    finally:
        it.close()


def test_a_record_that_may_not_serve_names_not_everybody(tmp_path: Path) -> None:
    """What it names has to be there; who else there was is not known, and it claims nothing about them."""
    it = make(tmp_path, BLOCKED)
    try:
        assert codes(call(it, "register", priorities="nodea:1 nodec:2")) == ["priorities-nodes-changed"]
        assert call(it, "register")["ok"] is True
        assert it.daemon.guards["r0"].state.record.standing is Standing.BLOCKED
    finally:
        it.close()


def test_without_a_record_any_nodes_are_good(tmp_path: Path) -> None:
    it = make(tmp_path, None)
    try:
        assert call(it, "register", priorities=OTHERS[0])["ok"] is True
        assert it.daemon.guards["r0"].config.nodes == ("nodea", "nodeb", "nodec")
    finally:
        it.close()


def test_other_nodes_and_what_else_is_wrong_are_told_together(bench: Bench) -> None:
    assert codes(call(bench, "register", priorities="nodea:1 nodez:2")) == ["priorities-nodes-changed", "priorities-unknown-node"]


def test_a_record_of_this_machine_under_another_name(tmp_path: Path) -> None:
    """nodea and nodeb have swapped their names: `in_sync` would mean the other one."""
    it = make(tmp_path, None)
    try:
        it.daemon.services.store.save_record("r0", SYNCED)
        it.daemon.services.store.save_config(Saved("r0", "nodeb", PARAMS, True))
        assert codes(call(it, "register")) == ["priorities-me-changed"]
    finally:
        it.close()


def test_a_configuration_that_does_not_fit_its_record_is_told_at_the_start(tmp_path: Path) -> None:
    """Files changed by hand: everything is refused step by step, and the journal says why."""
    it = Bench(tmp_path)
    store = it.daemon.services.store
    store.save_record("r0", SYNCED)
    store.save_config(Saved("r0", "nodea", {**PARAMS, "priorities": OTHERS[0]}, True))
    it.daemon.start()
    try:
        assert "it proves nothing about others" in it.world.journal.text()
        assert it.daemon.guards["r0"].broken and store.read_record("r0") == SYNCED
    finally:
        it.close()

"""fence_heartgate with three replicas: what the daemon tells of a third node, and a shot for one that has the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from heartgate.adapters.base import Delivery, View
from heartgate.core import codec
from heartgate.core.fencing import Other
from heartgate.core.model import Disk, Link, LinkReport, Message, Role, Standing
from heartgate.daemon import status
from heartgate.fencing import facts
from tests.unit.fence_process import Served, agent, until
from tests.unit.test_daemon_fakes import Bench

THREE = "nodea:1 nodeb:2 nodec:3"
TOGETHER = ("nodea", "nodeb", "nodec")


def heard_from(sender: str, standing: Standing, in_sync: Tuple[str, ...], *links: LinkReport) -> Delivery:
    message = Message("r0", sender, f"run-{sender}", standing, 7, in_sync, Disk.UPTODATE, Role.SECONDARY, "G1", (), links)
    return Delivery(sender, codec.encode_payload(sender, f"run-{sender}", [codec.encode_message(message)]))


@pytest.mark.req("E7")
def test_the_daemon_tells_of_third_nodes_only_what_is_heard_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "SPEAKING_S", 600.0)
    bench = Bench(tmp_path)
    bench.world.names = TOGETHER
    bench.daemon.start()
    bench.guard(priorities=THREE)

    def told() -> Dict[str, object]:
        answer: Dict[str, object] = json.loads(bench.ask(b'{"op":"fencing","node":"nodeb"}\n'))["devices"][0]
        return answer

    try:
        assert told()["others"] == {}
        carrier = bench.world.carriers[-1]
        carrier.arrive(View(TOGETHER, TOGETHER, True))
        carrier.arrive(heard_from("nodeb", Standing.SYNCED, TOGETHER))
        carrier.arrive(heard_from("nodec", Standing.DECIDING, TOGETHER, LinkReport("nodeb", Link.DOWN, 1, 1)))
        bench.until("the messages", lambda: told()["target"] and told()["others"])
        told_of = {"standing": "deciding", "epoch": 7, "disk": "uptodate", "role": "secondary", "link": "down"}
        assert told()["others"] == {"nodec": told_of}
        carrier.arrive(heard_from("nodec", Standing.DECIDING, TOGETHER))
        bench.until("the message", lambda: told()["others"] == {"nodec": {**told_of, "link": "unknown"}})
        with monkeypatch.context() as patch:
            patch.setattr(status, "SPEAKING_S", 0.0)
            assert told()["others"] == {}, "its daemon hangs"
        carrier.arrive(View(("nodea",), ("nodea",), True))
        bench.until("the loss", lambda: not told()["others"])
        assert told()["target"], "of the target the last word is told"
    finally:
        bench.close()


@pytest.mark.req("E7")
def test_a_blocked_node_shoots_for_the_one_that_it_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nodea is left out, nodeb and nodec served; nodec has fallen silent, and its fencing is asked of nodea."""
    monkeypatch.setattr(status, "SPEAKING_S", 600.0)
    running = Served(tmp_path, priorities=THREE)
    running.bench.world.names = TOGETHER
    with running as bench:
        until(lambda: "r0" in bench.daemon.guards)
        carrier = bench.world.carriers[-1]
        bench.daemon.loop.mailbox.post(lambda: carrier.arrive(View(TOGETHER, TOGETHER, True)))
        serving = heard_from("nodeb", Standing.SOLO, ("nodeb", "nodec"), LinkReport("nodec", Link.DOWN, 1, 1))
        refused = agent(tmp_path, "-o", "off", "-n", "nodec", "--rank-delay=1")
        bench.daemon.loop.mailbox.post(lambda: carrier.arrive(serving))
        until(lambda: bench.daemon.guards["r0"].state.record.standing is Standing.BLOCKED)
        done = agent(tmp_path, "-o", "off", "-n", "nodec", "--rank-delay=1", "-v")
    assert refused.rc == 1 and "(rule data)" in refused.err, refused
    assert done.rc == 0 and "nodeb is heard to have the data of r0" in done.out and "(rule for-another)" in done.out, done
    assert done.elapsed_s >= 2 and '"promised_to": "nodeb"' in done.err, done


@pytest.mark.req("E7")
def test_what_an_older_daemon_does_not_tell_of_third_nodes_is_nothing() -> None:
    told = {"standing": "solo", "epoch": 4, "disk": "uptodate", "role": "primary", "link": "down"}
    item = {"device": "r0", "standing": "blocked", "epoch": 4, "in_sync": [], "disk": "outdated", "link": "down", "target": None,
            "policy": "priority", "believed_roles": ["secondary"], "priorities": {"nodea": 1, "nodeb": 2, "nodec": 3}}  # fmt: skip
    assert facts._of_guard("nodea", "nodeb", item)[0].others == ()
    new = {**item, "promised_to": "nodec", "others": {"nodec": told, "nodez": told}}
    found = facts._of_guard("nodea", "nodeb", new)[0]
    assert found.others == (Other("nodec", Standing.SOLO, 4, Disk.UPTODATE, Link.DOWN),), "nodez holds no replica"
    assert found.promised_to == "nodec"
    nonsense: List[object] = [None, [], "nodec", {"nodec": None}, {"nodec": {}}]
    nonsense += [{"nodec": {**told, name: "x"}} for name in ("standing", "epoch", "disk", "link")]
    nonsense += [{"nodec": {**told, "epoch": value}} for value in (None, 4.5, True, "4")]
    for others in nonsense:
        with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
            facts._of_guard("nodea", "nodeb", {**item, "others": others})

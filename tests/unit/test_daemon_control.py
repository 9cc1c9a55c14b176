"""The control socket: garbage, floods, slow and half-closed clients, many clients, other users. The loop goes on."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartgate.adapters.base import Problem
from heartgate.daemon import control, requests
from heartgate.daemon.client import number_in, quote, request, text_in
from tests.unit.test_daemon_fakes import ALONE, PARAMS, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.daemon.start()
    yield it
    it.close()


def call(bench: Bench, op: str, **fields: Any) -> Dict[str, Any]:
    answer: Dict[str, Any] = json.loads(bench.ask(json.dumps({"op": op, **fields}).encode() + b"\n"))
    return answer


def alive(bench: Bench) -> bool:
    return bench.ask(b'{"op":"ping"}\n').startswith(b'{"ok":true')


def test_the_socket_is_root_s_own(bench: Bench) -> None:
    assert stat.S_IMODE(bench.socket.stat().st_mode) == 0o600


def test_another_user_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_uid_of", lambda connection: 1000)
    assert b"only root" in bench.ask(b"")
    monkeypatch.undo()
    assert alive(bench)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_the_kernel_tells_the_user(bench: Bench) -> None:
    bench.socket.chmod(0o666)
    bench.directory.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(bench.socket))
            os._exit(0 if control._uid_of(client) == os.geteuid() else 1)
    bench.turn(0.2)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"garbage\n", "not a request"),
        (b"\n", "not a request"),
        (b"[]\n", "an object"),
        (b'{"op":5}\n', "an object"),
        (b'{"op":"dance"}\n', "unknown request"),
        (b"\xff\xfe\n", "not a request"),
        (b"[" * 20_000 + b"\n", "not a request"),
        (b"x" * (control.MAX_LINE + 2), "no end of line"),
        (b'{"op":"register"}\n', "params"),
        (b'{"op":"register","params":{"device":5}}\n', "params"),
    ],
)
def test_one_clear_line(bench: Bench, line: bytes, reason: str) -> None:
    answer = json.loads(bench.ask(line))
    assert answer["ok"] is False and reason in answer["error"]
    assert alive(bench)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes(bench: Bench, data: bytes) -> None:
    with bench.connect() as client:
        client.send(data)
        bench.turn(0.01)
    assert alive(bench)


def test_requests_in_pieces_and_several_at_once(bench: Bench) -> None:
    with bench.connect() as client:
        for piece in (b'{"op":', b'"ping"}', b"\n"):
            client.send(piece)
            bench.turn(0.02)
        assert bench.read(client).startswith(b'{"ok":true')
        client.send(b'{"op":"ping"}\n' * 3)
        answers = b""
        while answers.count(b"\n") < 3:
            answers += bench.read(client)


def test_half_closed(bench: Bench) -> None:
    with bench.connect() as client:
        client.send(b'{"op":"ping"}')
        client.shutdown(socket.SHUT_WR)
        assert bench.read(client) == b""
    assert alive(bench)


def test_vanishing_clients(bench: Bench) -> None:
    for _ in range(200):
        client = bench.connect()
        client.send(b'{"op":"status"}\n')
        client.close()
    assert alive(bench)
    bench.until("all to be forgotten", lambda: not bench.daemon.control._clients)


def test_idle_and_slow_clients_are_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_S", 0.2)
    monkeypatch.setattr(control, "SWEEP_S", 0.1)
    bench.daemon.control._sweep()
    with bench.connect() as client:
        client.send(b'{"op":')
        assert bench.read(client) == b""
    with bench.connect() as client:
        for _ in range(400):  # asks and never reads
            try:
                client.send(b'{"op":"status"}\n')
            except (BlockingIOError, BrokenPipeError):
                break
            bench.turn(0.001)
        bench.until("the slow one to be dropped", lambda: not bench.daemon.control._clients)
    monkeypatch.setattr(control, "IDLE_S", 600.0)
    assert alive(bench)


def test_many_clients_up_to_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CLIENTS", 50)
    clients = [bench.connect() for _ in range(50)]
    bench.until("all to be there", lambda: len(bench.daemon.control._clients) == 50)
    assert b"too many clients" in bench.ask(b'{"op":"ping"}\n')
    for client in clients:
        client.send(b'{"op":"ping"}\n')
    assert all(bench.read(client).startswith(b'{"ok":true') for client in clients)
    for client in clients:
        client.close()
    bench.turn(0.1)
    assert alive(bench)


# --- what requests do


def test_register_monitor_unregister(bench: Bench) -> None:
    assert number_in(bench.ask(request("monitor", device="r0")), b"rc") == 7
    answer = call(bench, "register", params=PARAMS)
    assert answer["ok"] is True, answer
    assert number_in(bench.ask(request("monitor", device="r0")), b"rc") == 0
    assert ("r0", "unproven") in bench.world.pacemaker.published
    assert call(bench, "register", params={**PARAMS, "confirm_timeout": "20"})["ok"] is True
    assert bench.daemon.guards["r0"].config.confirm_timeout_ms == 20_000
    assert call(bench, "unregister", device="r0")["ok"] is True
    assert ("r0", None) not in bench.world.pacemaker.published, "a stop must not demote the service"
    assert number_in(bench.ask(request("monitor", device="r0")), b"rc") == 7
    assert "r0" in bench.daemon.guards, "a stopped resource's device stays guarded"


def test_registering_tells_all_problems(bench: Bench) -> None:
    bench.world.driver("exec", "r0", "", "nodea").problems = [Problem("x", "no fencing policy", "add: fencing")]
    answer = call(
        bench, "register", params={**PARAMS, "flush": "filesystem:/absent", "priorities": "nodea:1 nodez:2"}
    )
    text = json.dumps(answer["problems"])
    assert answer["ok"] is False
    for part in (
        "nodez is not a node",
        "nodea nodeb",
        "filesystem:/absent: does not exist",
        "no fencing policy",
        "add: fencing",
    ):
        assert part in text


def test_registering_without_corosync(bench: Bench) -> None:
    bench.until("the carrier of the start", lambda: bench.daemon.peers.connected)
    bench.world.corosync = False
    bench.daemon.me = None
    answer = call(bench, "register", params=PARAMS)
    assert "Corosync" in answer["problems"][0]["message"]


def test_fence_peer_of_something_unknown(bench: Bench) -> None:
    for fields in ({"device": "r9", "peer": "nodeb"}, {"device": "../x", "peer": "nodeb"}, {}):
        assert call(bench, "fence-peer", handler="1-1", **fields)["exit"] == 1
    assert call(bench, "register", params=PARAMS)["ok"]
    for peer in ("nodez", "nodea"):
        assert call(bench, "fence-peer", handler="1-1", device="r0", peer=peer)["exit"] == 1


def test_a_waiting_handler_that_goes_is_forgotten(bench: Bench) -> None:
    assert call(bench, "register", params=PARAMS)["ok"]
    with bench.connect() as client:
        client.send(request("fence-peer", device="r0", peer="nodeb", handler="1-1"))
        bench.until("the handler", lambda: bench.daemon.guards["r0"].state.handlers)
        with bench.connect() as again:  # the same process, reconnected
            again.send(request("fence-peer", device="r0", peer="nodeb", handler="1-1"))
            bench.turn(0.1)
            assert len(bench.daemon.guards["r0"].state.handlers) == 1
    bench.until("the handler to be gone", lambda: not bench.daemon.guards["r0"].state.handlers)


def test_a_call_that_overtakes_the_news_of_its_loss_waits_for_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for one about a loss that is over it would be answered at once, and the Primary stay frozen without a handler."""
    monkeypatch.setattr(requests, "LOSS_NEWS_S", 600.0)
    assert call(bench, "register", params=PARAMS)["ok"]
    guard = bench.daemon.guards["r0"]
    with bench.connect() as client:
        client.send(request("fence-peer", device="r0", peer="nodeb", handler="1-1"))
        bench.turn(0.3)
        assert not guard.state.handlers
        bench.world.sources["exec"].tell("r0", ALONE)
        bench.until("the handler", lambda: guard.state.handlers)


def test_status_and_flush(bench: Bench) -> None:
    assert call(bench, "register", params={**PARAMS, "flush": "filesystem:/srv filesystem:/bad"})["ok"]
    device = call(bench, "status")["devices"][0]
    assert device["device"] == "r0" and device["disk"] == "uptodate" and device["priority"] == 1
    assert call(bench, "status", device="r9")["devices"] == []
    operations = bench.daemon.guards["r0"].operations
    operations.flush(1)
    bench.until("the flush", lambda: operations.flushed)
    results = call(bench, "status")["devices"][0]["flush"]["results"]
    assert [(result["target"], result["ok"]) for result in results] == [("filesystem:/srv", True), ("filesystem:/bad", False)]
    bench.until("the attribute", lambda: ("r0-flush", "failed") in bench.world.pacemaker.published)


# --- the client's own small JSON


@given(st.text(max_size=50))
def test_quoting(text: str) -> None:
    assert json.loads(quote(text)) == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_reading_answers() -> None:
    assert number_in(b'{"rc":7,"message":"x"}', b"rc") == 7
    assert number_in(b'{"exit":4}', b"exit") == 4
    for line in (b"", b"garbage", b'{"rc":"7"}', b'{"rc":-1}', b'{"rc":99999}', b'{"ok":1,"rc":7}'):
        assert number_in(line, b"rc") == -1
    assert text_in(b'{"rc":1,"message":"no disk"}', b"message") == "no disk"
    assert text_in(b"garbage", b"message") == ""

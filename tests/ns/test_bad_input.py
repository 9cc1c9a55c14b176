"""Bad input to a real node: each has a message that names what is wrong and the remedy; `stop` works with all of it."""

from __future__ import annotations

from typing import Dict

import pytest

from tests.lab.api import Result, wait_until
from tests.lab.replication import host
from tests.ns.cluster import DRIVER, NODES, NsCluster

pytestmark = pytest.mark.ns
GOOD = {"device": "r0", "driver": "exec", "exec_program": DRIVER, "priorities": "nodea:1 nodeb:2"}
AGENT = "/usr/lib/ocf/resource.d/heartgate/replica-guard"


def agent(cluster: NsCluster, action: str, parameters: Dict[str, str], node: str = "nodea") -> Result:
    words = [f"OCF_RESKEY_{name}={value}" for name, value in parameters.items()]
    argv = ["env", "OCF_ROOT=/usr/lib/ocf", *words, AGENT, action]
    return cluster.nodes[node].run(argv, check=False, timeout_s=60)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"priorities": ""}, "priorities"),
        ({"priorities": "nodea:1"}, "priorities"),
        ({"priorities": "nodea:1 nodeb:1"}, "both have priority 1"),
        ({"priorities": "nodea:1 nodez:2"}, "nodez"),
        ({"priorities": "nodea=1"}, "priorities"),
        ({"device": "nothere"}, "nothere"),
        ({"device": "../etc"}, "device"),
        ({"flush": "filesystem:/nowhere"}, "/nowhere"),
        ({"flush": "tape:/dev/st0"}, "tape"),
        ({"exec_program": "/usr/bin/nothing-there"}, "/usr/bin/nothing-there"),
        ({"policy": "mine"}, "policy"),
        ({"confirm_timeout": "soon"}, "confirm_timeout"),
    ],
)
def test_bad_parameters_are_refused_by_name(cluster: NsCluster, change: Dict[str, str], says: str) -> None:
    host.configure(cluster.lab)
    host.start(cluster.lab)
    parameters = {**GOOD, **change}
    result = agent(cluster, "start", parameters)
    assert result.rc in (1, 2, 5), result
    assert says in result.stderr and "ERROR: " in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert agent(cluster, "stop", parameters).rc == 0


@pytest.mark.req("D11")
def test_a_second_daemon_ends_with_a_message(cluster: NsCluster) -> None:
    cluster.set_up(service=False)
    result = cluster.nodes["nodea"].run(["heartgated", "--foreground"], check=False, timeout_s=60)
    assert result.rc == 3 and "running" in result.stderr, result
    assert cluster.standing("nodea") == "synced"


@pytest.mark.req("A4")
@pytest.mark.parametrize("content", ["garbage", '{"kind": "heartgate-record", "version": 99}', ""])
def test_a_state_file_that_cannot_be_read_is_kept_aside_and_the_standing_is_unproven(
    cluster: NsCluster, content: str
) -> None:
    cluster.set_up(service=False)
    node = cluster.nodes["nodea"]
    pid = cluster.daemon_pid("nodea")
    cluster.lab.cut("sync0")
    cluster.wait_standing("nodea", "solo")
    node.run(["sh", "-c", f"printf '%s' '{content}' > /var/lib/heartgate/r0.state"])
    node.run(["kill", "-KILL", pid])
    look = ["sh", "-c", "ls /var/lib/heartgate"]
    wait_until("the file to be kept aside", lambda: "r0.state.bad" in node.run(look).stdout, timeout_s=60)
    cluster.lab.mend("sync0")
    cluster.wait_synced()


@pytest.mark.req("D11")
def test_garbage_on_the_control_socket_and_in_the_group(cluster: NsCluster) -> None:
    cluster.set_up(service=False)
    node = cluster.nodes["nodea"]
    program = (
        "import socket\n"
        "lines = (b'', b'\\n', b'garbage\\n', b'{}\\n', b'[1]\\n', b'\\x00' * 5000 + b'\\n', b'{\"op\": 1}\\n', b'x' * 300000)\n"
        "for data in lines:\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect('/run/heartgate/control.sock'); s.settimeout(30)\n"
        "    try:\n        s.sendall(data); s.shutdown(1); print(s.recv(200))\n    except OSError as e: print(e)\n"
    )
    said = node.run(["/usr/bin/python3", "-c", program], timeout_s=60).stdout
    assert "error" in said
    group = (
        "import sys, time; sys.path.insert(0, '/usr/lib/python3/dist-packages')\n"
        "from heartgate.adapters.cpg import CpgCarrier\n"
        "c = CpgCarrier()\n"
        "for data in (b'x', b'\\x00' * 100, b'{\"v\":1}', b'{' * 60000):\n    c.send(data); time.sleep(0.1)\n"
        "c.close()\n"
    )
    node.run(["/usr/bin/python3", "-c", group], timeout_s=60)
    cluster.lab.cut("sync0")
    cluster.wait_standing("nodea", "solo")
    cluster.wait_standing("nodeb", "blocked")
    cluster.lab.mend("sync0")
    cluster.wait_synced()


def test_the_socket_is_roots_alone(cluster: NsCluster) -> None:
    cluster.set_up(service=False)
    for name in NODES:
        node = cluster.nodes[name]
        assert node.run(["stat", "-c", "%a %U", "/run/heartgate/control.sock"]).stdout.strip() == "600 root"
    tried = ["setpriv", "--reuid", "nobody", "--clear-groups", "heartgate", "status"]
    assert wait_until("an answer", lambda: cluster.nodes["nodea"].run(tried, check=False, timeout_s=60), timeout_s=60).rc != 0

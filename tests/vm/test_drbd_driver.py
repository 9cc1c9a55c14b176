"""The DRBD adapter against a real DRBD 8.4: facts, drop, block, release, re-attach, unblock, rehandle. No daemon is
involved: a handler that exits with what a file says stands in for ours."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from tests.lab.api import Node, wait_until
from tests.lab.vm import form
from tests.lab.vm.lab import VmLab

pytestmark = pytest.mark.vm
LIBRARY = Path(__file__).resolve().parents[2] / "lib"
HANDLER = """#!/bin/sh
code=$(cat /run/test-handler-code 2>/dev/null || echo 1)
echo $code >> /run/test-handler.log
exit $code
"""
PROGRAM = """
import json, os, sys, threading, time, select
sys.path.insert(0, "/opt/heartgate-test/lib")
from heartgate.adapters.drbd import DrbdSource, make_driver
from heartgate.core.model import UNKNOWN_REPLICA
me, operation = os.uname().nodename, sys.argv[1]
if operation == "watch":
    source = DrbdSource(me)
    source.add("r0")
    while True:
        select.select([source], [], [], 1.0)
        for name, replica in source.read().items():
            link = replica.peers[0][1] if replica.peers else None
            facts = dict(disk=replica.disk, role=replica.role, frozen=replica.frozen, generation=replica.generation,
                         ancestors=replica.ancestors, link=link and link.link, incarnation=link and link.incarnation)
            with open("/run/test-facts.new", "w") as stream:
                json.dump(facts, stream)
            os.rename("/run/test-facts.new", "/run/test-facts")
            with open("/run/test-facts.log", "a") as stream:
                stream.write(json.dumps(facts) + "\\n")
driver = make_driver("r0", me)
if operation == "release-without-kill":  # a deliberate fault: what the order of release() is there to prevent
    driver._end_users = lambda *_: 0
    operation = "release"
if operation == "drop":
    outcome = driver.drop(sys.argv[2], 100.0)
else:
    outcome = getattr(driver, operation)(UNKNOWN_REPLICA, 100.0)
print(json.dumps([outcome.ok, outcome.how]))
"""
WRITER = """
import os, time
log = os.open("/mnt/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_DSYNC)
number = 0
with open("/run/test-acknowledged", "w") as acknowledged:
    while True:
        os.write(log, b"%d\\n" % number)
        acknowledged.write("%d\\n" % number)
        acknowledged.flush()
        number += 1
        time.sleep(0.05)
"""
RAW_WRITER = """
import mmap, os, time
device = os.open("/dev/drbd0", os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
number = 1
with open("/run/test-acknowledged", "w") as acknowledged:
    while True:
        page[:] = (b"record %d;" % number).ljust(4096)
        os.pwrite(device, page, 4096 * (number % 4096))
        acknowledged.write("%d\\n" % number)
        acknowledged.flush()
        number += 1
        time.sleep(0.02)
"""


def install(node: Node) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(LIBRARY / "heartgate", "lib/heartgate", filter=lambda item: None if "__pycache__" in item.name else item)
    node.put("/opt/heartgate-test/lib.b64", base64.b64encode(stream.getvalue()).decode())
    node.run(["sh", "-c", "cd /opt/heartgate-test && base64 -d lib.b64 | tar xz"])
    node.put("/opt/heartgate-test/program.py", PROGRAM)
    node.put("/opt/heartgate-test/writer.py", WRITER)
    node.put("/opt/heartgate-test/raw_writer.py", RAW_WRITER)
    for name in ("drbd-fence-peer", "drbd-unfence-peer"):
        node.put(f"/usr/lib/heartgate/{name}", HANDLER if name == "drbd-fence-peer" else "#!/bin/sh\n", 0o755)


def operate(node: Node, *words: str) -> Any:
    done = node.run(["python3", "/opt/heartgate-test/program.py", *words], timeout_s=120)
    return json.loads(done.stdout.splitlines()[-1])


def background(node: Node, program: str, *words: str) -> None:
    command = f"setsid python3 /opt/heartgate-test/{program} {' '.join(words)} >/run/test-{program}.out 2>&1 &"
    node.run(["sh", "-c", command])


def facts(node: Node) -> Dict[str, Any]:
    done = node.run(["cat", "/run/test-facts"], check=False)
    return dict(json.loads(done.stdout)) if done.rc == 0 else {}


def await_facts(node: Node, timeout_s: float = 60.0, **wanted: Any) -> Dict[str, Any]:
    def probe() -> Dict[str, Any]:
        seen = facts(node)
        return seen if all(seen.get(key) == value for key, value in wanted.items()) else {}

    return wait_until(f"{node.name}: {wanted}, log: {facts(node)}", probe, timeout_s=timeout_s)


def code(node: Node, number: int) -> None:
    node.put("/run/test-handler-code", str(number))


def last(node: Node, path: str) -> int:
    return int(node.run(["tail", "-n", "1", path]).stdout)


def digest(node: Node) -> str:
    # Past the page cache: DRBD writes to the disk below it.
    return node.run(["sh", "-c", "dd if=/dev/vdb bs=1M count=128 iflag=direct 2>/dev/null | sha1sum"], timeout_s=60).stdout


@pytest.fixture()
def lab() -> Iterator[VmLab]:
    with VmLab.restore() as started:
        # Not the quick time limits: on a loaded host they lose the connection by themselves.
        form.adjust_drbd(started.nodes, handlers=True, net=form.SAVED_NET)
        for node in started.nodes.values():
            install(node)
            code(node, 1)
            background(node, "program.py", "watch")
        yield started


def promote_and_write(node: Node) -> None:
    await_facts(node, link="up", disk="uptodate")
    node.run(["drbdadm", "primary", "r0"])
    node.run(["sh", "-c", "mkfs.ext4 -q /dev/drbd0 && mount /dev/drbd0 /mnt"], timeout_s=60)
    background(node, "writer.py")
    wait_until("a write", lambda: node.run(["test", "-s", "/run/test-acknowledged"], check=False).rc == 0, timeout_s=60)


@pytest.mark.req("A4", "D8")
def test_a_blocked_primary_is_released_without_losing_an_acknowledged_write(lab: VmLab) -> None:
    loser, winner = lab.nodes["nodea"], lab.nodes["nodeb"]
    promote_and_write(loser)
    lab.cut("sync0")
    assert operate(loser, "block") == [True, "frozen"]  # most often before DRBD has noticed by itself
    await_facts(loser, frozen=True, link="down")
    assert operate(loser, "block") == [True, "frozen"]
    ok, how = operate(loser, "release")
    assert ok and "1 processes killed" in how, how
    acknowledged = last(loser, "/run/test-acknowledged")
    loser.run(["umount", "/mnt"])
    loser.run(["drbdadm", "secondary", "r0"])
    assert operate(loser, "enforce_blocked") == [True, "attached, outdated"]
    assert operate(loser, "enforce_blocked") == [True, "nothing to do"]
    await_facts(loser, disk="outdated", role="secondary")
    assert loser.run(["drbdadm", "primary", "r0"], check=False).rc != 0
    code(winner, 4)
    await_facts(winner, link="down")  # or the kernel would refuse without asking
    winner.run(["drbdadm", "primary", "r0"])
    winner.run(["mount", "/dev/drbd0", "/mnt"])
    assert last(winner, "/mnt/log") >= acknowledged
    winner.run(["dd", "if=/dev/urandom", "of=/mnt/more", "bs=1M", "count=3", "oflag=dsync"])
    lab.mend("sync0")
    lab.wait_in_sync(400)
    winner.run(["umount", "/mnt"])
    assert digest(loser) == digest(winner)
    mine = await_facts(loser, disk="uptodate", link="up")
    assert mine["generation"] == facts(winner)["generation"] != ""


@pytest.mark.req("A4", "E1")
@pytest.mark.parametrize("release, lost", [("release", 0), ("release-without-kill", 1)])
def test_the_raw_write_in_flight(lab: VmLab, release: str, lost: int) -> None:
    """Straight to the device, without a file system whose journal would fail too: the kill is what keeps the write in flight from
    being acknowledged by a doomed copy. Without it (a deliberate fault) exactly that write is lost."""
    loser, winner = lab.nodes["nodea"], lab.nodes["nodeb"]
    await_facts(loser, link="up", disk="uptodate")
    loser.run(["drbdadm", "primary", "r0"])
    background(loser, "raw_writer.py")
    wait_until("writes", lambda: loser.run(["test", "-s", "/run/test-acknowledged"], check=False).rc == 0, timeout_s=60)
    lab.cut("sync0")
    assert operate(loser, "block") == [True, "frozen"]
    await_facts(loser, frozen=True, link="down")
    assert operate(loser, release)[0]
    gone = ["sh", "-c", "! pgrep -f raw_[w]riter.py"]
    wait_until("the writer's end", lambda: loser.run(gone, check=False).rc == 0, timeout_s=60)
    acknowledged = last(loser, "/run/test-acknowledged")
    code(winner, 4)
    await_facts(winner, link="down")  # or the kernel would refuse without asking
    winner.run(["drbdadm", "primary", "r0"])
    assert acknowledged - newest_raw(winner) == lost


def newest_raw(node: Node) -> int:
    """The newest record of raw_writer.py on the device, read through the replication."""
    text = node.run(["sh", "-c", "dd if=/dev/drbd0 bs=4096 count=4096 iflag=direct 2>/dev/null | grep -a -o 'record [0-9]*;'"],
                    timeout_s=60).stdout  # fmt: skip
    return max(int(line.split()[1].rstrip(";")) for line in text.splitlines())


def test_the_mark_is_lifted_and_promotion_still_asks(lab: VmLab) -> None:
    node = lab.nodes["nodea"]
    lab.cut("sync0")
    await_facts(node, link="down")
    assert operate(node, "block") == [True, "outdated"]
    generation = await_facts(node, disk="outdated")["generation"]
    assert operate(node, "unblock") == [True, "consistent"]
    assert operate(node, "unblock") == [True, "not outdated"]
    assert node.run(["drbdadm", "primary", "r0"], check=False).rc != 0  # the handler says 1
    code(node, 7)
    node.run(["drbdadm", "primary", "r0"])
    seen = wait_until("a new generation", lambda: facts(node) if generation in facts(node)["ancestors"] else None, timeout_s=60)
    assert seen["generation"] not in ("", generation) and seen["role"] == "primary"
    lab.mend("sync0")
    lab.wait_in_sync(400)


def test_the_kernel_asks_again(lab: VmLab) -> None:
    node = lab.nodes["nodea"]
    promote_and_write(node)
    lab.cut("sync0")
    await_facts(node, frozen=True, link="down")
    answered = ["grep", "-q", "1", "/run/test-handler.log"]
    wait_until("the first answer", lambda: node.run(answered, check=False).rc == 0, timeout_s=60)
    code(node, 4)
    assert operate(node, "rehandle") == [True, "thawed"]
    before = last(node, "/run/test-acknowledged")
    wait_until("writes go on", lambda: last(node, "/run/test-acknowledged") > before, timeout_s=60)
    lab.mend("sync0")
    lab.wait_in_sync(400)


def test_facts_stay_right_over_many_losses(lab: VmLab) -> None:
    node = lab.nodes["nodea"]
    node.run(["drbdadm", "primary", "r0"])
    count = await_facts(node, link="up")["incarnation"]
    for _ in range(5):
        assert operate(node, "drop", "nodeb") == [True, "sockets"]
        count += 1
        await_facts(node, link="up", incarnation=count, frozen=False, disk="uptodate")
    log = [json.loads(line) for line in node.run(["cat", "/run/test-facts.log"]).stdout.splitlines()]
    known = log[next(index for index, seen in enumerate(log) if seen["disk"] == "uptodate") :]
    assert all(seen["disk"] == "uptodate" for seen in known), "facts were unknown in between"

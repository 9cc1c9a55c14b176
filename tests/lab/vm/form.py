"""From two fresh machines to a quorate cluster with an UpToDate DRBD pair: done once, then kept as a saved state."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Callable, List, Mapping, Sequence

from tests.lab.api import LabError, wait_until
from tests.lab.vm.machine import NODES, Machine, address
from tests.lab.vm.paths import progress

RESOURCE = "r0"
DRBD_PORT = 7789
CIB = "/var/lib/pacemaker/cib/cib.xml"
# What a fresh cluster of that Debian has. With an older one each program would rewrite the whole by XSLT each time that it looks.
SCHEMAS = {"bookworm": "pacemaker-3.8", "trixie": "pacemaker-4.0"}
SAVED_NET = {"ping-int": 1, "ping-timeout": 50, "timeout": 60, "connect-int": 1}
QUICK_NET = {"ping-int": 1, "ping-timeout": 2, "timeout": 8, "connect-int": 1}
COROSYNC_LINK = """
  interface {{
    linknumber: {number}
    knet_ping_interval: 200
    knet_ping_timeout: 600
    knet_pong_count: 1
  }}"""


def corosync_conf() -> str:
    """Without encryption, and with a token that rests after 3 idle rounds instead of 30: on emulated machines these two took
    half of each processor (the namespace lab has Corosync's defaults)."""
    links = "".join(COROSYNC_LINK.format(number=number) for number in (0, 1))
    nodes = "".join(
        f"\n  node {{\n    name: {name}\n    nodeid: {number}\n    ring0_addr: {address(name, 'hb0')}\n"
        f"    ring1_addr: {address(name, 'hb1')}\n  }}"
        for number, name in enumerate(NODES, 1)
    )
    return (
        "totem {\n  version: 2\n  cluster_name: lab\n  transport: knet\n  token: 1000\n"
        f"  seqno_unchanged_const: 3\n  crypto_cipher: none\n"
        f"  crypto_hash: none{links}\n}}\n\nnodelist {{{nodes}\n}}\n\n"
        "quorum {\n  provider: corosync_votequorum\n  two_node: 1\n}\n\n"
        "logging {\n  to_logfile: no\n  to_syslog: yes\n  timestamp: on\n}\n"
    )


def drbd_resource(*, handlers: bool, net: Mapping[str, int], two_primaries: bool = False) -> str:
    handler_lines = (
        '  handlers {\n    fence-peer "/usr/lib/heartgate/drbd-fence-peer";\n'
        '    unfence-peer "/usr/lib/heartgate/drbd-unfence-peer";\n  }\n'
        if handlers
        else ""
    )
    options = "".join(f"    {name} {value};\n" for name, value in net.items())
    if two_primaries:
        options += "    allow-two-primaries yes;\n"
    hosts = "".join(f"  on {name} {{ address {address(name, 'sync0')}:{DRBD_PORT}; }}\n" for name in NODES)
    return (
        f"resource {RESOURCE} {{\n  device /dev/drbd0;\n  disk /dev/vdb;\n  meta-disk internal;\n{handler_lines}"
        f"  net {{\n    protocol C;\n{options}  }}\n  disk {{ fencing resource-and-stonith; }}\n{hosts}}}\n"
    )


def seed_cib(suite: str) -> str:
    """The first CIB, written before Pacemaker starts: with the default dc-deadtime alone it would idle for 20 s. Its feature
    set is older than that of any Pacemaker here, and is raised by the first coordinator."""
    options = {
        "stonith-enabled": "true",
        "dc-deadtime": "4s",
        "have-watchdog": "false",
        "cluster-infrastructure": "corosync",
    }
    nvpairs = "".join(
        f'<nvpair id="cib-bootstrap-options-{name}" name="{name}" value="{value}"/>' for name, value in options.items()
    )
    hosts = '<nvpair id="fence-lab-hosts" name="pcmk_host_list" value="nodea nodeb"/>'
    return (
        f'<cib crm_feature_set="3.13.0" validate-with="{SCHEMAS[suite]}" epoch="1" num_updates="0" admin_epoch="0">'
        '<configuration><crm_config><cluster_property_set id="cib-bootstrap-options">'
        f"{nvpairs}</cluster_property_set></crm_config><nodes/>"
        '<resources><primitive id="fence-lab" class="stonith" type="fence_lab">'
        f'<instance_attributes id="fence-lab-instance_attributes">{hosts}</instance_attributes>'
        '<operations><op id="fence-lab-monitor" name="monitor" interval="60s"/></operations></primitive></resources>'
        '<constraints/><op_defaults><meta_attributes id="op-options">'
        # Stock agents fork hundreds of times: emulated, on a busy host, one call of Filesystem takes 10 to 30 s.
        '<nvpair id="op-options-timeout" name="timeout" value="120s"/></meta_attributes></op_defaults></configuration>'
        "<status/></cib>\n"
    )


def debs_key(debs: Sequence[Path]) -> List[str]:
    return [f"{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in debs]


def on_each(nodes: Mapping[str, Machine], job: Callable[[Machine], None]) -> None:
    """The same on both machines at once; the first failure is raised after both have ended."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        for future in [pool.submit(job, node) for node in nodes.values()]:
            future.result()


def form(nodes: Mapping[str, Machine], debs: Sequence[Path], suite: str) -> None:
    started = time.monotonic()
    authkey = os.urandom(256)

    def configure(node: Machine) -> None:
        node.wait_boot(timeout_s=180)
        progress(f"{node.name} is up after {time.monotonic() - started:.1f} s")
        node.put("/etc/corosync/corosync.conf", corosync_conf())
        node.put_bytes("/etc/corosync/authkey", authkey, 0o400)
        node.put("/etc/drbd.d/global_common.conf", "global { usage-count no; }\ncommon { }\n")
        node.put(f"/etc/drbd.d/{RESOURCE}.res", drbd_resource(handlers=bool(debs), net=SAVED_NET))
        for deb in debs:
            node.put_bytes(f"/root/{deb.name}", deb.read_bytes())
        if debs:
            node.run(["dpkg", "-i", *(f"/root/{deb.name}" for deb in debs)], timeout_s=180)
        node.run(["systemctl", "start", "corosync"], timeout_s=120)
        for unit in ("corosync", "pacemaker"):  # `systemctl enable` runs Perl and reloads systemd: half a minute here
            node.run(["ln", "-sf", f"/lib/systemd/system/{unit}.service", "/etc/systemd/system/multi-user.target.wants/"])
        node.run(["modprobe", "-a", "drbd", "softdog"], timeout_s=120)
        node.run(["drbdadm", "create-md", "--force", RESOURCE], timeout_s=120)
        node.run(["drbdadm", "up", RESOURCE], timeout_s=120)
        wait_until(f"{node.name} to be quorate", lambda: quorate(node), timeout_s=120)
        node.put(CIB, seed_cib(suite), 0o600)
        node.run(["chown", "hacluster:haclient", CIB])
        node.run(["systemctl", "start", "pacemaker"], timeout_s=120)

    on_each(nodes, configure)
    first = nodes[NODES[0]]
    wait_until("DRBD to connect", lambda: "Connected" in first.run(["drbdadm", "cstate", RESOURCE]).stdout, timeout_s=120)
    first.run(["drbdadm", "--", "--clear-bitmap", "new-current-uuid", RESOURCE])
    wait_in_sync(nodes, timeout_s=120)
    progress(f"DRBD is up to date after {time.monotonic() - started:.1f} s")
    wait_online(nodes, timeout_s=120)
    progress(f"both nodes are online after {time.monotonic() - started:.1f} s")
    wait_until(
        "fence-lab to start",
        lambda: "is running on" in first.run(["crm_resource", "-W", "-r", "fence-lab"]).stdout,
        timeout_s=120,
    )
    # Or a node's #feature-set may stay lost from its join. What counts is what is waited for next.
    first.run(["attrd_updater", "--refresh"], check=False)
    wait_until(
        "one Pacemaker version to be seen",
        lambda: "MIXED" not in first.run(["crm_mon", "-1"], check=False).stdout,
        timeout_s=120,
        interval_s=1,
    )
    wait_idle(first, timeout_s=120)
    on_each(nodes, lambda node: None if node.run(["sync"]) else None)
    progress(f"cluster formed after {time.monotonic() - started:.1f} s")


def quorate(node: Machine) -> bool:
    return "Quorate:          Yes" in node.run(["corosync-quorumtool", "-s"], check=False).stdout


def wait_in_sync(nodes: Mapping[str, Machine], timeout_s: float = 120.0) -> None:
    """Until both machines see both disks UpToDate over a live connection."""

    def in_sync(node: Machine) -> bool:
        return node.run(["drbdadm", "dstate", RESOURCE], check=False).stdout.startswith("UpToDate/UpToDate")

    for node in nodes.values():
        wait_until(f"{node.name} to see UpToDate/UpToDate", partial(in_sync, node), timeout_s=timeout_s)


def wait_online(nodes: Mapping[str, Machine], timeout_s: float = 120.0) -> None:
    """Until every machine's Pacemaker sees both nodes online."""

    def online(node: Machine) -> bool:
        report = node.run(["crm_mon", "-1", "--output-as=xml"], check=False).stdout
        return report.count('online="true"') == len(nodes) and 'with_quorum="true"' in report

    for node in nodes.values():
        wait_until(f"{node.name} to see both nodes online", partial(online, node), timeout_s=timeout_s, interval_s=0.3)


def wait_idle(node: Machine, timeout_s: float = 120.0) -> None:
    """Until the cluster's coordinator has nothing to do."""

    def idle() -> bool:
        dc = node.run(["crmadmin", "-q", "-D"], check=False).stdout.strip().split()
        if not dc:
            return False
        return "S_IDLE" in node.run(["crmadmin", "-q", "-S", dc[-1]], check=False).stdout

    wait_until("the coordinator to be idle", idle, timeout_s=timeout_s, interval_s=0.2)


def adjust_drbd(nodes: Mapping[str, Machine], *, handlers: bool, net: Mapping[str, int], two_primaries: bool = False) -> None:
    """Write the resource file anew on both machines and have DRBD take it over."""
    content = drbd_resource(handlers=handlers, net=net, two_primaries=two_primaries)
    on_each(nodes, lambda node: use_resource_file(node, content))


def use_resource_file(node: Machine, content: str) -> None:
    place = f"/etc/drbd.d/{RESOURCE}.res"
    node.put(place, content)
    node.run(["sync", place, "/etc/drbd.d"])  # a node that is shot soon would come back with the old limits: two that differ in
    # connect-int (10 s and 1 s) hardly ever connect, since one gives up before the other one looks
    outcome = node.run(["drbdadm", "adjust", RESOURCE], check=False)
    if outcome.rc != 0:
        raise LabError(f"{node.name}: drbdadm adjust ended with {outcome.rc}: {outcome.stderr}")

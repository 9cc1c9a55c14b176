"""What a lab node finds on its disk at its first boot: cluster configuration, agents, heartgate itself."""

from __future__ import annotations

import base64
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Union

CHECKOUT = Path(__file__).resolve().parents[3]
FILES = Path(__file__).with_name("files")
REPLICATION = CHECKOUT / "tests" / "lab" / "replication"
OCF = "/usr/lib/ocf/resource.d"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SUBNETS = {"hb0": "10.77.10", "hb1": "10.77.11", "sync0": "10.77.20", "client0": "10.77.30"}

TIMERS = {
    "fast": ("token: 1000", ["knet_ping_interval: 100", "knet_ping_timeout: 300", "knet_pong_count: 1"]),
    "stock": ("", []),
}

BOOT_CLUSTER = """#!/bin/sh
# Corosync first; Pacemaker when there is quorum, or after 3 s without.
rm -rf /run/heartgate
corosync || exit 1
tries=0
while [ $tries -lt 60 ]; do
    corosync-quorumtool -s >/dev/null 2>&1 && break
    tries=$((tries + 1)); sleep 0.05
done
setsid pacemakerd >/dev/null 2>&1 </dev/null &
"""


@dataclass
class Seed:
    """Files and symbolic links for one node, planted before its first boot goes on to its services."""

    node: str
    entries: List[Dict[str, Any]] = field(default_factory=list)

    def file(self, path: str, content: Union[str, bytes], mode: int = 0o644, owner: str = "") -> None:
        data = content.encode() if isinstance(content, str) else content
        self.entries.append({"path": path, "content": base64.b64encode(data).decode(), "mode": mode, "owner": owner})

    def link(self, path: str, target: Union[str, Path]) -> None:
        self.entries.append({"path": path, "target": str(target)})

    def boot_script(self, name: str, content: str) -> None:
        """Run at every boot, in name order (the cluster stack is 50-cluster)."""
        self.file(f"/etc/lab/boot.d/{name}", content, 0o755)


def _link_executables(seed: Seed, source: Path, target: str) -> None:
    if source.is_dir():
        for entry in sorted(source.iterdir()):
            if entry.is_file() and os.access(entry, os.X_OK) and entry.suffix != ".py":
                seed.link(f"{target}/{entry.name}", entry)


def install_heartgate(seed: Seed) -> None:
    """Links to the checkout, in the places that docs/architecture.md names; what does not exist yet is left out."""
    seed.link("/usr/lib/python3/dist-packages/heartgate", CHECKOUT / "lib" / "heartgate")
    if (CHECKOUT / "ocf-metadata").is_dir():
        seed.link("/usr/share/heartgate/ocf-metadata", CHECKOUT / "ocf-metadata")
    _link_executables(seed, CHECKOUT / "agents", f"{OCF}/heartgate")
    _link_executables(seed, CHECKOUT / "fence", "/usr/sbin")
    for directory in ("agents/handlers", "agents/common", "handlers", "lib/heartgate/handlers"):
        _link_executables(seed, CHECKOUT / directory, "/usr/lib/heartgate")
    for directory in ("bin", "sbin", "packaging", "packaging/bin", "packaging/sbin"):
        _link_executables(seed, CHECKOUT / directory, "/usr/sbin")


def install_replication(seed: Seed) -> None:
    """The replication that stands for DRBD here: daemon, command, `exec` driver program and agents."""
    library = "/usr/lib/lab-replication"  # copies: heartgate runs a driver only from files and directories of root's
    for name in ("__init__.py", "engine.py", "wire.py", "client.py", "store.py", "generations.py"):
        seed.file(f"{library}/labreplica/{name}", (REPLICATION / name).read_bytes())
    for name in ("replicad", "replicactl", "replica-driver", "lab-writer"):
        seed.file(f"{library}/{name}", (REPLICATION / name).read_bytes(), 0o755)
        seed.link(f"/usr/sbin/{name}", f"{library}/{name}")
    for name in ("replica", "writer"):
        seed.file(f"{OCF}/lab/{name}", (REPLICATION / "ocf" / name).read_bytes(), 0o755)


def addresses(number: int, links: Sequence[str]) -> Dict[str, str]:
    """Interface to address with prefix length, of the node with this number (from 1)."""
    return {link: f"{SUBNETS.get(link, f'10.77.{100 + position}')}.{number}/24" for position, link in enumerate(links)}


def corosync_conf(nodes: Sequence[str], links: Sequence[str], rings: Sequence[str], timers: str) -> str:
    token, knet = TIMERS[timers]
    options = [f"        {line}" for line in knet]
    interfaces = ["\n".join(["    interface {", f"        linknumber: {number}", *options, "    }"])
                  for number in range(len(rings))]
    members = []
    for number, node in enumerate(nodes, 1):
        own = addresses(number, links)
        ring_lines = [f"        ring{ring}_addr: {own[link].split('/')[0]}" for ring, link in enumerate(rings)]
        identity = [f"        name: {node}", f"        nodeid: {number}"]
        members.append("\n".join(["    node {", *identity, *ring_lines, "    }"]))
    return "\n".join([
        "totem {", "    version: 2", "    cluster_name: heartgate-lab", "    transport: knet",
        "    crypto_cipher: aes256", "    crypto_hash: sha256", "    link_mode: passive", f"    {token}", *interfaces,
        "}",
        "nodelist {", *members, "}",
        "quorum {", "    provider: corosync_votequorum", f"    two_node: {int(len(nodes) == 2)}", "}",
        "system {", "    move_to_root_cgroup: no", "}",
        "logging {", "    to_syslog: no", "    to_stderr: no", "    to_logfile: yes",
        "    logfile: /var/log/corosync.log", "    timestamp: hires", "}", ""])


def configuration(nodes: Sequence[str], stonith: bool) -> str:
    """The <configuration> of the CIB in which every test starts."""
    properties = {"stonith-enabled": str(stonith).lower(), "dc-deadtime": "200ms", "cluster-recheck-interval": "60s",
                  "no-quorum-policy": "stop"}
    pairs = "".join(f'<nvpair id="cib-bootstrap-options-{name}" name="{name}" value="{value}"/>'
                    for name, value in properties.items())
    members = "".join(f'<node id="{number}" uname="{node}"/>' for number, node in enumerate(nodes, 1))
    devices = ""
    if stonith:
        hosts = f'<nvpair id="power-hosts" name="pcmk_host_list" value="{" ".join(nodes)}"/>'
        devices = ('<primitive id="power" class="stonith" type="fence_lab"><instance_attributes id="power-parameters">'
                   + hosts + "</instance_attributes></primitive>")
    return ('<configuration><crm_config><cluster_property_set id="cib-bootstrap-options">' + pairs
            + f"</cluster_property_set></crm_config><nodes>{members}</nodes><resources>{devices}</resources>"
            "<constraints/></configuration>")


def cib(nodes: Sequence[str], stonith: bool) -> str:
    return ('<cib crm_feature_set="3.1.0" validate-with="pacemaker-3.2" epoch="1" num_updates="0" admin_epoch="0">'
            + configuration(nodes, stonith) + "<status/></cib>\n")


def cluster_seed(node: str, nodes: Sequence[str], links: Sequence[str], conf: str, cib_xml: str,
                 authkey: bytes) -> Seed:
    """Everything of the cluster stack for one node."""
    seed = Seed(node)
    own = {name: addresses(number, links)[links[0]].split("/")[0] for number, name in enumerate(nodes, 1)}
    seed.file("/etc/hosts", "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in own.items()))
    seed.file("/etc/hostname", f"{node}\n")
    seed.file("/etc/machine-id", secrets.token_hex(16) + "\n", 0o444)
    seed.file("/etc/corosync/corosync.conf", conf)
    seed.file("/etc/corosync/authkey", authkey, 0o400)
    seed.file("/var/lib/pacemaker/cib/cib.xml", cib_xml, 0o600, "hacluster:haclient")
    seed.link("/usr/sbin/fence_lab", FILES / "fence_lab")
    seed.link("/usr/sbin/lab-clean", FILES / "lab-clean")
    seed.boot_script("50-cluster", BOOT_CLUSTER)
    return seed


def environment(node: str, extra: Mapping[str, str]) -> List[str]:
    """The whole environment of a command on a node, as arguments of env(1)."""
    base = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "USER": "root", "HOSTNAME": node, **extra}
    return [f"{name}={value}" for name, value in base.items()]

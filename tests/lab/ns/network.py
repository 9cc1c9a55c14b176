"""The wires of a namespace lab, seen from the switch: one bridge for each link, one port for each node.

A port belongs to the switch's namespace, its other end is the node's interface. So a node loses carrier (its own
interface stays administratively up, as with a pulled cable) when its port goes down, and frames are lost in one
direction by what the port does with them; nothing is changed on the node itself.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import List, Optional, Sequence, Set, Tuple

DROP_ALL = "1,6 0 0 2"
"""BPF program of one instruction: return TC_ACT_SHOT."""
Port = Tuple[str, str]


def _batch(program: str, lines: Sequence[str]) -> None:
    """Carry out all of them; that a port is gone is no error (a node that dies by itself takes its ports along)."""
    if not lines:
        return
    done = subprocess.run([program, "-force", "-batch", "-"], input="\n".join(lines) + "\n", text=True,
                          capture_output=True, timeout=10, check=False)
    # The second one: it went between the look for its name and the command.
    harmless = ("Cannot find device", "RTNETLINK answers: No such device", "Command failed")
    errors = [line for line in done.stderr.splitlines() if not line.startswith(harmless)]
    if done.returncode != 0 and errors:
        raise RuntimeError(f"{program}: {'; '.join(errors)} (commands: {'; '.join(lines)})")


class Network:
    def __init__(self, links: List[str], nodes: List[str], *, cable: bool) -> None:
        """With `cable`, a powered-off node takes the carrier of the others' ends, as a direct cable does."""
        self.links, self.nodes, self.cable = links, nodes, cable
        self.attached: Set[str] = set()
        self.no_carrier: Set[Port] = set()
        self.lost: Set[Tuple[str, str, str]] = set()
        self.up: Set[Port] = set()
        self.dropping: Set[Tuple[str, str, str]] = set()
        for scope in ("all", "default"):  # the switch itself must be silent: its frames would count as received
            setting = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
            if setting.exists():
                setting.write_text("1")
        lines = ["link set lo up"]
        for link in links:
            lines += [f"link add br-{link} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                      f"link set br-{link} up"]
        _batch("ip", lines)

    def port(self, link: str, node: str) -> str:
        return f"{link}.{self.nodes.index(node) + 1}"

    def attach(self, node: str, pid: int) -> None:
        """Give process `pid`'s net namespace its interfaces, with the same hardware addresses at every boot."""
        number = self.nodes.index(node) + 1
        lines = []
        for position, link in enumerate(self.links):
            port = self.port(link, node)
            address = f"02:68:67:00:{position:02x}:{number:02x}"
            lines += [f"link add {port} type veth peer name {link} address {address} netns {pid}",
                      f"link set {port} master br-{link}"]
        _batch("ip", lines)
        self.attached.add(node)
        self.apply()

    def detach(self, node: str) -> None:
        """Nothing leaves the node any more (a dying node must not say goodbye)."""
        self.attached.discard(node)
        self.apply()

    def remove(self, node: str) -> None:
        """Delete its ports (those which are left: they go with the node's namespace)."""
        _batch("ip", [f"link del {self.port(link, node)}" for link in self.links])
        self.dropping = {entry for entry in self.dropping if entry[1] != node}

    def cut(self, link: str, node: Optional[str], direction: Optional[str]) -> None:
        if link not in self.links:
            raise LookupError(f"no link {link!r}, known: {', '.join(self.links)}")
        if node is not None and node not in self.nodes:
            raise LookupError(f"no node {node!r}, known: {', '.join(self.nodes)}")
        if direction is None:
            self.no_carrier |= {(link, each) for each in self.nodes if node in (None, each)}
        elif node is None or direction not in ("in", "out"):
            raise ValueError('a direction is "in" or "out" and needs a node')
        else:
            self.lost.add((link, node, direction))
        self.apply()

    def mend(self, link: str) -> None:
        self.no_carrier = {port for port in self.no_carrier if port[0] != link}
        self.lost = {entry for entry in self.lost if entry[0] != link}
        self.apply()

    def apply(self) -> None:
        """Bring the ports from what they are to what they should be. Frames are lost before carriers come back."""
        everybody = len(self.attached) == len(self.nodes)
        up = {(link, node) for link in self.links for node in self.attached
              if (link, node) not in self.no_carrier and (everybody or not self.cable)}
        dropping = {entry for entry in self.lost if entry[1] in self.attached}
        lines = []
        for link, node, direction in sorted(dropping - self.dropping):
            lines += self._drop(self.port(link, node), direction)
        for link, node, direction in sorted(self.dropping - dropping):
            if node in self.attached:
                lines.append(f"qdisc del dev {self.port(link, node)} " + ("root" if direction == "in" else "clsact"))
        _batch("tc", lines)
        _batch("ip", [f"link set {self.port(*port)} down" for port in sorted(self.up - up)]
               + [f"link set {self.port(*port)} up" for port in sorted(up - self.up)])
        self.up, self.dropping = up, dropping

    def _drop(self, port: str, direction: str) -> List[str]:
        if direction == "in":
            return [f"qdisc replace dev {port} root blackhole"]
        return [f"qdisc add dev {port} clsact",
                f'filter add dev {port} ingress protocol all prio 1 bpf da bytecode "{DROP_ALL}"']

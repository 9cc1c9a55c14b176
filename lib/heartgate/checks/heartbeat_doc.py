"""The table of heartbeat rules as a document: `python3 -m heartgate.checks.heartbeat_doc > docs/heartbeat-rules.md`."""

from __future__ import annotations

from typing import Iterable, List, Tuple

from heartgate.checks import config_lint, spof_from_facts
from heartgate.checks.direct_rule import LISTEN_S
from heartgate.checks.findings import RuleInfo
from heartgate.checks.heartbeat_rules import LINK_RULES, PLAN_RULES
from heartgate.checks.link_rules import MODES

_HEAD = """\
# The rules of heartbeat links

<!-- Generated: PYTHONPATH=lib python3 -m heartgate.checks.heartbeat_doc > docs/heartbeat-rules.md -->

`heartgate check` looks at the facts of both nodes and says what is wrong, worst first, with what it saw and what to do.
It changes nothing. Beside the links it looks at the parts that they share, and at the configuration of the node on which it
runs: [below](#the-configuration).

    heartgate check --peer nodeb                          asks the other node by ssh; both listen at the same time
    heartgate facts --listen 35 --output nodeb.json       on the other node, where there is no ssh between them ...
    heartgate check --peer-facts nodeb.json               ... and here

Heartbeat interfaces are those that Corosync's links have, unless `--heartbeat IF` (or `IF:PEER_IF`) names them: before
there is a cluster they have to be named. `--sync` names what carries the replication (default: what heartgated and DRBD
say), `--client` what clients use (default: the interface of the default route).

## What it says, and the exit code

| word | exit code | meaning |
| --- | --- | --- |
| error | 2 | The link does not do what a heartbeat is for, or the configuration defeats the policy. |
| unknown | 3 | It could not be looked at, and why. Unknown is neither good nor bad: nothing is guessed. |
| warning | 1 | It works, and will fail sooner or with more than it should. |
| note | 0 | Something that cannot be checked from here, or that a person should know. |

The worst one decides, errors before unknowns before warnings. 3 is also the code for wrong arguments and for a peer
that cannot be asked. The severity in the table is the worst that the rule has; it says itself when it is less.

"""

_WAIVERS = """
## Waivers

    heartgate check --peer nodeb --waive 'vlan@hb0=the switch port is ours alone' --waive 'speed=old cards, on purpose'

`RULE=REASON` waives a rule everywhere, `RULE@SUBJECT=REASON` for one subject: the heading under which the report shows
it. A waived finding stays in the report with its reason and no longer counts for the exit code. A waiver without a
reason or for an unknown rule is refused; one that was not needed is shown.

"""

_DIRECT = f"""
## What can be known about a direct connection (B1)

Two nodes alone cannot prove that nothing is between them. So evidence against it is looked for: frames from anybody but
the peer, frames that switches send (LLDP, spanning tree, CDP), neighbours and answers to a ping to all nodes (ff02::1)
that are not the peer's, and ends that differ in speed or carrier. LLDP comes every 30 s: after less than {LISTEN_S:.0f}
s of listening the answer is *unknown*, after that, and without evidence, a *note*. The proof is by hand: pull the cable
at one end; with a direct cable the carrier goes at the other end too. Frames of the peer itself (lldpd on a node) count
for nothing.

The firmware of some adapters (i40e, ice) keeps LLDP to itself, so that a switch's never arrives, and may send its own, from
an address that looks like a stranger's. `ethtool --set-priv-flags IF disable-fw-lldp on` (i40e) or `fw-lldp-agent off` (ice)
ends that. It resets the adapter: not while it carries a heartbeat that is needed.

## Virtual machines

A virtio adapter tells no speed, no duplex, and not what is behind it. These are notes, not unknowns: they cannot be
known from inside, however often one looks. A vmxnet3 adapter always says 10 Gbit/s. Whether two adapters share a
physical one is the host's to know.

"""

_SPOF = """
## Parts that links share

What `heartgate spof` shows (`--svg FILE` draws it), as rules.

"""

_CONFIGURATION = """
## The configuration

Of the node on which it runs: run it on both. Read are corosync.conf, the CIB, what `drbdadm dump` and `drbdsetup show` say, the
settings of SBD and of LIO. What is not there is not judged. The inequalities of [timeouts.md](timeouts.md) are rules of it too.

"""

_BONDS = """
## Bonds (B7)

"""


def _table(head: Tuple[str, ...], rows: Iterable[Tuple[str, ...]]) -> str:
    lines: List[Tuple[str, ...]] = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _rules(infos: Iterable[RuleInfo]) -> str:
    rows = [(f"`{info.rule}`", info.requirement or "-", info.severity.value, info.about) for info in infos]
    return _table(("rule", "requirement", "at worst", "what it asks for"), rows)


def render() -> str:
    """The whole document."""
    modes = [("active-backup", "good", "one adapter at a time; the other takes over when the carrier is lost")]
    modes += [(mode, severity.value, why) for mode, (severity, why) in MODES.items()]
    return (
        _HEAD
        + "## The table\n\n"
        + _rules([*(rule.info for rule in LINK_RULES), *(rule.info for rule in PLAN_RULES)])
        + _SPOF
        + _rules(spof_from_facts.RULES.values())
        + _CONFIGURATION
        + _rules(config_lint.RULES.values())
        + _BONDS
        + _table(("mode", "is", "because"), modes)
        + _DIRECT.rstrip("\n")
        + "\n"
        + _WAIVERS.rstrip("\n")
        + "\n"
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(render())

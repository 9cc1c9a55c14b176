"""The lint: a clean cluster has no findings; each situation changes one thing and yields exactly the findings named for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Dict, Optional, Set, Tuple

import pytest

from heartgate.checks import cib_conf, config_lint, corosync_conf, drbd_conf, storage_conf
from heartgate.checks.config_lint import LintFacts, Unreadable
from heartgate.checks.findings import Severity

COROSYNC = """\
totem {
    version: 2
    crypto_cipher: aes256
    crypto_hash: sha256
}
nodelist {
    node {
        name: nodea
        nodeid: 1
        ring0_addr: 10.0.0.1
        ring1_addr: 10.0.1.1
    }
    node {
        name: nodeb
        nodeid: 2
        ring0_addr: 10.0.0.2
        ring1_addr: 10.0.1.2
    }
}
quorum {
    provider: corosync_votequorum
    two_node: 1
}
"""
DRBD = """\
common {
    net { cram-hmac-alg sha1; shared-secret x; verify-alg crc32c; }
}
# defined at /etc/drbd.d/r0.res:1
resource r0 {
    on nodea { address ipv4 10.0.1.1:7788; }
    on nodeb { address ipv4 10.0.1.2:7788; }
    net { fencing resource-and-stonith; protocol C; }
    disk { on-io-error detach; }
    handlers {
        fence-peer /usr/lib/heartgate/drbd-fence-peer;
        unfence-peer /usr/lib/heartgate/drbd-unfence-peer;
    }
}
"""
LEVELS = (
    '<fencing-level target="nodea" index="1" devices="gate,power"/><fencing-level target="nodeb" index="1" devices="gate,power"/>'
)
CIB = f"""<cib><configuration><crm_config><cluster_property_set id="cib-bootstrap-options">
<nvpair name="stonith-enabled" value="true"/></cluster_property_set></crm_config>
<nodes><node uname="nodea"/><node uname="nodeb"/></nodes><resources>
<primitive id="gate" class="stonith" type="fence_heartgate"/>
<primitive id="power" class="stonith" type="fence_ipmilan"/>
<clone id="c"><primitive id="guard" class="ocf" provider="heartgate" type="replica-guard"><instance_attributes id="i">
<nvpair name="device" value="r0"/></instance_attributes></primitive></clone>
</resources><fencing-topology>{LEVELS}</fencing-topology>
<alerts><alert id="heartgate" path="/usr/lib/heartgate/pacemaker-alert"/></alerts></configuration></cib>"""
GATE = '<primitive id="gate" class="stonith" type="fence_heartgate"/>\n'
POWER = '<primitive id="power" class="stonith" type="fence_ipmilan"/>\n'
NETWORKS = ("10.0.0.0/24", "10.0.1.0/24", "192.168.1.0/24")
LIO = '{"storage_objects": [{"plugin": "fileio", "name": "d", "dev": "/srv/d", "write_back": %s, "attributes": {%s}}]}'


def facts(
    corosync: str = COROSYNC,
    cib: str = CIB,
    drbd: str = DRBD,
    running: str = "",
    sbd: str = "",
    lio: str = "",
    networks: Optional[Tuple[str, ...]] = NETWORKS,
) -> LintFacts:
    return LintFacts(
        host="nodea",
        corosync=corosync_conf.parse(corosync) if corosync else None,
        cib=cib_conf.parse(cib) if cib else None,
        drbd=drbd_conf.parse_dump(drbd) if drbd else None,
        drbd_running=drbd_conf.parse_show(running) if running else None,
        sbd=storage_conf.parse_sbd(sbd) if sbd else None,
        lio=storage_conf.parse_lio(lio) if lio else None,
        networks=networks,
    )


def swap(text: str, *pairs: Tuple[str, str]) -> str:
    for before, after in pairs:
        assert before in text, before
        text = text.replace(before, after)
    return text


def corosync(*pairs: Tuple[str, str]) -> Callable[[], LintFacts]:
    return lambda: facts(corosync=swap(COROSYNC, *pairs))


def cib(*pairs: Tuple[str, str]) -> Callable[[], LintFacts]:
    return lambda: facts(cib=swap(CIB, *pairs))


def drbd(*pairs: Tuple[str, str]) -> Callable[[], LintFacts]:
    return lambda: facts(drbd=swap(DRBD, *pairs))


def net(line: str) -> Callable[[], LintFacts]:
    return drbd(("protocol C;", f"protocol C; {line}"))


def prop(name: str, value: str) -> Callable[[], LintFacts]:
    return cib(("</cluster_property_set>", f'<nvpair name="{name}" value="{value}"/></cluster_property_set>'))


def alert(content: str) -> Callable[[], LintFacts]:
    return cib(('pacemaker-alert"/>', f'pacemaker-alert">{content}</alert>'))


ONE_LINK = (("        ring1_addr: 10.0.1.1\n", ""), ("        ring1_addr: 10.0.1.2\n", ""))
THIRD = (
    "quorum {",
    "nodelist {\n node {\n name: nodec\n nodeid: 3\n ring0_addr: 10.0.0.3\n ring1_addr: 10.0.1.3\n }\n}\nquorum {",
)
SAME_NET = (("10.0.1.1", "10.0.0.11"), ("10.0.1.2", "10.0.0.12"))
NO_GATE = ((GATE, ""), ("gate,power", "power"))
E, W, N, U = Severity.ERROR, Severity.WARNING, Severity.NOTE, Severity.UNKNOWN

# situation: how to make it, the findings (rule, severity), and a piece of the evidence of the first of these
SITUATIONS: Dict[str, Tuple[Callable[[], LintFacts], Set[Tuple[str, Severity]], str]] = {
    "one link": (corosync(*ONE_LINK), {("corosync-one-link", W), ("corosync-sync-last", N)}, ""),
    "one subnet": (corosync(*SAME_NET), {("corosync-subnet", E), ("corosync-sync-last", N)}, ""),
    "alike, networks unknown": (
        lambda: facts(corosync=swap(COROSYNC, *SAME_NET), drbd="", networks=None),
        {("corosync-subnet", U)},
        "look alike",
    ),
    "alike, small networks": (
        lambda: facts(corosync=swap(COROSYNC, *SAME_NET), drbd="", networks=("10.0.0.0/29", "10.0.0.8/29")),
        set(),
        "",
    ),
    "address twice": (
        corosync(("10.0.1.2", "10.0.0.2")),
        {("corosync-address", E)},
        "10.0.0.2 is link 0 of nodeb (corosync.conf:16)",
    ),
    "address of another": (corosync(("10.0.0.2", "10.0.0.1")), {("corosync-address", E)}, "10.0.0.1"),
    "no address on a link": (
        corosync(("        ring1_addr: 10.0.1.2\n", "")),
        {("corosync-address", E)},
        "nodeb has no ring1_addr",
    ),
    "no name": (corosync(("        name: nodeb\n", "")), {("corosync-node", E)}, "no name in node { } at corosync.conf:13"),
    "no id": (corosync(("        nodeid: 2\n", "")), {("corosync-node", E)}, "no nodeid above 0 in node { } at corosync.conf:13"),
    "no id, and no knet": (
        corosync(("        nodeid: 2\n", ""), ("version: 2", "version: 2\n    transport: udpu")), set(), ""),
    "id twice": (corosync(("nodeid: 2", "nodeid: 1")), {("corosync-node", E)}, "nodeid 1 stands at corosync.conf:7"),
    "no quorum": (corosync(("    provider: corosync_votequorum\n", "")), {("corosync-quorum", E)}, "no quorum provider"),
    "no two_node": (corosync(("    two_node: 1\n", "")), {("corosync-two-node", W)}, "not written"),
    "two_node with three": (corosync(THIRD), {("corosync-two-node", W)}, "with 3 nodes"),
    "no wait_for_all": (
        corosync(("two_node: 1", "two_node: 1\n    wait_for_all: 0")),
        {("corosync-wait-for-all", E)},
        "corosync.conf:23",
    ),
    "sync is no link": (drbd(("10.0.1.", "192.168.1.")), {("corosync-sync-last", N)}, "192.168.1.1"),
    "sync is not the last": (
        drbd(("10.0.1.", "10.0.0.")),
        {("corosync-sync-last", N)},
        "is link 0, and not the last one (link 1)",
    ),
    "fencing off": (prop("stonith-enabled", "false"), set(), ""),  # the first of two values counts
    "fencing disabled": (
        cib(('"stonith-enabled" value="true"', '"stonith-enabled" value="false"')),
        {("fence-disabled", E)},
        "=false",
    ),
    "no device": (cib((GATE, ""), (POWER, ""), (LEVELS, "")), {("fence-none", E)}, "no fencing device"),
    "only the gate": (cib((POWER, ""), ("gate,power", "gate")), {("fence-none", E), ("fence-gate-alone", E)}, "cuts no power"),
    "no device, watchdog": (
        cib(
            (GATE, ""),
            (POWER, ""),
            (LEVELS, ""),
            ("</cluster_property_set>", '<nvpair name="stonith-watchdog-timeout" value="10s"/></cluster_property_set>'),
        ),
        set(),
        "",
    ),
    "startup-fencing": (prop("startup-fencing", "no"), {("fence-startup", E)}, "startup-fencing=no"),
    "ignore quorum": (prop("no-quorum-policy", "ignore"), {("quorum-policy", E)}, "ignore"),
    "rule over a property": (
        cib(
            (
                "</crm_config>",
                '<cluster_property_set id="x"><rule id="r"/><nvpair name="no-quorum-policy" '
                'value="stop"/></cluster_property_set></crm_config>',
            )
        ),
        {("cib-conditional", U)},
        "no-quorum-policy",
    ),
    "no gate": (cib(*NO_GATE), {("fence-gate", E), ("fence-race", W)}, ""),
    "no gate, delay": (
        cib(
            *NO_GATE,
            (
                'type="fence_ipmilan"/>',
                'type="fence_ipmilan"><instance_attributes id="d"><nvpair '
                'name="pcmk_delay_base" value="nodea:0s;nodeb:5s"/></instance_attributes></primitive>',
            ),
        ),
        {("fence-gate", E)},
        "no fencing device is fence_heartgate",
    ),
    "no guard, no gate": (
        lambda: facts(cib=swap(CIB, *NO_GATE, ("replica-guard", "other")), drbd=""),
        {("fence-race", W)},
        "no gate",
    ),
    "gate last": (cib(("gate,power", "power,gate")), {("fence-gate-first", E)}, "power, gate: the power is cut before"),
    "gate alone in a level": (
        cib(('target="nodea" index="1" devices="gate,power"', 'target="nodea" index="1" devices="gate"')),
        {("fence-gate-alone", E)},
        "level 1 of nodea",
    ),
    "gate in no level": (cib(("gate,power", "power")), {("fence-gate-alone", E), ("fence-gate", E)}, ""),
    "a level around the gate": (
        cib((LEVELS, LEVELS + '<fencing-level target="nodeb" index="2" devices="power"/>')),
        {("fence-gate-bypass", E)},
        "level 2 of nodeb",
    ),
    "a node without level": (cib((LEVELS, LEVELS.split("/>")[0] + "/>")), {("fence-gate", E)}, "nodeb has no fencing level"),
    "level by pattern": (cib((LEVELS, '<fencing-level target-pattern="node." index="1" devices="gate,power"/>')), set(), ""),
    "fabric alone": (
        cib((POWER, '<primitive id="power" class="stonith" type="fence_scsi"/>\n')),
        {("fence-fabric", E)},
        "power is fence_scsi (it cuts a node off from a storage or a switch)",
    ),
    "fabric by its word": (
        cib(
            (
                POWER,
                '<primitive id="power" class="stonith" type="fence_mine"><meta_attributes id="m"><nvpair name="provides" '
                'value="unfencing"/></meta_attributes></primitive>\n',
            )
        ),
        {("fence-fabric", E)},
        "provides=unfencing",
    ),
    "fabric beside power": (
        cib((POWER, POWER + '<primitive id="switch" class="stonith" type="fence_ifmib"/>\n'), ("gate,power", "gate,power,switch")),
        set(),
        "",
    ),
    "fabric in no level": (
        cib((POWER, POWER + '<primitive id="switch" class="stonith" type="fence_brocade"/>\n')), {("fence-fabric", E)}, "switch"),
    "fabric as a second level": (
        cib(
            (POWER, POWER + '<primitive id="mpath" class="stonith" type="fence_mpath"/>\n'),
            (LEVELS, LEVELS + '<fencing-level target="nodeb" index="2" devices="gate,mpath"/>'),
        ),
        {("fence-fabric", E)},
        "mpath is fence_mpath",
    ),
    "level by a POSIX class": (
        cib((LEVELS, '<fencing-level target-pattern="node[[:alpha:]]" index="1" devices="gate,power"/>')), set(), ""),
    "unknown device": (cib(("gate,power", "gate,power,pdu")), {("fence-level-device", E)}, "names pdu"),
    "no alert": (
        cib(("<alert ", "<!-- "), ("pacemaker-alert\"/>", "pacemaker-alert -->")),
        {("fence-alert", N)},
        "no alert in CIB runs /usr/lib/heartgate/pacemaker-alert",
    ),
    "another alert": (cib(("heartgate/pacemaker-alert", "mine/pacemaker-alert")), {("fence-alert", N)}, "no alert in CIB runs"),
    "an alert of nodes alone": (alert("<select><select_nodes/></select>"), {("fence-alert", N)}, "heartgate in CIB is told of no"),
    "an alert of fencing": (alert("<select><select_nodes/><select_fencing/></select>"), set(), ""),
    "an alert that is off": (
        alert('<meta_attributes id="m"><nvpair name="enabled" value="false"/></meta_attributes>'),
        {("fence-alert", N)},
        "is not enabled",
    ),
    "no guard, no alert": (
        lambda: facts(cib=swap(CIB, ("replica-guard", "other"), ("heartgate/pacemaker-alert", "x")), drbd=""),
        set(),
        "",
    ),
    "no watchdog": (lambda: facts(sbd="SBD_WATCHDOG_DEV=/dev/null"), {("sbd-watchdog", E)}, "/etc/default/sbd:1"),
    "no fencing policy": (
        drbd(("fencing resource-and-stonith; ", "")),
        {("drbd-fencing", E)},
        "dont-care (not written, /etc/drbd.d/r0.res:1)",
    ),
    "resource-only": (drbd(("resource-and-stonith", "resource-only")), {("drbd-fencing", E)}, "section net"),
    "stock handlers": (
        drbd(
            ("heartgate/drbd-fence-peer", "drbd/crm-fence-peer.9.sh"),
            ("heartgate/drbd-unfence-peer", "drbd/crm-unfence-peer.9.sh"),
        ),
        {("drbd-handler", E)},
        "Pacemaker's stock handler",
    ),
    "no unfence": (
        drbd(("        unfence-peer /usr/lib/heartgate/drbd-unfence-peer;\n", "")),
        {("drbd-handler", E)},
        "no handler unfence-peer",
    ),
    "unfence of 8.4": (drbd(("unfence-peer /usr", "after-resync-target /usr")), set(), ""),
    "protocol A": (drbd(("protocol C", "protocol A")), {("drbd-protocol", E)}, "protocol A"),
    "after-sb": (net("after-sb-1pri discard-secondary;"), {("drbd-after-sb", E)}, "discard-secondary"),
    "after-sb that keeps": (net("after-sb-0pri discard-zero-changes;"), set(), ""),
    "two primaries": (net("allow-two-primaries;"), {("drbd-two-primaries", E)}, "allow-two-primaries yes"),
    "congestion": (net("on-congestion pull-ahead;"), {("drbd-congestion", E)}, "pull-ahead"),
    "rr-conflict": (net("rr-conflict violently;"), {("drbd-rr-conflict", E)}, "violently"),
    "no secret": (drbd(("cram-hmac-alg sha1; ", "")), {("drbd-auth", N)}, "no cram-hmac-alg"),
    "no verify": (drbd((" verify-alg crc32c;", "")), {("drbd-verify", N)}, "no verify-alg"),
    "no flushes": (drbd(("on-io-error detach", "disk-flushes no")), {("drbd-flushes", W)}, "disk-flushes no"),
    "degraded handler": (
        drbd(("    handlers {", '    handlers {\n pri-on-incon-degr "echo b > /proc/sysrq-trigger";')),
        {("drbd-degraded-handler", E)},
        "sysrq",
    ),
    "not guarded": (cib(('name="device" value="r0"', 'name="device" value="r9"')), {("drbd-unguarded", N)}, "device=r0"),
    "not adjusted": (
        lambda: facts(running="resource r0 {\n net { protocol C; }\n}\n"),
        {("drbd-not-in-force", W)},
        "fencing is dont-care in the kernel",
    ),
    "adjusted": (lambda: facts(running="resource r0 {\n disk { fencing resource-and-stonith; }\n}\n"), set(), ""),
    "buffering backstore": (
        lambda: facts(lio=LIO % ("true", '"emulate_write_cache": 0')),
        {("lio-write-cache", E)},
        "write-through",
    ),
    "backstore, not told": (lambda: facts(lio=LIO % ("true", "")), {("lio-write-cache", U)}, "does not tell"),
    "backstore, honest": (lambda: facts(lio=LIO % ("true", '"emulate_write_cache": 1')), set(), ""),
    "backstore, synchronous": (lambda: facts(lio=LIO % ("false", '"emulate_write_cache": 0')), set(), ""),
    "not readable": (
        lambda: replace(facts(), drbd=None, unreadable=(Unreadable("DRBD", "drbdadm dump: rc 20"),)),
        {("config-unreadable", U)},
        "rc 20",
    ),
    "broken": (
        lambda: replace(facts(), drbd=None, unreadable=(Unreadable("DRBD", "x:3: expected", True),)),
        {("config-syntax", E)},
        "x:3",
    ),
}


def seen(of: LintFacts) -> Set[Tuple[str, Severity]]:
    return {(each.rule, each.severity) for each in config_lint.findings(of)}


@pytest.mark.req("D11", "E7", "A9", "D8")
def test_a_clean_cluster() -> None:
    assert config_lint.findings(facts()) == ()


@pytest.mark.req("D11", "E7", "A9", "D8")
@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name: str) -> None:
    make, expected, evidence = SITUATIONS[name]
    found = config_lint.findings(make())
    assert {(each.rule, each.severity) for each in found} == expected, found
    assert not evidence or any(evidence in each.evidence for each in found), found
    assert all(each.evidence and each.remedy and each.rule in config_lint.RULES for each in found)


def test_every_rule_has_its_situation() -> None:
    shown = {rule for _, expected, _ in SITUATIONS.values() for rule, _ in expected}
    assert shown == set(config_lint.RULES)

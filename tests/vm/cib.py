"""The cluster's resources as pieces of a CIB: loaded with `cibadmin`, since under emulation `pcs` takes minutes for them.

The same set-up is made with real `pcs resource create` and `crm configure` in tests/vm/test_tools.py.
"""

from __future__ import annotations

from typing import Dict

# Everything gets two minutes: these machines are emulated, and a time-out that strikes on a busy host proves nothing.
TIMEOUT = "120s"
RULES = """
   <expression id="{id}-undefined" attribute="heartgate-r0" operation="not_defined"/>
   <expression id="{id}-blocked" attribute="heartgate-r0" operation="eq" value="blocked"/>
   <expression id="{id}-unproven" attribute="heartgate-r0" operation="eq" value="unproven"/>"""


def _operations(ident: str, *extra: str) -> str:
    plain = "".join(
        f'<op id="{ident}-{name}" name="{name}" interval="0" timeout="{TIMEOUT}"/>'
        for name in ("start", "stop", "promote", "demote")
        if name in ("start", "stop") or ident == "drbd"
    )
    return f"<operations>{plain}{''.join(extra)}</operations>"


def _monitor(ident: str, interval_s: int, role: str = "") -> str:
    chosen = f' role="{role}"' if role else ""
    return f'<op id="{ident}-monitor-{interval_s}" name="monitor" interval="{interval_s}s" timeout="{TIMEOUT}"{chosen}/>'


def _primitive(ident: str, provider: str, kind: str, parameters: Dict[str, str], operations: str) -> str:
    pairs = "".join(f'<nvpair id="{ident}-{n}" name="{n}" value="{v}"/>' for n, v in parameters.items())
    return (
        f'<primitive id="{ident}" class="ocf" provider="{provider}" type="{kind}">'
        f'<instance_attributes id="{ident}-parameters">{pairs}</instance_attributes>{operations}</primitive>'
    )


def _meta(ident: str, **values: str) -> str:
    pairs = "".join(f'<nvpair id="{ident}-meta-{n}" name="{n.replace("_", "-")}" value="{v}"/>' for n, v in values.items())
    return f'<meta_attributes id="{ident}-meta">{pairs}</meta_attributes>'


def resources(guard: Dict[str, str], *, promoted_max: int, service: bool, directory: str, log: str) -> str:
    """fence_heartgate, replica-guard, DRBD, and (service=True) a file system with a writer on it."""
    watched = _primitive("guard", "heartgate", "replica-guard", guard, _operations("guard", _monitor("guard", 20)))
    drbd = _primitive(
        "drbd",
        "linbit",
        "drbd",
        {"drbd_resource": "r0"},
        _operations("drbd", _monitor("drbd", 40, "Promoted"), _monitor("drbd", 41, "Unpromoted")),
    )
    meta = _meta("drbd-clone", promotable="true", promoted_max=str(promoted_max), clone_max="2", notify="true")
    group = ""
    if service:
        device = {"device": "/dev/drbd0", "directory": directory, "fstype": "ext4"}
        group = (
            '<group id="service">'
            + _primitive("fs", "heartbeat", "Filesystem", device, _operations("fs"))
            + _primitive("writer", "lab", "writer", {"path": log}, _operations("writer"))
            + "</group>"
        )
    # It decides who may shoot, before the power controller. Emulated, an agent takes seconds to start: hence the longer turns.
    pairs = {"pcmk_host_list": "nodea nodeb", "rank_delay": "15", "pcmk_off_timeout": "120", "pcmk_reboot_timeout": "120"}
    attributes = "".join(f'<nvpair id="gate-{name}" name="{name}" value="{value}"/>' for name, value in pairs.items())
    gate = (
        '<primitive id="gate" class="stonith" type="fence_heartgate">'
        f'<instance_attributes id="gate-parameters">{attributes}</instance_attributes></primitive>'
    )
    return (
        f'<resources>{gate}<clone id="guard-clone">{watched}</clone>'
        f'<clone id="drbd-clone">{meta}{drbd}</clone>{group}</resources>'
    )


def fencing_levels() -> str:
    levels = "".join(
        f'<fencing-level id="level-{node}" target="{node}" index="1" devices="gate,fence-lab"/>' for node in ("nodea", "nodeb")
    )
    return f"<fencing-topology>{levels}</fencing-topology>"


def constraints(*, active: str, service: bool) -> str:
    """Promoted only where heartgate does not forbid it; the service follows; `active` is preferred."""
    refused = (
        '<rsc_location id="heartgate-r0" rsc="drbd-clone"><rule id="heartgate-r0-rule" role="Promoted" score="-INFINITY" '
        f'boolean-op="or">{RULES.format(id="heartgate-r0")}</rule></rsc_location>'
    )
    if not service:
        return f"<constraints>{refused}</constraints>"
    return (
        f'<constraints>{refused}<rsc_location id="prefer" rsc="drbd-clone"><rule id="prefer-rule" role="Promoted" score="100000">'
        f'<expression id="prefer-node" attribute="#uname" operation="eq" value="{active}"/></rule></rsc_location>'
        '<rsc_colocation id="together" rsc="service" with-rsc="drbd-clone" with-rsc-role="Promoted" score="INFINITY"/>'
        '<rsc_order id="after" first="drbd-clone" first-action="promote" then="service" then-action="start"/>'
        "</constraints>"
    )

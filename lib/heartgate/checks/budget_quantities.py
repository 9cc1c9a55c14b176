"""From the configurations of a host to the quantities of the timeout budget, and these into the roles of the laws."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Dict, List, Mapping, Optional, Tuple

from heartgate.checks import corosync_conf
from heartgate.checks.budget import Budget, Expression, Inequality, Quantity, inequality, of
from heartgate.checks.budget_laws import LAWS, ROLES, Scope
from heartgate.checks.cib_conf import STONITH_MS, Cib, Primitive, parse_time
from heartgate.checks.drbd_conf import TIMES, Resource
from heartgate.checks.fencing_levels import GATE_AGENT
from heartgate.checks.lint_facts import GUARD_AGENT, LintFacts
from heartgate.checks.storage_conf import Sbd

DRBD_AGENT = "ocf:linbit:drbd"
SECOND = 1000
_DRBD_ROLES = {
    "timeout": "drbd_timeout",
    "ping-int": "drbd_ping_int",
    "ping-timeout": "drbd_ping_timeout",
    "connect-int": "drbd_connect_int",
}


@dataclass(frozen=True)
class OurTimes:
    """What is built into heartgate, in milliseconds; a test compares it with the daemon's and the agents' own constants.
    Defaults of parameters are here too."""

    block_ms: int = 10_000
    back_ms: int = 4_100  # the unit's WatchdogSec and RestartSec
    start_ms: int = 50_000
    stop_ms: int = 5_000
    monitor_ms: int = 16_000  # the patience with a daemon that restarts, and one request
    hook_ms: int = 10_000
    fence_wait_ms: int = 300_000
    gate_looks_ms: int = 7_000
    confirm_default_ms: int = 10_000
    flush_default_ms: int = 60_000
    rank_delay_default_ms: int = 10_000


Roles = Dict[str, Expression]


class _Builder:
    def __init__(self, facts: LintFacts, ours: OurTimes) -> None:
        self.facts = facts
        self.ours = ours
        self.quantities: Dict[str, Quantity] = {}
        self.inequalities: List[Inequality] = []
        self.common: Roles = {}

    def quantity(self, name: str, ms: Optional[int], where: str, setting: str = "", unit_ms: int = 1) -> Expression:
        found = Quantity(name, ms, where, setting if ms is not None else "", unit_ms)
        self.quantities[name] = found
        return of(found)

    def apply(self, scope: Scope, subject: str, roles: Mapping[str, Expression]) -> None:
        given = {**self.common, **roles}
        self.inequalities += [inequality(law, subject, given) for law in LAWS if law.scope is scope]

    def budget(self) -> Budget:
        used = {name for item in self.inequalities for name in item.names}
        return Budget({name: item for name, item in self.quantities.items() if name in used}, tuple(self.inequalities))


def build(facts: LintFacts, ours: OurTimes = OurTimes()) -> Budget:  # noqa: B008 - frozen
    """The budget of one host's configuration. What the host does not have has no inequalities."""
    builder = _Builder(facts, ours)
    _corosync(builder)
    _fencing_times(builder)
    for resource in facts.drbd or ():
        _drbd(builder, resource)
    if facts.cib is not None:
        _pacemaker(builder, facts.cib)
    if facts.sbd is not None and facts.sbd.in_use is not False:
        _sbd(builder, facts.sbd)
    return builder.budget()


def _reason(facts: LintFacts, what: str, absent: str) -> str:
    return next((f"{item.what}: {item.why}" for item in facts.unreadable if item.what == what), absent)


# --- Corosync


def _corosync(builder: _Builder) -> None:
    conf = builder.facts.corosync
    if conf is None:
        why = _reason(builder.facts, "corosync.conf", "no corosync.conf")
        for role in ("token", "consensus", "join"):
            builder.common[role] = builder.quantity(role, None, why)
        return
    extra = Expression((), Fraction(corosync_conf.token_extra_ms(conf)))
    written = corosync_conf.token(conf)
    file = conf.source
    token = builder.quantity("token", written.ms, written.where, f"token in totem {{ }} of {file}").plus(extra)
    consensus = corosync_conf.consensus(conf)
    join = corosync_conf.join(conf)
    builder.common["token"] = token
    builder.common["join"] = builder.quantity("join", join.ms, join.where, f"join in totem {{ }} of {file}")
    builder.common["consensus"] = (
        token.times(Fraction(12, 10))
        if consensus.ms is None
        else builder.quantity("consensus", consensus.ms, consensus.where, f"consensus in totem {{ }} of {file}")
    )
    count = len(conf.nodes)
    builder.apply(Scope.TWO_NODES if count <= 2 else Scope.MANY_NODES, "corosync.conf", {})
    if conf.transport == "knet" and len(conf.links) > 1:
        for link in conf.links:
            builder.apply(Scope.LINK, f"link {link}", _link(builder, conf, link, token))


def _link(builder: _Builder, conf: corosync_conf.CorosyncConf, link: int, token: Expression) -> Roles:
    pongs = corosync_conf.pong_count(conf, link).ms or corosync_conf.PONG_COUNT
    shares = {"knet_ping_interval": Fraction(1, pongs * 2), "knet_ping_timeout": Fraction(1, pongs)}
    timings = {
        "knet_ping_interval": corosync_conf.ping_interval(conf, link),
        "knet_ping_timeout": corosync_conf.ping_timeout(conf, link),
    }
    roles: Roles = {}
    for key, timing in timings.items():
        setting = f"{key} in interface {{ linknumber: {link} }} of {conf.source}"
        roles[key[len("knet_") :]] = (
            token.times(shares[key])
            if timing.ms is None
            else builder.quantity(f"{key} of link {link}", timing.ms, timing.where, setting)
        )
    return roles


# --- DRBD


def _drbd(builder: _Builder, resource: Resource) -> None:
    """A resource whose connections differ gets its inequalities for each of them."""
    options = {option: resource.time_ms(option) for option in TIMES}
    several = max(len(values) for values in options.values())
    for place in range(several):
        roles: Roles = {}
        for option, values in options.items():
            ms, where = values[min(place, len(values) - 1)]
            shown = where if where == "default" or ms is not None else f"no number, {where}"
            name = f"{resource.name} {option}" + (f" (connection {place + 1})" if len(values) > 1 else "")
            setting = f"{option} in resource {resource.name} {{ net {{ }} }}"
            roles[_DRBD_ROLES[option]] = builder.quantity(name, ms, shown, setting, TIMES[option][1])
        builder.apply(Scope.DRBD, resource.name, roles)


# --- Pacemaker


def _fencing_times(builder: _Builder) -> None:
    cib = builder.facts.cib
    if cib is None:
        builder.common["stonith"] = builder.quantity("stonith-timeout", None, _reason(builder.facts, "CIB", "no CIB"))
        return
    builder.common["stonith"] = _property(builder, cib, "stonith-timeout", STONITH_MS)


def _property(builder: _Builder, cib: Cib, name: str, default_ms: int) -> Expression:
    setting = f"the cluster property {name}"
    if name in cib.conditional:
        return builder.quantity(name, None, f"{cib.source}: it depends on a rule")
    if name not in cib.properties:
        return builder.quantity(name, default_ms, "default", setting, SECOND)
    ms = parse_time(cib.properties[name])
    where = f"{cib.source}" if ms is not None else f"{cib.source}: {cib.properties[name]!r:.40} is no time"
    return builder.quantity(name, ms, where, setting, SECOND)


def _pacemaker(builder: _Builder, cib: Cib) -> None:
    ours = builder.ours
    if cib.fencing:
        builder.apply(Scope.FENCING, "fencing", {"fence_wait": _built_in(builder, "fence_wait", ours.fence_wait_ms)})
    for device in cib.fencing:
        (_gate if device.kind == GATE_AGENT else _device)(builder, cib, device)
    guards = cib.of_kind(GUARD_AGENT)
    for guard in guards:
        _guard(builder, cib, guard)
    guarded = {guard.params.get("device", ""): guard for guard in guards}
    for agent in cib.of_kind(DRBD_AGENT):
        found = guarded.get(agent.params.get("drbd_resource", ""))
        if found is not None:
            confirm = _parameter(builder, cib, found, "confirm_timeout", ours.confirm_default_ms)
            promote = _operation(builder, cib, agent, "promote")
            builder.apply(Scope.PROMOTE, agent.ident, {"promote_op": promote, "confirm": confirm})


def _built_in(builder: _Builder, role: str, ms: int) -> Expression:
    return builder.quantity(ROLES[role], ms, "built in")


def _operation(builder: _Builder, cib: Cib, agent: Primitive, name: str) -> Expression:
    ms, where = cib.operation_ms(agent, name)
    shown = where if ms is not None else f"{where}: no time"
    return builder.quantity(
        f"timeout of {agent.ident} {name}", ms, shown, f"timeout of the operation {name} of {agent.ident}", SECOND
    )


def _parameter(builder: _Builder, cib: Cib, agent: Primitive, name: str, default_ms: int) -> Expression:
    written = agent.params.get(name)
    setting = f"{name} of {agent.ident}"
    if written is None or not written.strip():
        return builder.quantity(f"{agent.ident} {name}", default_ms, "default", setting, SECOND)
    ms = parse_time(written)
    where = f"{cib.source}, {agent.ident}"
    return builder.quantity(
        f"{agent.ident} {name}", ms, where if ms is not None else f"{where}: {written!r:.40} is no time", setting, SECOND
    )


def _guard(builder: _Builder, cib: Cib, guard: Primitive) -> None:
    ours = builder.ours
    roles = {
        "confirm": _parameter(builder, cib, guard, "confirm_timeout", ours.confirm_default_ms),
        "flush": _parameter(builder, cib, guard, "flush_timeout", ours.flush_default_ms),
        **{f"{name}_op": _operation(builder, cib, guard, name) for name in ("start", "stop", "monitor")},
        **{
            role: _built_in(builder, role, ms)
            for role, ms in (
                ("block", ours.block_ms),
                ("back", ours.back_ms),
                ("start", ours.start_ms),
                ("stop", ours.stop_ms),
                ("monitor", ours.monitor_ms),
                ("hook", ours.hook_ms),
            )
        },
    }
    builder.apply(Scope.GUARD, guard.ident, roles)
    if any(target.startswith("hook:") for target in guard.params.get("flush", "").split()):
        builder.apply(Scope.HOOKS, guard.ident, roles)


def _off_timeout(builder: _Builder, cib: Cib, device: Primitive) -> Expression:
    """The shorter of pcmk_off_timeout and pcmk_reboot_timeout; stonith-timeout where one is not written."""
    written = [name for name in ("pcmk_off_timeout", "pcmk_reboot_timeout") if device.params.get(name, "").strip()]
    found = [(parse_time(device.params[name]), name) for name in written]
    stonith = builder.quantities["stonith-timeout"].ms
    shortest = min((item for item in found if item[0] is not None), default=None)
    if any(ms is None for ms, _ in found):
        return builder.quantity(f"{device.ident} timeout", None, f"{cib.source}, {device.ident}: no time")
    if shortest is None or (len(written) == 1 and stonith is not None and stonith <= (shortest[0] or 0)):
        return builder.common["stonith"]
    return _parameter(builder, cib, device, shortest[1], STONITH_MS)


def _gate(builder: _Builder, cib: Cib, device: Primitive) -> None:
    rank_delay = _parameter(builder, cib, device, "rank_delay", builder.ours.rank_delay_default_ms)
    builder.apply(
        Scope.GATE,
        device.ident,
        {
            "gate_delay": _parameter(builder, cib, device, "delay", 0),
            "rank_delay": rank_delay,
            "gate_looks": _built_in(builder, "gate_looks", builder.ours.gate_looks_ms),
            "gate_op": _off_timeout(builder, cib, device),
        },
    )
    for power in _behind(cib, device.ident):
        waits = {
            "shot_delay": _parameter(builder, cib, power, "delay", 0),
            "shot_pcmk_delay": _pcmk_delay(builder, cib, power),
            "shot_wait": _parameter(builder, cib, power, "power_wait", 0),
        }
        if any(builder.quantities[name].ms != 0 for each in waits.values() for name in each.names):
            builder.apply(Scope.SHOT, f"{power.ident} behind {device.ident}", {**waits, "rank_delay": rank_delay})


def _behind(cib: Cib, gate: str) -> Tuple[Primitive, ...]:
    """The devices that stand after it in some level."""
    levels = [level.devices for level in cib.levels if gate in level.devices]
    names = {name for devices in levels for name in devices[devices.index(gate) + 1 :]} - {gate}
    return tuple(item for item in cib.fencing if item.ident in names)


def _pcmk_delay(builder: _Builder, cib: Cib, device: Primitive) -> Expression:
    """The longest that Pacemaker may wait before it calls the device: pcmk_delay_max, which has the base in it, else
    pcmk_delay_base (one time, or NODE:TIME for each node)."""
    name = "pcmk_delay_max" if parse_time(device.params.get("pcmk_delay_max") or "0") != 0 else "pcmk_delay_base"
    written = re.split(r"[;,\s]+", device.params.get(name, "").strip())
    if len(written) == 1 and ":" not in written[0]:
        return _parameter(builder, cib, device, name, 0)
    times = [parse_time(part.rpartition(":")[2]) for part in written if part]
    longest = None if None in times else max(each for each in times if each is not None)
    where = f"{cib.source}, {device.ident}"
    shown = f"{where}, its longest" if longest is not None else f"{where}: {device.params[name]!r:.40} has what is no time"
    return builder.quantity(f"{device.ident} {name}", longest, shown, f"{name} of {device.ident}", SECOND)


def _device(builder: _Builder, cib: Cib, device: Primitive) -> None:
    if device.params.get("delay", "").strip() not in ("", "0", "0s"):
        delay = _parameter(builder, cib, device, "delay", 0)
        builder.apply(Scope.DEVICE, device.ident, {"device_delay": delay, "device_op": _off_timeout(builder, cib, device)})


# --- SBD


def _sbd(builder: _Builder, sbd: Sbd) -> None:
    ms, where = sbd.watchdog
    setting = f"the header of {sbd.headers[0].device} (sbd create -1)" if sbd.headers else f"SBD_WATCHDOG_TIMEOUT in {sbd.source}"
    shown = where if ms is not None else f"{where}: no number"
    watchdog = builder.quantity("SBD watchdog timeout", ms, shown, setting, SECOND)
    if sbd.devices:
        _sbd_disk(builder, sbd, watchdog)
        return
    cib = builder.facts.cib
    written = cib.properties.get("stonith-watchdog-timeout", "").strip() if cib else ""
    if cib is None:
        unknown = builder.quantity("stonith-watchdog-timeout", None, _reason(builder.facts, "CIB", "no CIB"))
        builder.apply(Scope.SBD_WATCHDOG, "sbd", {"watchdog": watchdog, "stonith_watchdog": unknown})
    elif written.startswith("-") or not written or parse_time(written) == 0:
        return  # -1: Pacemaker doubles the watchdog's time itself; 0: the watchdog is no fencing
    else:
        limit = _property(builder, cib, "stonith-watchdog-timeout", 0)
        builder.apply(Scope.SBD_WATCHDOG, "sbd", {"watchdog": watchdog, "stonith_watchdog": limit})


def _sbd_disk(builder: _Builder, sbd: Sbd, watchdog: Expression) -> None:
    seconds = [header.msgwait_s for header in sbd.headers]
    where = f"header of {sbd.headers[0].device}" if sbd.headers else f"no header of {', '.join(sbd.devices)} could be read"
    setting = "the headers of the SBD disks (sbd create -4)"
    roles = {
        "watchdog": watchdog,
        "msgwait": builder.quantity("SBD msgwait", min(seconds) * 1000 if seconds else None, where, setting, SECOND),
    }
    builder.apply(Scope.SBD_DISK, "sbd", roles)
    ms, place = sbd.delay_start
    if ms:
        roles["sbd_delay"] = builder.quantity("SBD_DELAY_START", ms, place, f"SBD_DELAY_START in {sbd.source}", SECOND)
        roles["delay_max"] = _delay_max(builder)
        builder.apply(Scope.SBD_DELAY, "sbd", roles)


def _delay_max(builder: _Builder) -> Expression:
    cib = builder.facts.cib
    if cib is None:
        return builder.quantity("longest pcmk_delay_max", None, _reason(builder.facts, "CIB", "no CIB"))
    delays = [
        (parse_time(device.params["pcmk_delay_max"]), device.ident)
        for device in cib.fencing
        if device.params.get("pcmk_delay_max")
    ]
    if any(ms is None for ms, _ in delays):
        return builder.quantity("longest pcmk_delay_max", None, f"{cib.source}: no time")
    longest = max(((ms or 0, ident) for ms, ident in delays), default=(0, ""))
    setting = f"pcmk_delay_max of {longest[1]}" if longest[1] else ""
    return builder.quantity(
        "longest pcmk_delay_max", longest[0], f"{cib.source}, {longest[1]}" if longest[1] else "default", setting, SECOND
    )

"""Rules over DRBD's configuration and LIO's: what would defeat the failover policy or lose acknowledged writes."""

from __future__ import annotations

from typing import Iterator, List, Mapping, Optional, Tuple

from heartgate.checks.drbd_conf import (
    AFTER_SB,
    FENCE_HANDLER,
    FENCING_WANTED,
    REBOOTING_WORDS,
    UNFENCE_HANDLER,
    Resource,
    throws_data_away,
)
from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.lint_facts import GUARD_AGENT, LintFacts, Reporter, table

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Mapping[str, RuleInfo] = table(
    RuleInfo(
        "drbd-fencing", ERROR, "A3", "fencing is resource-and-stonith: only then DRBD freezes a Primary when it loses its peer."
    ),
    RuleInfo(
        "drbd-handler", ERROR, "A3", "fence-peer and unfence-peer are heartgate's handlers: they carry the verdict to the kernel."
    ),
    RuleInfo("drbd-protocol", ERROR, "A7", "Protocol C: with A and B a write is acknowledged before the peer has it on disk."),
    RuleInfo("drbd-after-sb", ERROR, "E8", "after-sb-0pri, -1pri and -2pri throw nothing away by themselves."),
    RuleInfo("drbd-two-primaries", ERROR, "A7", "allow-two-primaries is off: it is the permission for two writers."),
    RuleInfo("drbd-congestion", ERROR, "A7", "on-congestion is block: pull-ahead lets the peer fall behind without notice."),
    RuleInfo(
        "drbd-rr-conflict", ERROR, "E8", "rr-conflict is not violently: that overwrites a Primary's data beneath its file system."
    ),
    RuleInfo("drbd-degraded-handler", ERROR, "A4", "pri-on-incon-degr does not take the node down: a release calls it."),
    RuleInfo(
        "drbd-flushes",
        WARNING,
        "A5",
        "DRBD flushes disks and metadata (disk-flushes, md-flushes): without, a power cut loses what was "
        "acknowledged, unless the controller's cache has a battery.",
    ),
    RuleInfo("drbd-auth", NOTE, "D11", "DRBD's peers know each other by a shared secret (cram-hmac-alg)."),
    RuleInfo("drbd-verify", NOTE, "E8", "verify-alg is set, so that `drbdadm verify` can show that both replicas hold the same."),
    RuleInfo("drbd-unguarded", NOTE, "A1", "Every replicated device has a replica-guard."),
    RuleInfo("drbd-not-in-force", WARNING, "A3", "The kernel runs with what the files say (drbdadm adjust)."),
    RuleInfo(
        "lio-write-cache",
        ERROR,
        "A5",
        "A LIO backstore that buffers writes says so to its initiators (emulate_write_cache); else they "
        "never flush, and a power cut loses what they believe to be on disk.",
    ),
)


def findings(facts: LintFacts) -> Tuple[Finding, ...]:
    report = Reporter(RULES, facts.host)
    found: List[Finding] = []
    guarded = _guarded(facts)
    for resource in facts.drbd or ():
        found += [*_net(resource, report), *_disk(resource, report)]
        if guarded is None or _is_guarded(resource, guarded):
            found += _policy(resource, report)
        else:
            found.append(
                report.found(
                    "drbd-unguarded",
                    resource.name,
                    f"no replica-guard has device={resource.name} ({resource.where})",
                    f"pcs resource create guard-{resource.name} ocf:heartgate:replica-guard device={resource.name} "
                    'priorities="..." clone',
                )
            )
    for running in facts.drbd_running or ():
        found += _in_force(running, facts.drbd or (), report)
    return tuple(found) + tuple(_lio(facts, report))


def _guarded(facts: LintFacts) -> Optional[List[str]]:
    """Devices that a replica-guard names; None: the CIB is not known, so every resource may be guarded."""
    return None if facts.cib is None else [item.params.get("device", "") for item in facts.cib.of_kind(GUARD_AGENT)]


def _is_guarded(resource: Resource, guarded: List[str]) -> bool:
    return any(device == resource.name or device.startswith("/dev/") for device in guarded)


def _lines(resource: Resource, section: str, line: str) -> str:
    return f"write resource {resource.name} {{ {section} {{ {line} }} }}, then drbdadm adjust {resource.name} on every node"


def _policy(resource: Resource, report: Reporter) -> Iterator[Finding]:
    for value in resource.values("fencing", "dont-care"):
        if value.value != FENCING_WANTED:
            yield report.found(
                "drbd-fencing",
                resource.name,
                f"fencing {value.value} ({_place(value.where, resource)})",
                _lines(resource, "net", f"fencing {FENCING_WANTED};") + " (DRBD 8.4: in disk { })",
            )
    # 8.4.11 calls after-resync-target where 9 calls unfence-peer; either will do.
    for names, program in ((("fence-peer",), FENCE_HANDLER), (("unfence-peer", "after-resync-target"), UNFENCE_HANDLER)):
        written = [resource.handlers[name] for name in names if name in resource.handlers]
        if any(setting.value.split()[:1] == [program] for setting in written):
            continue
        stock = [setting for setting in written if "crm-fence-peer" in setting.value or "crm-unfence-peer" in setting.value]
        evidence = f"no handler {names[0]} ({resource.where})"
        if written:
            kind = "Pacemaker's stock handler" if stock else "another handler"
            evidence = f"{names[0]} is {kind}, {written[0].value} ({_place(written[0].where, resource)})"
        yield report.found("drbd-handler", resource.name, evidence, _lines(resource, "handlers", f'{names[0]} "{program}";'))
    degraded = resource.handlers.get("pri-on-incon-degr")
    if degraded and any(word in degraded.value for word in REBOOTING_WORDS):
        yield report.found(
            "drbd-degraded-handler",
            resource.name,
            f"pri-on-incon-degr is {degraded.value[:120]} ({degraded.where})",
            f"remove pri-on-incon-degr from the handlers of {resource.name} and of common",
        )


def _place(where: str, resource: Resource) -> str:
    return f"not written, {resource.where}" if where == "default" else where


def _net(resource: Resource, report: Reporter) -> Iterator[Finding]:
    for value in resource.values("protocol", "C"):
        if value.value.upper() != "C":
            yield report.found(
                "drbd-protocol", resource.name, f"protocol {value.value} ({value.where})", _lines(resource, "net", "protocol C;")
            )
    for option in AFTER_SB:
        for value in resource.values(option, "disconnect"):
            if throws_data_away(value.value):
                yield report.found(
                    "drbd-after-sb",
                    resource.name,
                    f"{option} {value.value} ({value.where}) may discard acknowledged writes",
                    _lines(resource, "net", f"{option} disconnect;"),
                )
    simple = (
        ("allow-two-primaries", "no", ("no",), "drbd-two-primaries", "allow-two-primaries no;"),
        ("on-congestion", "block", ("block",), "drbd-congestion", "on-congestion block;"),
    )
    for option, default, good, rule, line in simple:
        for value in resource.values(option, default):
            if value.value not in good:
                yield report.found(rule, resource.name, f"{option} {value.value} ({value.where})", _lines(resource, "net", line))
    for value in resource.values("rr-conflict", "disconnect"):
        if value.value == "violently":
            yield report.found(
                "drbd-rr-conflict",
                resource.name,
                f"rr-conflict violently ({value.where})",
                _lines(resource, "net", "rr-conflict disconnect;"),
            )
    if not all(value.value for value in resource.values("cram-hmac-alg", "")):
        yield report.found(
            "drbd-auth",
            resource.name,
            f"no cram-hmac-alg ({resource.where})",
            _lines(resource, "net", "cram-hmac-alg sha256; shared-secret ...;"),
        )
    if not all(value.value for value in resource.values("verify-alg", "")):
        yield report.found(
            "drbd-verify", resource.name, f"no verify-alg ({resource.where})", _lines(resource, "net", "verify-alg crc32c;")
        )


def _disk(resource: Resource, report: Reporter) -> Iterator[Finding]:
    for option in ("disk-flushes", "md-flushes"):
        setting = resource.disk.get(option)
        if setting and setting.value == "no":
            yield report.found(
                "drbd-flushes", resource.name, f"{option} no ({setting.where})", _lines(resource, "disk", f"{option} yes;")
            )


def _in_force(running: Resource, files: Tuple[Resource, ...], report: Reporter) -> Iterator[Finding]:
    """`show` leaves defaults out, so what is written in the files and missing there is another value too."""
    for resource in files:
        if resource.name != running.name:
            continue
        for option, default in (("fencing", "dont-care"), ("protocol", "C"), ("allow-two-primaries", "no")):
            wanted = {setting.value for setting in resource.values(option, default)}
            real = {setting.value for setting in running.values(option, default)}
            if wanted != real:
                evidence = (
                    f"{option} is {', '.join(sorted(real))} in the kernel and {', '.join(sorted(wanted))} in {resource.where}"
                )
                yield report.found("drbd-not-in-force", resource.name, evidence, f"drbdadm adjust {resource.name}")


def _lio(facts: LintFacts, report: Reporter) -> Iterator[Finding]:
    for store in facts.lio.backstores if facts.lio else ():
        if store.plugin != "fileio" or not store.write_back or store.write_cache:
            continue
        subject, source = f"fileio/{store.name}", facts.lio.source if facts.lio else ""
        remedy = f"targetcli /backstores/{subject} set attribute emulate_write_cache=1 (or write_back=false); saveconfig"
        if store.write_cache is None:
            evidence = f"{subject} ({store.path}) buffers writes (write_back), and {source} does not tell whether it says so"
            yield report.found("lio-write-cache", subject, evidence, remedy, severity=Severity.UNKNOWN)
        else:
            evidence = f"{subject} ({store.path}) buffers writes (write_back) and advertises write-through ({source})"
            yield report.found("lio-write-cache", subject, evidence, remedy)

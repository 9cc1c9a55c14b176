"""Collecting the configurations: real drbdadm, cibadmin's absence, files that are missing, closed, broken, too long."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartgate.adapters import cluster_config
from heartgate.adapters.cluster_config import Collector, Places
from heartgate.adapters.process import RC_NOT_FOUND, Completed, run
from heartgate.checks import config_lint
from heartgate.checks.findings import Severity
from heartgate.checks.source import ParseError
from tests.unit.test_checks_config_lint import CIB, COROSYNC

ADDRESSES = (
    '[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},{"ifname":"hb0","addr_info":'
    '[{"family":"inet","local":"10.0.0.1","prefixlen":24},{"family":"inet6","local":"fe80::1","prefixlen":64},'
    '{"family":"inet6","local":"fd00::1","prefixlen":64}]}]'
)
HEADER = "Timeout (watchdog) : 5\nTimeout (msgwait)  : 10\n"
RESOURCE = """\
resource r0 {
  device minor 0; disk /dev/vdb; meta-disk internal;
  net { protocol C; }
  on nodea { address 10.0.0.1:7000; }
  on nodeb { address 10.0.0.2:7000; }
}
"""


class Programs:
    """Programs by their name and first words; what is not named is not found. `real`: these are run."""

    def __init__(self, answers: Dict[str, Completed], real: Tuple[str, ...] = ()) -> None:
        self.answers, self.real, self.asked = answers, real, [""][:0]

    def __call__(self, argv: Sequence[str], *, timeout_s: float, **others: object) -> Completed:
        assert 0 < timeout_s <= 10
        self.asked.append(" ".join(argv))
        if argv[0] in self.real:
            return run(argv, timeout_s=timeout_s)
        for words, answer in self.answers.items():
            if " ".join(argv).startswith(words):
                return answer
        return Completed(RC_NOT_FOUND, "", f"{argv[0]}: not found")


def places(root: Path, **files: str) -> Places:
    """Paths in a directory of the test, and the files of them that are to exist."""
    paths = {name: str(root / name) for name in ("corosync", "cib", "drbd", "drbd_module", "sbd", "lio")}
    for name, content in files.items():
        Path(paths[name]).write_text(content)
    return Places(paths["corosync"], paths["cib"], paths["drbd"], paths["drbd_module"], (paths["sbd"],), (paths["lio"],))


IP = {"ip -json": Completed(0, ADDRESSES, "")}
needs_cibadmin = pytest.mark.skipif(not shutil.which("cibadmin", path="/usr/sbin"), reason="Pacemaker is not installed")
needs_drbd = pytest.mark.skipif(not shutil.which("drbdadm", path="/usr/sbin:/sbin"), reason="drbd-utils are not installed")


def test_everything_there(tmp_path: Path) -> None:
    programs = Programs(
        {
            **IP,
            "cibadmin": Completed(0, CIB, ""),
            "systemctl is-enabled": Completed(0, "enabled\n", ""),
            "sbd -d": Completed(0, HEADER, ""),
        }
    )
    found = Collector(
        places(tmp_path, corosync=COROSYNC, sbd="SBD_DEVICE=/dev/s", lio='{"storage_objects": []}', cib=CIB), programs
    ).facts("nodea")
    assert found.unreadable == () and found.corosync and found.corosync.source == str(tmp_path / "corosync")
    assert found.sbd and found.sbd.headers[0].msgwait_s == 10 and found.sbd.in_use is True
    assert found.lio and found.cib and found.cib.nodes == ("nodea", "nodeb")
    assert found.networks == ("10.0.0.0/24", "fd00::/64")
    assert found.drbd is None and found.drbd_running is None


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_config, "find", lambda program: None)
    found = Collector(places(tmp_path), Programs(IP)).facts("nodea")
    assert (found.corosync, found.cib, found.drbd, found.sbd, found.lio, found.unreadable) == (None, None, None, None, None, ())


@needs_cibadmin
def test_a_cluster_that_does_not_run(tmp_path: Path) -> None:
    dead = Programs(
        {**IP, "cibadmin": Completed(102, "", "cibadmin: Connection to CIB failed: Transport endpoint is not connected")}
    )
    found = Collector(places(tmp_path, cib=CIB), dead).facts("nodea")
    assert found.cib and found.cib.source == str(tmp_path / "cib") and not found.unreadable
    (lost,) = Collector(places(tmp_path / "none"), dead).facts("nodea").unreadable
    assert lost.what == "CIB" and "Connection to CIB failed" in lost.why and not lost.broken


def test_broken_files_are_named_with_their_line(tmp_path: Path) -> None:
    programs = Programs({**IP, "cibadmin": Completed(102, "", "")})
    found = Collector(places(tmp_path, corosync="totem {\n", sbd="what", lio="{", cib="<cib>"), programs).facts("nodea")
    assert [(item.what, item.broken) for item in found.unreadable] == [
        ("corosync.conf", True),
        ("CIB", True),
        ("SBD", True),
        ("LIO", True),
    ]
    assert all(str(tmp_path) in item.why and ":1: expected" in item.why for item in found.unreadable)
    assert {(each.rule, each.severity) for each in config_lint.findings(found)} == {("config-syntax", Severity.ERROR)}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    where = places(tmp_path)
    Path(where.corosync).symlink_to(where.corosync)  # a circle: fails for root too
    Path(where.lio[0]).mkdir()
    Path(where.sbd[0]).write_text("#" * (cluster_config.FILE_LIMIT + 1))
    found = Collector(where, Programs({**IP, "cibadmin": Completed(0, CIB, "")})).facts("nodea")
    said = {item.what: item.why for item in found.unreadable}
    assert "symbolic links" in said["corosync.conf"] and "directory" in said["LIO"] and "more than" in said["SBD"]
    assert not any(item.broken for item in found.unreadable)
    assert {(each.rule, each.severity) for each in config_lint.findings(found)} >= {("config-unreadable", Severity.UNKNOWN)}


def test_programs_that_fail(tmp_path: Path) -> None:
    where = places(tmp_path, sbd="SBD_DEVICE=/dev/s", cib=CIB)
    Path(where.drbd_module).mkdir()
    programs = Programs(
        {
            "sbd": Completed(124, "", "ended: deadline passed"),
            "drbdsetup": Completed(20, "", "no"),
            "cibadmin": Completed(1, "", ""),
        }
    )
    said = {item.what: item.why for item in Collector(where, programs).facts("nodea").unreadable}
    assert "deadline passed" in said["SBD"] and said["networks"].startswith("ip -json address: rc 127")
    if shutil.which("drbdsetup", path="/usr/sbin:/sbin"):
        assert said["DRBD in the kernel"] == "drbdsetup show: rc 20: no"


@needs_drbd
def test_the_real_drbdadm(tmp_path: Path) -> None:
    programs = Programs({**IP, "cibadmin": Completed(0, CIB, "")}, real=("drbdadm",))
    found = Collector(places(tmp_path, drbd="global { usage-count no; }\n" + RESOURCE), programs).facts("nodea")
    assert found.drbd and found.drbd[0].where == f"{tmp_path}/drbd:2" and not found.unreadable
    rules = {each.rule for each in config_lint.findings(found)}
    assert {"drbd-fencing", "drbd-handler"} <= rules
    broken = places(
        tmp_path / "x" if (tmp_path / "x").mkdir() else tmp_path / "x", drbd=RESOURCE.replace("protocol C", "protocoll C")
    )
    (wrong,) = Collector(broken, programs).facts("nodea").unreadable
    assert wrong.what == "DRBD" and wrong.broken and wrong.why.startswith(f"{tmp_path}/x/drbd:3: ")


def test_an_unused_sbd_is_not_asked(tmp_path: Path) -> None:
    programs = Programs({**IP, "cibadmin": Completed(0, CIB, ""), "systemctl": Completed(1, "disabled\n", "")})
    found = Collector(places(tmp_path, sbd="SBD_DEVICE=/dev/s"), programs).facts("nodea")
    assert found.sbd and found.sbd.in_use is False and not any(asked.startswith("sbd") for asked in programs.asked)


def test_this_machine_is_only_looked_at() -> None:
    """With the real programs: no exception, and only programs that read."""
    asked: List[str] = []

    def watched(argv: Sequence[str], *, timeout_s: float) -> Completed:
        asked.append(" ".join(argv[:2]))
        return run(argv, timeout_s=timeout_s)

    found = Collector(runner=watched).facts("nodea")
    assert found.networks is not None
    assert set(asked) <= {
        "cibadmin --query",
        "drbdadm --config-file",
        "drbdsetup show",
        "ip -json",
        "systemctl is-enabled",
        "sbd -d",
    }


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["addr_info", "local", "prefixlen"]), inner, max_size=3)
            ),
            max_leaves=6,
        ).map(lambda value: __import__("json").dumps(value)),
    )
)
def test_networks_of_anything(text: str) -> None:
    try:
        cluster_config.networks(text)
    except ParseError as error:
        assert error.line == 1


def test_parts_ask_for_nothing_else(tmp_path: Path) -> None:
    """`heartgate status` is in a hurry."""
    answers = {"cibadmin": Completed(0, CIB, ""), "drbdadm": Completed(0, RESOURCE, ""), "drbdsetup": Completed(1, "", "x")}
    programs = Programs(answers)
    collector = Collector(places(tmp_path, drbd="", drbd_module="", cib=CIB), programs)
    cluster = collector.cluster("nodea")
    assert cluster.cib and not cluster.unreadable and [each.split()[0] for each in programs.asked] == ["cibadmin"]
    del programs.asked[:]
    replication = collector.replication("nodea")
    assert replication.cib is None and [each.split()[0] for each in programs.asked] == ["drbdadm", "drbdsetup"]
    assert replication.drbd and [each.what for each in replication.unreadable] == ["DRBD in the kernel"]

"""The packages: what is in them, and what installing, upgrading, removing and purging does to a node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import pytest

from heartgate.core.codec import encode_record
from heartgate.core.model import Record, Standing
from tests.lab.deb import DATE, checkout
from tests.lab.deb import build as build_deb
from tests.unit.package_root import Root, needs

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
sys.path.append(str(PACKAGING))

import manifest  # noqa: E402

STATE = "/var/lib/heartgate"
UNIT = "heartgated.service"
WANTED_BY = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"
WITHOUT_DPKG = needs("dpkg-deb", "dpkg", "unshare")
WITHOUT_RPM = needs("rpm", "rpmbuild", "rpmspec", "unshare")
WITHOUT_ALL = needs("rpm", "rpmbuild", "dpkg-buildpackage", "dh", "lintian", "rpmlint")
NAMED = re.compile(r"/usr/share/heartgate[\w./-]*\.xml|/usr/lib/heartgate/[\w-]+|/usr/sbin/heartgated?\b")
Listing = Dict[str, Tuple[int, str]]


def expected(library: str) -> Listing:
    return {"/" + item.target: (item.mode, "root/root") for item in manifest.files(library)}


def deb_files(package: Path) -> Listing:
    """Path to (mode, owner) of each file; the directories are only checked."""
    found: Listing = {}
    told = subprocess.run(["dpkg-deb", "--contents", str(package)], capture_output=True, text=True, check=True).stdout
    for line in told.splitlines():
        mode, owner, _, _, _, path = line.split(None, 5)
        if mode.startswith("d"):
            assert (mode, owner) == ("drwxr-xr-x", "root/root"), line
            continue
        assert mode.startswith("-"), line
        bits = sum(1 << (8 - place) for place, letter in enumerate(mode[1:]) if letter != "-")
        found[path[1:]] = (bits, owner)
    return found


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, Path]:
    """This version and a later one."""
    where = tmp_path_factory.mktemp("debs")
    later = checkout(where / "later", "99.0")
    return build_deb(ROOT, where / "now.deb"), build_deb(later, where / "later.deb")


# --- what is in them


def test_every_program_can_be_placed() -> None:
    found = [item for item in manifest.files("/somewhere", "/usr/bin/python3.11") if item.mode == 0o755]
    names = {Path(item.target).name for item in found}
    assert {"heartgate", "heartgated", "replica-guard", "ocf-agent", "drbd-fence-peer", "drbd-unfence-peer"} <= names
    for item in found:
        text = item.content.decode()
        if "/resource.d/" in item.target:
            assert text.startswith("#!/bin/sh\n") and "\nPYTHON=/usr/bin/python3.11\n" in text, item.target
            assert "python3\n" not in text, item.target
            continue
        assert text.startswith("#!/usr/bin/python3.11 -I") and '"/somewhere"' in text and "dist-packages" not in text, item.target


@pytest.mark.parametrize("text", [b"#!/usr/bin/python3 -I\nimport heartgate\n", b"#!/bin/sh\nexec python3 /usr/lib/heartgate/x\n"])
def test_a_program_that_cannot_be_placed_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="agents/x"):
        manifest.executable(Path("agents/x"), text, "/a", "/usr/bin/python3")


def test_what_programs_open_is_installed() -> None:
    """Paths that the code names are paths of the package."""
    installed = set(expected(manifest.DEBIAN_LIBRARY))
    named = set()
    for path in (*(ROOT / "agents").rglob("*"), *(ROOT / "packaging").glob("*.[sr]*"), *(ROOT / "lib").rglob("*.py")):
        if path.is_file():
            named |= set(NAMED.findall(path.read_text(encoding="utf-8", errors="replace")))
    assert len(named) >= 4 and named <= installed, named - installed


def test_every_program_has_a_manual_page() -> None:
    installed = set(expected(manifest.DEBIAN_LIBRARY))
    for path in sorted(installed):
        directory, _, name = path.rpartition("/")
        if directory == "/usr/sbin":
            assert f"/usr/share/man/man8/{name}.8.gz" in installed
        if directory == "/usr/lib/ocf/resource.d/heartgate":
            assert f"/usr/share/man/man7/ocf_heartgate_{name}.7.gz" in installed


@pytest.mark.skipif(bool(WITHOUT_DPKG), reason=WITHOUT_DPKG)
def test_the_labs_package_has_the_files_of_the_list(debs: Tuple[Path, Path]) -> None:
    wanted = {**expected(manifest.DEBIAN_LIBRARY), "/usr/share/doc/heartgate/copyright": (0o644, "root/root")}
    assert deb_files(debs[0]) == wanted


@pytest.mark.skipif(bool(WITHOUT_DPKG), reason=WITHOUT_DPKG)
def test_the_labs_package_is_the_same_bytes_again(debs: Tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = checkout(tmp_path / "copy", manifest.version())
    again = build_deb(elsewhere, tmp_path / "again.deb", umask=0o077)
    assert again.read_bytes() == debs[0].read_bytes()


# --- DEB on a node


@pytest.fixture()
def node(tmp_path: Path, debs: Tuple[Path, Path]) -> Iterator[Root]:
    base = tmp_path / "node"
    base.mkdir()
    with Root(base, manifest.DEBIAN_LIBRARY) as root:
        for name, package in zip(("now", "later"), debs):
            root.copy(package, f"/{name}.deb")
        yield root


DPKG = ("dpkg", "--force-confnew", "--no-triggers")  # the database of manual pages is not what this is about
on_a_node = pytest.mark.skipif(bool(WITHOUT_DPKG), reason=WITHOUT_DPKG)


def units_asked_for(calls: List[str]) -> List[str]:
    """Verbs of what was asked about our unit. No call may concern another one."""
    verbs = []
    for call in calls:
        words = [word for word in call.split()[1:] if not word.startswith("-")]
        if words == ["daemon-reload"]:
            continue
        assert words[1:] == [UNIT], f"systemctl was asked for something else: {call}"
        verbs.append(words[0])
    return [verb for verb in verbs if verb not in ("is-enabled", "is-active")]


@on_a_node
def test_deb_installed_upgraded_removed_purged(node: Root) -> None:
    node.run(*DPKG, "-i", "/now.deb")
    assert node.run("heartgate", "version").stdout == f"heartgate {manifest.version()}\n"
    assert units_asked_for(node.calls()) == ["preset", "restart"]  # what the presets say: in Debian, enabled
    assert node.find(WANTED_BY) == [WANTED_BY]
    assert node.run("dpkg", "--verify", "heartgate").stdout == ""
    node.write(f"{STATE}/r0.state", "a promise", 0o600)

    node.run(*DPKG, "-i", "/later.deb")
    calls = node.calls()
    # The daemon goes on while files are replaced, and is restarted once, when all of them are there.
    assert units_asked_for(calls) == ["restart"]
    assert [call.split()[0] for call in calls if " restart " in call + " "] == ["99.0"]
    assert node.run("cat", f"{STATE}/r0.state").stdout == "a promise"

    told = node.run(*DPKG, "-r", "heartgate")
    assert units_asked_for(node.calls()) == ["stop"]
    assert "r0 was guarded here" in told.stderr
    assert node.run("cat", f"{STATE}/r0.state").stdout == "a promise"
    assert node.find("/usr", "-path", "*heartgat*", "-not", "-path", "/usr/share/doc/*") == []

    node.run(*DPKG, "-P", "heartgate")
    assert units_asked_for(node.calls()) == []
    left = node.find("/usr", "/etc", "/var/lib", "-xdev", "-name", "*heartgat*")
    assert left == [], left


PACEMAKER_RUNS = "/usr/bin/pidof"
CIB = "/var/lib/pacemaker/cib/cib.xml"
GUARD = '<primitive id="guard" class="ocf" provider="heartgate" type="replica-guard"/>'
GATE = '<primitive id="gate" class="stonith" type="fence_heartgate"/>'


@on_a_node
@pytest.mark.parametrize("resource", [GUARD, GATE])
def test_deb_is_not_removed_under_a_pacemaker_that_uses_its_agents(node: Root, resource: str) -> None:
    node.run(*DPKG, "-i", "/now.deb")
    node.write(PACEMAKER_RUNS, "#!/bin/sh\nexit 0\n", 0o755)
    node.write(CIB, f"<cib><configuration><resources>{resource}</resources></configuration></cib>\n")
    node.calls()
    told = node.run(*DPKG, "-r", "heartgate", check=False)
    assert told.returncode != 0
    assert "not removed. Pacemaker runs here" in told.stderr and "docs/operations.md" in told.stderr
    assert "stop" not in units_asked_for(node.calls())
    assert node.run("dpkg-query", "-W", "-f", "${db:Status-Status}", "heartgate").stdout == "installed"
    assert node.run("heartgate", "version").stdout == f"heartgate {manifest.version()}\n"

    node.write(PACEMAKER_RUNS, "#!/bin/sh\nexit 1\n", 0o755)
    node.run(*DPKG, "-r", "heartgate")
    assert units_asked_for(node.calls()) == ["stop"]


@on_a_node
def test_deb_is_upgraded_under_a_pacemaker_that_uses_its_agents_and_removed_when_they_are_gone(node: Root) -> None:
    node.run(*DPKG, "-i", "/now.deb")
    node.write(PACEMAKER_RUNS, "#!/bin/sh\nexit 0\n", 0o755)
    node.write(CIB, f"<cib><configuration><resources>{GUARD}</resources></configuration></cib>\n")
    node.run(*DPKG, "-i", "/later.deb")
    assert node.run("heartgate", "version").stdout == "heartgate 99.0\n"
    node.write(CIB, "<cib><configuration><resources/></configuration></cib>\n")
    assert "not removed" not in node.run(*DPKG, "-r", "heartgate").stderr


@on_a_node
def test_deb_says_what_it_leaves_behind(node: Root) -> None:
    """A record that forbids something, and handlers that DRBD would call in vain; nothing of the running daemon stays."""
    node.run(*DPKG, "-i", "/now.deb")
    node.write(f"{STATE}/r0.state", blocked_record(), 0o600)
    node.write("/etc/drbd.d/r0.res", 'resource r0 { handlers { fence-peer "/usr/lib/heartgate/drbd-fence-peer"; } }\n')
    node.write("/run/heartgate/control.sock", "", 0o600)
    node.write("/run/heartgate-alert/socket", "", 0o620)
    told = node.run(*DPKG, "-r", "heartgate").stderr
    assert "r0 was guarded here and is blocked. Its record stays" in told and "That copy may be old" in told
    assert "/etc/drbd.d/r0.res names handlers of heartgate" in told
    assert node.run("cat", f"{STATE}/r0.state").stdout == blocked_record()
    assert node.find("/run", "-name", "heartgate*") == []
    told = node.run(*DPKG, "-P", "heartgate").stderr
    assert "the record of r0 goes too. It said blocked" in told
    assert node.find(STATE) == []


@on_a_node
def test_deb_leaves_the_directory_of_a_daemon_that_runs_all_the_same(node: Root) -> None:
    node.run(*DPKG, "-i", "/now.deb")
    node.write("/run/heartgate/lock", "", 0o600)
    node.run("flock", "/run/heartgate/lock", "sh", "-c", " ".join([*DPKG, "-r", "heartgate"]))
    assert node.find("/run/heartgate", "-name", "lock") == ["/run/heartgate/lock"]


def blocked_record() -> str:
    record = Record(Standing.BLOCKED, 7, ("nodea",), "boot-1", (), "nodea")
    return encode_record(record).decode("ascii")


@on_a_node
def test_deb_leaves_it_to_the_administrator_whether_the_daemon_is_enabled(node: Root) -> None:
    node.run(*DPKG, "-i", "/now.deb")
    node.run("rm", WANTED_BY)
    node.run(*DPKG, "-i", "/later.deb")
    assert node.find(WANTED_BY) == []


@on_a_node
def test_where_presets_enable_nothing_the_daemon_is_enabled(node: Root) -> None:
    """As RHEL and SLES have it. A daemon that only replica-guard starts is there long after Corosync, and who waits for its
    answer has the node fenced meanwhile."""
    node.write("/usr/lib/systemd/system-preset/99-default-disable.preset", "disable *\n")
    node.run(*DPKG, "-i", "/now.deb")
    assert node.find(WANTED_BY) == [WANTED_BY]


@on_a_node
def test_deb_scripts_can_be_run_again(node: Root) -> None:
    node.run(*DPKG, "-i", "/now.deb")
    before = node.find("/etc", "/usr", "/var/lib/heartgate", "-xdev", "-path", "*heartgat*")
    script = "/var/lib/dpkg/info/heartgate."
    for _ in range(2):
        node.run(script + "postinst", "configure", "0.0.1")
        node.run(script + "postinst", "abort-upgrade", "0.0.1")
    assert node.find("/etc", "/usr", "/var/lib/heartgate", "-xdev", "-path", "*heartgat*") == before
    assert set(units_asked_for(node.calls())) <= {"restart", "start", "preset", "enable"}
    for _ in range(2):
        node.run(script + "prerm", "upgrade", "99.0")
    assert units_asked_for(node.calls()) == []
    for arguments in (["prerm", "remove"], ["postrm", "remove"], ["postrm", "purge"]):
        for _ in range(2):
            node.run(script + arguments[0], arguments[1])


@on_a_node
def test_deb_is_installed_when_the_daemon_does_not_start(node: Root) -> None:
    node.write("/usr/bin/systemctl", "#!/bin/sh\ncase \"$*\" in *is-enabled*) echo enabled ;; *restart*) exit 1 ;; esac\n", 0o755)
    told = node.run(*DPKG, "-i", "/now.deb")
    assert "heartgated did not start; see systemctl status heartgated" in told.stderr


# --- RPM


def distribution(name: str) -> List[str]:
    """The macros by which a spec knows where it is."""
    macros = {"rhel9": ["rhel 9"], "rhel10": ["rhel 10"], "sles15": ["suse_version 1500"], "sles16": ["suse_version 1600"]}
    return [word for macro in macros[name] for word in ("--define", macro)]


PYTHON: Dict[str, List[str]] = {
    "rhel9": ["python3 >= 3.9", "python3-pyroute2 >= 0.5.14", "iproute"],
    "rhel10": ["python3 >= 3.9", "python3-pyroute2 >= 0.5.14", "iproute"],
    "sles15": ["python311", "python311-pyroute2", "iproute2"],
    "sles16": ["python3 >= 3.9", "python3-pyroute2 >= 0.5.14", "iproute2"],
}
EVERYWHERE = [
    "corosync >= 3", "pacemaker >= 2.1", "pacemaker-cli >= 2.1", "util-linux",
    "libcpg.so.4()(64bit)", "libcmap.so.4()(64bit)", "libquorum.so.5()(64bit)",
]  # fmt: skip


def filled_in(target: Path) -> Path:
    text = (PACKAGING / "rpm" / "heartgate.spec").read_text()
    target.write_text(text.replace("@VERSION@", manifest.version()).replace("@CHANGELOG@", ""))
    return target


@pytest.mark.skipif(bool(WITHOUT_RPM), reason=WITHOUT_RPM)
@pytest.mark.parametrize("name", sorted(PYTHON))
def test_rpm_asks_for_the_names_of_each_distribution(name: str, tmp_path: Path) -> None:
    """docs/packages.md has the source of each name."""
    spec = filled_in(tmp_path / "heartgate.spec")
    argv = ["rpmspec", "-q", "--requires", *distribution(name), str(spec)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    told = [requirement for requirement in told if requirement != "/bin/sh"]
    assert sorted(told) == sorted([*EVERYWHERE, *PYTHON[name]])
    page = (ROOT / "docs" / "packages.md").read_text()
    for requirement in told:
        assert f"`{requirement.split()[0]}`" in page, f"docs/packages.md does not say where {requirement} is from"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Path]:
    return run_package(tmp_path_factory.mktemp("packages") / "one")


def run_package(output: Path) -> Dict[str, Path]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": DATE}
    argv = ["/usr/bin/python3", str(PACKAGING / "build-packages"), "--output", str(output)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # lintian and rpmlint have nothing to say
    made = [Path(line) for line in done.stdout.splitlines()]
    return {"src" if path.name.endswith(".src.rpm") else path.suffix[1:]: path for path in made}


slow = pytest.mark.slow
with_tools = pytest.mark.skipif(bool(WITHOUT_ALL), reason=WITHOUT_ALL)


@slow
@with_tools
def test_packages_are_clean_and_the_same_bytes_again(packages: Dict[str, Path], tmp_path: Path) -> None:
    again = run_package(tmp_path / "two")
    for kind in ("deb", "rpm", "src"):
        assert again[kind].read_bytes() == packages[kind].read_bytes(), kind


@slow
@with_tools
def test_all_packages_have_the_files_of_the_list(packages: Dict[str, Path]) -> None:
    documents = {f"/usr/share/doc/heartgate/{name}" for name in ("copyright", "changelog.gz", "changelog.Debian.gz")}
    documents.add("/usr/share/lintian/overrides/heartgate")
    found = deb_files(packages["deb"])
    assert {path: facts for path, facts in found.items() if path not in documents} == expected(manifest.DEBIAN_LIBRARY)
    told = subprocess.run(["rpm", "-qp", "--queryformat", "[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME}/%{FILEGROUPNAME}\n]",
                           str(packages["rpm"])], capture_output=True, text=True, check=True).stdout  # fmt: skip
    listed: Listing = {}
    for line in told.splitlines():
        path, mode, owner = line.split()
        if int(mode, 8) & 0o170000 == 0o100000:
            listed[path] = (int(mode, 8) & 0o7777, owner)
    for path in ("/usr/share/doc/heartgate/CHANGELOG.md", "/usr/share/licenses/heartgate/LICENSE"):
        del listed[path]
    assert listed == expected(manifest.PRIVATE_LIBRARY)


@slow
@with_tools
def test_deb_of_debhelper_has_the_fields_and_scripts_of_the_labs(
    packages: Dict[str, Path], debs: Tuple[Path, Path], tmp_path: Path
) -> None:
    fields = {}
    for name, package in (("labs", debs[0]), ("debhelper", packages["deb"])):
        text = subprocess.run(["dpkg-deb", "-f", str(package)], capture_output=True, text=True, check=True).stdout
        found = dict(line.split(": ", 1) for line in re.split(r"\n(?=\S)", text.strip()))
        found["Provides"] = " ".join(sorted(found["Provides"].split(", ")))
        del found["Installed-Size"]
        subprocess.run(["dpkg-deb", "-e", str(package), str(tmp_path / name)], check=True)
        fields[name] = found
    assert fields["labs"] == fields["debhelper"]
    for script in ("postinst", "prerm", "postrm"):
        texts = [(tmp_path / name / script).read_text().replace("#DEBHELPER#", "").strip() for name in fields]
        assert texts[0] == texts[1], script


@slow
@with_tools
def test_rpm_in_an_empty_root(packages: Dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    rpm = ["rpm", "--root", str(empty)]
    subprocess.run([*rpm, "--initdb"], check=True)
    subprocess.run([*rpm, "-i", "--nodeps", "--noscripts", str(packages["rpm"])], check=True, capture_output=True)
    for path, (mode, _) in expected(manifest.PRIVATE_LIBRARY).items():
        status = Path(f"{empty}{path}").stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, 0, 0), path
    assert Path(f"{empty}{STATE}").stat().st_mode & 0o7777 == 0o700


@slow
@with_tools
def test_rpm_installed_upgraded_removed(packages: Dict[str, Path], tmp_path: Path) -> None:
    later = run_package_rpm_only(checkout(tmp_path / "later", "99.0"), tmp_path / "out")
    base = tmp_path / "node"
    base.mkdir()
    with Root(base, manifest.PRIVATE_LIBRARY) as node:
        node.copy(packages["rpm"], "/now.rpm")
        node.copy(later, "/later.rpm")
        node.run("rpm", "--initdb")
        node.run("rpm", "-i", "--nodeps", "/now.rpm")
        assert node.run("heartgate", "version").stdout == f"heartgate {manifest.version()}\n"
        assert node.find(f"{manifest.PRIVATE_LIBRARY}/heartgate", "-name", "*.pyc")
        assert units_asked_for(node.calls()) == ["preset"]
        node.write(f"{STATE}/r0.state", "a promise", 0o600)
        node.run("rpm", "-U", "--nodeps", "/later.rpm")
        calls = node.calls()
        assert units_asked_for(calls) == ["try-restart"]
        assert [call.split()[0] for call in calls if "try-restart" in call] == ["99.0"]
        assert node.run("rpm", "-V", "--nodeps", "heartgate", check=False).stdout == ""
        told = node.run("rpm", "-e", "heartgate")
        assert "r0 was guarded here" in told.stderr
        assert units_asked_for(node.calls()) == ["disable"]
        assert node.run("cat", f"{STATE}/r0.state").stdout == "a promise"
        assert node.find("/usr", "/etc", "-xdev", "-path", "*heartgat*") == []


@slow
@with_tools
@pytest.mark.skipif(not Path("/usr/bin/python3.11").exists(), reason="needs /usr/bin/python3.11, as SLES 15 has it")
def test_source_rpm_makes_the_package_of_sles_15(packages: Dict[str, Path], tmp_path: Path) -> None:
    """There /usr/bin/python3 is too old, and everything that is built and run names another one."""
    argv = ["rpmbuild", "--rebuild", "--nodeps", "--define", f"_topdir {tmp_path}", *distribution("sles15"), str(packages["src"])]
    subprocess.run(argv, check=True, capture_output=True, timeout=200)
    built = next(tmp_path.glob("RPMS/noarch/*.rpm"))
    told = subprocess.run(["rpm", "-qp", "--requires", str(built)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "/usr/bin/python3.11" in told and "/usr/bin/python3" not in told
    rpm2cpio = subprocess.run(["rpm2cpio", str(built)], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-id", "--quiet"], input=rpm2cpio, check=True, cwd=tmp_path)
    for path in (*(tmp_path / "usr/sbin").iterdir(), *(tmp_path / "usr/lib/heartgate").iterdir()):
        assert path.read_text().startswith("#!/usr/bin/python3.11 -I"), path
    for path in (tmp_path / "usr/lib/ocf/resource.d/heartgate").iterdir():
        assert "\nPYTHON=/usr/bin/python3.11\n" in path.read_text(), path


def run_package_rpm_only(tree: Path, output: Path) -> Path:
    changes = tree / "CHANGELOG.md"
    changes.write_text("# Changes\n\n## 99.0 (unreleased)\n\n- For the test.\n" + changes.read_text().partition("\n")[2])
    argv = ["/usr/bin/python3", str(tree / "packaging" / "build-packages"), "--only", "rpm", "--no-lint", "--output", str(output)]
    subprocess.run(argv, check=True, capture_output=True, timeout=300, env={**os.environ, "SOURCE_DATE_EPOCH": DATE})
    return next(output.glob("*.noarch.rpm"))

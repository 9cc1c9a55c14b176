"""README's "From two bare hosts to the first pulled cable", carried out word for word on two machines with DRBD.

Once with pcs, once with crmsh, by the steps that tests/page.py reads off the page: each line of a block is typed as it stands
there (`sh -c LINE`, as root, in root's home), each wait is waited for, the cable is pulled and put back.

`prepare` and `let_root_in` make what the page takes for granted. Three things are not as on two real hosts:
- There is no IPMI in the lab. /usr/sbin/fence_ipmilan is replaced by STAND_IN, which says the real one's metadata and has the
  lab's power controller do the rest. So what this proves of fence_ipmilan is its place in the configuration, and no more.
- The page's packages are in the machines' image, since the lab has no network: apt-get finds nothing to do.
- heartgated's watchdog waits longer than in its unit, since the machines are emulated (as in tests/vm/cluster.py). Corosync,
  DRBD, Pacemaker and replica-guard have the page's time limits.
"""

from __future__ import annotations

import os
import re
from typing import Dict, Iterator, List, Optional

import pytest

from tests import page
from tests.lab.api import LabError, wait_until
from tests.lab.vm import form
from tests.lab.vm.lab import VmLab
from tests.lab.vm.machine import NODES, Machine
from tests.lab.vm.paths import progress
from tests.vm.cluster import MOUNT, HaLab, Variant, package

pytestmark = pytest.mark.vm
OF_THE_OTHER_TOOL = {"pcs": ("crm-file", "crm"), "crmsh": ("pcs",)}
# Emulated, with an encrypted ring and its default token, one pcs command can take a minute.
LINE_S = 900.0
WAIT_S = 900.0
TIMED_OUT = 124
# Their exit codes are verdicts on what they looked at, virtual adapters among it: the page says so. Whether it looked is tested.
VERDICTS = ("heartgate check", "heartgate budget")

METADATA = "/usr/share/lab-fence_ipmilan.xml"
PASSWORD = "lab-only"
# An IPMI controller belongs to one machine: which one is told by its address, and it asks for a user and a password.
STAND_IN = f"""#!/bin/sh
# Stands in for fence_ipmilan (tests/vm/test_readme.py): the lab's power controller is behind fence_lab.
action=reboot ip= username= password= password_script=
if [ $# -gt 0 ]; then # a person, pcs or crmsh, for the metadata alone
    case "$*" in *metadata*) action=metadata ;; esac
else
    while IFS== read -r name value; do
        case "$name" in
            action) action=$value ;;
            ip) ip=$value ;;
            username) username=$value ;;
            password_script) password_script=$value ;;
        esac
    done
fi
case "$action" in
    metadata | meta-data) exec cat {METADATA} ;;
    validate-all) exit 0 ;;
esac
case "$ip" in
    192.0.2.11) machine=nodea ;;
    192.0.2.12) machine=nodeb ;;
    *) echo "no IPMI controller at '$ip'" >&2; exit 1 ;;
esac
[ -z "$password_script" ] || password=$("$password_script")
if [ "$username" != admin ] || [ "$password" != {PASSWORD} ]; then
    echo "$ip: login failed" >&2
    exit 1
fi
exec /usr/sbin/fence_lab --action="$action" --plug="$machine"
"""


# --- what there is before somebody opens the page


@pytest.fixture()
def hosts(request: pytest.FixtureRequest) -> Iterator[HaLab]:
    """Two bare hosts, as the section's first paragraph has them."""
    if os.environ.get("HEARTGATE_SUITE", "bookworm") != "bookworm":
        pytest.skip("the page is for Debian 12")
    package()  # once, before both machines want it at the same time
    with VmLab.start(formed=False) as lab:
        ha = HaLab(lab, Variant())
        request.node.ha_labs = [ha]
        form.on_each(lab.nodes, prepare)
        let_root_in(lab.nodes["nodea"], lab.nodes["nodeb"])
        yield ha


def prepare(node: Machine) -> None:
    node.wait_boot(timeout_s=300)
    # As Debian's installer writes it; the lab's own file already has the names that the page adds.
    node.put("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {node.name}\n")
    node.put_bytes("/root/heartgate.deb", package().read_bytes())
    node.put("/root/ipmi", f"#!/bin/sh\necho {PASSWORD}\n", 0o700)
    node.put("/etc/systemd/system/heartgated.service.d/emulated.conf", "[Service]\nWatchdogSec=20s\n")
    node.put(METADATA, node.run(["/usr/sbin/fence_ipmilan", "-o", "metadata"], timeout_s=300).stdout)
    node.put("/usr/sbin/fence_ipmilan", STAND_IN, 0o755)
    # Debian starts its example cluster when the packages are installed; here they were installed into the image, where nothing
    # runs. The page says how it is taken away.
    node.run(["systemctl", "start", "corosync", "pacemaker"], timeout_s=300)


def let_root_in(first: Machine, second: Machine) -> None:
    """root on `first` gets to `second` with a key, and has met its sshd before. The image has the sshd; nothing else starts it."""
    host_key = second.run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout
    first.put("/root/.ssh/known_hosts", f"{second.name} {host_key}", 0o600)
    first.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519"], timeout_s=120)
    second.put("/root/.ssh/authorized_keys", first.run(["cat", "/root/.ssh/id_ed25519.pub"]).stdout, 0o600)
    second.run(["systemctl", "start", "ssh"], timeout_s=120)


# --- what a person does


class Person:
    """Does what the page says. Beside that a writer writes on the service's file system, so that a lost write is seen."""

    def __init__(self, ha: HaLab) -> None:
        self.ha = ha
        self.writers: List[str] = []

    def do(self, step: page.Step) -> None:
        {"run": self.run, "file": self.file, "wait": self.wait, "cut": self.cut, "mend": self.mend}[step.what](step)

    def run(self, step: page.Step) -> None:
        def all_lines(node: Machine) -> None:
            for line in step.lines:
                enter(node, line)

        form.on_each(self.machines(step), all_lines)

    def file(self, step: page.Step) -> None:
        path = step.subject if "/" in step.subject else f"/root/{step.subject}"
        form.on_each(self.machines(step), lambda node: node.put(path, step.content))

    def wait(self, step: page.Step) -> None:
        def until_it_says_so(node: Machine) -> None:
            def said() -> bool:
                return step.text in node.run(["sh", "-c", step.subject], check=False, timeout_s=60).stdout

            wait_until(f"{node.name}: {step.subject}: {step.text}", said, timeout_s=WAIT_S, interval_s=1)
            progress(f"{node.name}: {step.text}")

        form.on_each(self.machines(step), until_it_says_so)

    def cut(self, step: page.Step) -> None:
        """Of a service that runs, in a cluster that has nothing to do: the page's reader has read for a while."""
        self.write_on(*NODES, writer="before")
        self.ha.lab.wait_idle(timeout_s=WAIT_S)
        self.ha.lab.cut(step.subject)

    def mend(self, step: page.Step) -> None:
        """Not before nodea serves: "nodea goes on; the service moves there if it ran on nodeb"."""
        self.write_on("nodea", writer="while-cut")
        self.ha.lab.mend(step.subject)

    def machines(self, step: page.Step) -> Dict[str, Machine]:
        return {name: self.ha.nodes[name] for name in step.nodes}

    def write_on(self, *names: str, writer: str) -> None:
        """Begin to write on the one of these nodes that serves."""

        def serving() -> Optional[str]:
            mounted = ["mountpoint", "-q", MOUNT]
            return next((name for name in names if self.ha.run(name, mounted, check=False).rc == 0), None)

        node = wait_until(f"{MOUNT} to be mounted on {' or '.join(names)}", serving, timeout_s=WAIT_S, interval_s=1)
        self.ha.writes.start(node, f"{MOUNT}/{writer}", writer=writer, interval_ms=200)
        self.ha.writes.wait_acks(5, writer=writer, node=node, timeout_s=120)
        self.writers.append(writer)


def enter(node: Machine, line: str) -> None:
    """Type one line. What it printed is in the test's output."""
    progress(f"{node.name}# {line}")
    done = node.run(["sh", "-c", line], check=False, timeout_s=LINE_S)
    print(f"{node.name}# {line}\n{done.stdout}{done.stderr}[{done.rc} after {done.elapsed_s:.1f} s]\n")
    if done.rc == TIMED_OUT:
        raise LabError(f"{node.name}: {line}: did not end within {LINE_S:g} s\n{done.stdout}{done.stderr}")
    if line.startswith(VERDICTS):
        assert done.stdout.strip() and "Traceback" not in done.stderr, f"{node.name}: {line}: no verdict: {done}"
    else:
        assert done.rc == 0, f"{node.name}: {line}: {done}"


@pytest.mark.req("A1", "A3", "A4")
@pytest.mark.parametrize("tool", ["pcs", "crmsh"])
def test_from_two_bare_hosts_to_the_first_pulled_cable(hosts: HaLab, tool: str) -> None:
    person = Person(hosts)
    for step in page.steps():
        if step.ident not in OF_THE_OTHER_TOOL[tool]:
            person.do(step)
    assert hosts.lab.fencings == []
    hosts.lab.wait_in_sync(timeout_s=120)
    assert person.writers == ["before", "while-cut"]
    for writer in person.writers:
        hosts.judge(writer=writer)
    # The fencing of the page is in force: Pacemaker has logged in to both controllers.
    shown = hosts.run("nodea", ["crm_mon", "-1"], timeout_s=60).stdout
    for name, kind in (("power-a", "fence_ipmilan"), ("power-b", "fence_ipmilan"), ("gate", "fence_heartgate")):
        assert re.search(rf"\b{name}\s+\(stonith:{kind}\):\s+Started", shown), shown

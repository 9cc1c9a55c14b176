"""The kernel's news about interfaces as the daemon reads it, and `heartgate link-report`: real interfaces in namespaces of their
own, no cluster."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from heartgate.checks import link_report
from tests.lab.api import wait_until
from tests.lab.interface_cases import LIBRARY, PYTHON, Missing, Space, cable, spaces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
WATCH = """
import json, select, sys
from heartgate.adapters.netlink import CarrierWatch
watch = CarrierWatch()
while True:
    for name, carrier in watch.read():
        print(json.dumps([name, carrier]), flush=True)
    select.select([watch.fileno()], [], [])
"""


@pytest.fixture()
def pair() -> Iterator[Tuple[Space, Space]]:
    try:
        with spaces("nodea", "nodeb") as (one, two):
            cable(one, "hb0", two)
            one.ip("addr add 10.77.1.1/24 dev hb0")
            two.ip("addr add 10.77.1.2/24 dev hb0")
            yield one, two
    except Missing as error:
        pytest.skip(str(error))


class Watch:
    """The watch in a process in the namespace."""

    def __init__(self, space: Space) -> None:
        argv = ["setpriv", "--pdeathsig", "KILL", *space.enter([PYTHON, "-c", WATCH])]
        environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.lines: List[Any] = []

    def told(self, *wanted: Any) -> None:
        def reached() -> bool:
            assert self.process.stdout is not None
            self.lines += [json.loads(line) for line in self.process.stdout.readlines()]
            return all(list(each) in self.lines for each in wanted)

        wait_until(f"{wanted} among {self.lines}", reached, timeout_s=60, interval_s=0.02)
        self.lines.clear()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


def test_what_is_told(pair: Tuple[Space, Space]) -> None:
    """Carrier, and what the rules have to look at again for."""
    one, two = pair
    watch = Watch(one)
    try:
        watch.told(("hb0", True), ("lo", True))
        two.ip("link set hb0 down")
        watch.told(("hb0", False))
        two.ip("link set hb0 up")
        watch.told(("hb0", True))
        one.ip("link set hb0 mtu 1400")
        watch.told(("hb0", True))
        one.ip("link add br0 type bridge", "link set hb0 master br0")
        watch.told(("hb0", True))
        one.ip("link set hb0 nomaster")
        watch.told(("hb0", True))
        one.ip("link add mv0 link hb0 type macvlan")
        watch.told(("mv0", False))
        one.ip("link del mv0", "link del hb0")
        watch.told(("mv0", None), ("hb0", None))
    finally:
        watch.close()


def report(space: Space, *words: str) -> Tuple[link_report.Report, Dict[str, str]]:
    done = space.heartgate("link-report", "--interface=hb0", *words)
    assert done.returncode == 0, done
    found = link_report.decode(done.stdout)
    # Whether this host has a corosync.conf, and what is in it, is not what is tried here.
    found = found._replace(findings=tuple(each for each in found.findings if each.rule != "corosync-link"))
    return found, {each.rule: each.severity.value for each in found.findings if each.waived is None}


@pytest.mark.req("B3", "B4")
def test_report(pair: Tuple[Space, Space]) -> None:
    one, two = pair
    found, rules = report(one)
    assert (found.interface, found.carrier, found.errors) == ("hb0", True, ()) and rules["real-adapter"] == "warning"
    one.ip("link add br0 type bridge", "link set hb0 master br0")
    assert report(one)[1]["virtual-switch"] == "error"
    waived, rules = report(one, "--waivers=virtual-switch@hb0=ours alone")
    assert not waived.errors and "virtual-switch" not in rules and "ours alone" in {each.waived for each in waived.findings}
    assert report(one, "--addressing=dhcp")[1]["addressing"] == "error"
    two.ip("link set hb0 down")
    lost, rules = report(one, "--addressing=dhcp")
    assert lost.carrier is False and "carrier" not in rules and "addressing" not in rules  # it may get one with the carrier
    one.ip("link del hb0")
    gone, rules = report(one)
    assert gone.interface is None and rules["interface"] == "error"


def test_bad_questions_have_one_message(pair: Tuple[Space, Space]) -> None:
    done = pair[0].heartgate("link-report", "--interface=hb0", "--waivers=nonsense=x")
    assert done.returncode == 3 and done.stdout == "" and done.stderr.count("\n") == 1 and "no rule" in done.stderr

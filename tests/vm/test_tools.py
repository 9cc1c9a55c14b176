"""Set up as people do it: with real `pcs resource create` and `crm configure`; and what is refused, with the lines to add."""

from __future__ import annotations

from typing import Callable, Iterator

import pytest

from tests.lab.api import wait_until
from tests.lab.vm import form
from tests.vm.cluster import PRIORITIES, HaLab, restore_installed

pytestmark = pytest.mark.vm
AGENT = "/usr/lib/ocf/resource.d/heartgate/replica-guard"


@pytest.fixture()
def bare(request: pytest.FixtureRequest) -> Iterator[HaLab]:
    """heartgate is installed, no resource is made."""
    with restore_installed() as ha:
        request.node.ha_labs = [ha]
        yield ha


def sees_a_split_through(ha: HaLab) -> None:
    """Both synced; the link is cut; the higher priority goes on; it heals."""
    for node in ha.nodes:
        ha.wait_standing(node, "synced", timeout_s=180)
    ha.lab.quick_drbd()
    ha.lab.cut("sync0")
    ha.wait_standing("nodea", "solo", timeout_s=60)
    ha.wait_standing("nodeb", "blocked", timeout_s=60)
    ha.lab.mend("sync0")
    ha.wait_healed()


@pytest.mark.req("A1", "A3")
def test_pcs_resource_create(bare: HaLab) -> None:
    node = bare.nodes["nodea"]
    create = ["pcs", "resource", "create", "guard", "ocf:heartgate:replica-guard", "device=r0", f"priorities={PRIORITIES}",
              "clone"]  # fmt: skip
    node.run(create, timeout_s=300)
    sees_a_split_through(bare)


@pytest.mark.req("A1", "A3")
def test_crm_configure(bare: HaLab) -> None:
    node = bare.nodes["nodea"]
    lines = [
        f'primitive guard ocf:heartgate:replica-guard params device=r0 priorities="{PRIORITIES}"',
        "clone guard-clone guard",
    ]
    node.put("/root/guard.crm", "\n".join(lines) + "\n")
    node.run(["crm", "configure", "load", "update", "/root/guard.crm"], timeout_s=300, check=False)
    wait_until(
        "crm to have made it",
        lambda: "guard-clone" in node.run(["cibadmin", "-Q", "-o", "resources"]).stdout,
        timeout_s=10,
    )
    sees_a_split_through(bare)


def _without_fencing(text: str) -> str:
    return text.replace("disk { fencing resource-and-stonith; }", "")


def _without_handlers(text: str) -> str:
    return text.replace("/usr/lib/heartgate/drbd-fence-peer", "/usr/lib/drbd/crm-fence-peer.9.sh")


def _protocol_a(text: str) -> str:
    return text.replace("protocol C", "protocol A")


@pytest.mark.parametrize(
    "change, says",
    [
        (_without_fencing, "fencing resource-and-stonith"),
        (_without_handlers, 'fence-peer "/usr/lib/heartgate/drbd-fence-peer"'),
        (_protocol_a, "protocol C"),
    ],
)
def test_a_drbd_set_up_that_cannot_be_guarded_is_refused(bare: HaLab, change: Callable[[str], str], says: str) -> None:
    node = bare.nodes["nodea"]
    node.put("/etc/drbd.d/r0.res", change(form.drbd_resource(handlers=True, net=form.SAVED_NET)))
    parameters = ["OCF_ROOT=/usr/lib/ocf", "OCF_RESKEY_device=r0", f"OCF_RESKEY_priorities={PRIORITIES}"]
    result = node.run(["env", *parameters, AGENT, "start"], check=False, timeout_s=120)
    assert result.rc == 2, result
    assert says in result.stderr and "Traceback" not in result.stderr
    assert node.run(["env", *parameters, AGENT, "stop"], check=False, timeout_s=60).rc == 0

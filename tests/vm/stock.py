"""The same cluster without heartgate: DRBD's own handlers, Pacemaker's fencing. What heartgate is measured against."""

from __future__ import annotations

from tests.lab.vm import form
from tests.vm.cluster import HaLab

HANDLER = "/usr/lib/drbd/crm-fence-peer.9.sh"


def stock_resource() -> str:
    """The resource file with DRBD's own handlers."""
    content = form.drbd_resource(handlers=True, net=form.QUICK_NET)
    content = content.replace("/usr/lib/heartgate/drbd-fence-peer", HANDLER)
    return content.replace("/usr/lib/heartgate/drbd-unfence-peer", "/usr/lib/drbd/crm-unfence-peer.9.sh")


def use_stock_stack(ha: HaLab) -> None:
    """Its guard is stopped, its rule and its fencing level are gone, its daemon does not run."""
    first = ha.nodes["nodea"]
    first.run(["crm_resource", "--resource", "guard-clone", "--meta", "--set-parameter", "target-role",
               "--parameter-value", "Stopped"], timeout_s=60)  # fmt: skip
    first.run(["cibadmin", "--delete", "--xml-text", '<rsc_location id="heartgate-r0"/>'], timeout_s=60)
    first.run(["cibadmin", "--delete", "--force", "--xpath", "//fencing-topology"], check=False, timeout_s=60)
    for node in ha.nodes.values():
        form.use_resource_file(node, stock_resource())
        node.run(["systemctl", "disable", "--now", "heartgated"], timeout_s=60)

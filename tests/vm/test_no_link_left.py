"""Every order in which links, nodes and programs can be lost (tests/lab/orders.py), on DRBD. `./run orders` plays the same list as
often as one likes, takes it up where it was left, and writes docs/no-link-left.md."""

from __future__ import annotations

import pytest

from tests.lab.orders import NODES, ORDERS
from tests.vm.no_link import play_once

pytestmark = pytest.mark.vm


@pytest.mark.req("A7", "A8", "D6", "E1", "E7", "D8")
@pytest.mark.parametrize("active", NODES)
@pytest.mark.parametrize("order", sorted(ORDERS))
def test_one_serves_and_nothing_is_lost(order: str, active: str) -> None:
    data = play_once(ORDERS[order], active, "heartgate")
    assert not data["wrong"], data

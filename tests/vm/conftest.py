"""Fixtures of the VM tests: one lab a test, always ended; the nodes' journals are shown when a test fails."""

from __future__ import annotations

from typing import Any, Callable, Iterator, List

import pytest

from tests.lab.api import LabError
from tests.vm.cluster import HaLab, Variant, restore

# Emulated machines need a minute or more for each of these, so they run with --all. Tests named here are in the ordinary run:
# the main job on DRBD, in the one variant of the cluster that a new machine has to make for them (about ten minutes there).
ORDINARY = frozenset(
    {"test_active_on_the_higher_priority_goes_on_and_heals", "test_sync_lost_with_one_heartbeat_link_down"}
)


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "vm" and getattr(item, "originalname", item.name) not in ORDINARY:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for lab in getattr(item, "ha_labs", []):
            report.sections.append(("fencings", repr(lab.lab.fencings)))
            for name in lab.nodes:
                try:
                    report.sections.append((f"{name}: DRBD", lab.drbd(name)))
                    report.sections.append((f"{name}: journal", lab.journal(name)))
                    report.sections.append((f"{name}: journal of the boot before", lab.journal(name, boot=-1)))
                except LabError as error:
                    report.sections.append((f"{name}: journal", f"not to be had: {error}"))


@pytest.fixture()
def cluster(request: pytest.FixtureRequest) -> Iterator[Callable[..., HaLab]]:
    """`cluster(policy=..., active=...)`: a running cluster of that variant, with DRBD's quick time limits."""
    labs: List[HaLab] = []
    request.node.ha_labs = labs

    def make(**options: Any) -> HaLab:
        lab = restore(Variant(**options))
        labs.append(lab)
        lab.lab.quick_drbd(two_primaries=lab.variant.dual)
        return lab

    try:
        yield make
    finally:
        for lab in labs:
            lab.lab.down()

"""Fixtures of the namespace tests: one lab for a module, put back to a bare formed cluster before each test."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from tests.lab.api import LabError
from tests.lab.ns.lab import NsLab
from tests.ns.cluster import NsCluster


@pytest.fixture(scope="module")
def lab() -> Iterator[NsLab]:
    with NsLab.start() as made:
        yield made


@pytest.fixture()
def cluster(lab: NsLab, request: pytest.FixtureRequest) -> Iterator[NsCluster]:
    lab.reset()
    made = NsCluster(lab)
    request.node.ns_cluster = made
    yield made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    report = outcome.get_result()
    made = getattr(item, "ns_cluster", None)
    if report.when == "call" and report.failed and made is not None:
        for name, node in made.nodes.items():
            for argv in (["heartgate", "status"], ["tail", "-n", "60", "/run/heartgate/heartgated.log"], ["crm_mon", "-1rf"]):
                try:
                    report.sections.append((f"{name}: {' '.join(argv)}", node.run(argv, check=False).stdout))
                except LabError as error:
                    report.sections.append((f"{name}: {argv[0]}", f"not to be had: {error}"))

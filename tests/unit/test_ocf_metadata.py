"""Metadata of every agent against OCF 1.1: pcs's schema of it, and what OCF's own has beyond that.

OCF's own (ClusterLabs/OCF-spec, ra/1.1/ra-api.rng) is in no package. pcs's is made to be lenient: any type of content, for one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import List, Set
from xml.etree import ElementTree

import pytest

from heartgate.ocf.metadata import generated

RNG = Path("/usr/share/pcs/data/ocf-1.1.rng")
ORDER = ["version", "longdesc", "shortdesc", "parameters", "actions"]
TYPES = {"boolean", "string", "integer", "select"}
PARAMETER: Set[str] = {"name", "unique-group", "unique", "required", "reloadable"}
ACTION: Set[str] = {"name", "timeout", "interval", "start-delay", "depth", "role"}
MANDATORY = {"start", "stop", "monitor", "meta-data"}

of_each = pytest.mark.parametrize("name", sorted(generated()))


@of_each
def test_in_order_and_with_known_attributes(name: str) -> None:
    root = ElementTree.fromstring(generated()[name])
    assert [child.tag for child in root] == ORDER and root.findtext("version") == "1.1"
    for parameter in root.iter("parameter"):
        assert set(parameter.attrib) <= PARAMETER and [child.tag for child in parameter] == ["longdesc", "shortdesc", "content"]
        assert all(parameter.get(flag, "0") in ("0", "1") for flag in ("unique", "required", "reloadable"))
    for action in root.iter("action"):
        assert {"name", "timeout"} <= set(action.attrib) <= ACTION
    assert {action.get("name") for action in root.iter("action")} >= MANDATORY


@of_each
def test_content_is_of_a_type_that_ocf_knows(name: str) -> None:
    for content in ElementTree.fromstring(generated()[name]).iter("content"):
        assert set(content.attrib) <= {"type", "default"} and content.get("type") in TYPES, content.attrib
        options: List[str] = [option.get("value", "") for option in content.iter("option")]
        assert bool(options) == (content.get("type") == "select") and all(options)
        if options and content.get("default"):
            assert content.get("default") in options


@of_each
def test_texts_are_there_to_act_on(name: str) -> None:
    """Each parameter has a text of its own, longer than its short one; a required one has no default."""
    root = ElementTree.fromstring(generated()[name])
    for parameter in root.iter("parameter"):
        short, long = parameter.findtext("shortdesc", ""), parameter.findtext("longdesc", "").strip()
        assert 0 < len(short) <= 60 and len(long) > len(short), parameter.get("name")
        content = parameter.find("content")
        assert content is not None and not (parameter.get("required") == "1" and content.get("default"))


@pytest.mark.skipif(not RNG.exists(), reason="needs pcs")
@of_each
def test_valid_by_pcss_schema(name: str) -> None:
    argv = ["xmllint", "--nonet", "--noout", "--relaxng", str(RNG), "-"]
    done = subprocess.run(argv, input=generated()[name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The CIB, SBD's settings and LIO's saved configuration as data: what is understood, what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartgate.checks import cib_conf, storage_conf
from heartgate.checks.source import ParseError

CIB = """<cib><configuration>
<crm_config>
 <cluster_property_set id="later" score="5"><nvpair name="stonith-timeout" value="90s"/>
  <nvpair name="a" value="2"/></cluster_property_set>
 <cluster_property_set id="cib-bootstrap-options"><nvpair name="stonith-enabled" value="true"/>
  <nvpair name="stonith-timeout" value="120s"/></cluster_property_set>
 <cluster_property_set id="night" score="9"><rule id="r"/><nvpair name="no-quorum-policy" value="ignore"/></cluster_property_set>
</crm_config>
<nodes><node id="1" uname="nodea"/><node id="2" uname="nodeb"/></nodes>
<resources>
 <template id="power" class="stonith" type="fence_ipmilan"><instance_attributes id="t"><nvpair name="lanplus" value="1"/>
  <nvpair name="pcmk_delay_max" value="9"/></instance_attributes></template>
 <primitive id="ipmi-a" template="power"><instance_attributes id="i"><nvpair name="pcmk_delay_max"
  value="5s"/></instance_attributes>
 </primitive>
 <clone id="c"><primitive id="guard" class="ocf" provider="heartgate" type="replica-guard"><operations>
  <op name="monitor" interval="10s" timeout="30s"/><op name="monitor" interval="11s" timeout="20s"/><op name="stop" interval="0"
  timeout="soon"/></operations></primitive></clone>
</resources>
<fencing-topology><fencing-level id="2" target="nodea" index="2" devices="ipmi-a"/>
 <fencing-level id="1" target="nodea" index="1" devices="gate,ipmi-a"/></fencing-topology>
<op_defaults><meta_attributes id="o"><nvpair name="timeout" value="1min"/></meta_attributes></op_defaults>
</configuration></cib>"""


def test_the_cib() -> None:
    cib = cib_conf.parse(CIB)
    assert cib.properties["stonith-timeout"] == "120s" and cib.properties["a"] == "2"
    assert cib.conditional == ("no-quorum-policy",) and "no-quorum-policy" not in cib.properties
    (device,) = cib.fencing
    assert (device.kind, device.params) == ("stonith:fence_ipmilan", {"pcmk_delay_max": "5s", "lanplus": "1"})
    assert [(level.index, level.devices) for level in cib.levels] == [(1, ("gate", "ipmi-a")), (2, ("ipmi-a",))]
    (guard,) = cib.of_kind("ocf:heartgate:replica-guard")
    assert cib.operation_ms(guard, "monitor") == (20000, "CIB, guard, operation monitor")
    assert cib.operation_ms(guard, "stop")[0] is None
    assert cib.operation_ms(guard, "start") == (60000, "CIB, op_defaults")
    assert cib.nodes == ("nodea", "nodeb")


def test_what_pcs_writes() -> None:
    """Made by pcs 0.11: stonith create, stonith level add, resource create."""
    cib = cib_conf.parse((Path(__file__).parent / "data" / "pcs-cib.xml").read_text())
    (power,) = cib.fencing
    assert power.kind == "stonith:fence_ipmilan" and power.params["pcmk_delay_base"] == "5s" and power.params["ip"] == "1.2.3.4"
    assert power.params["password"] == "(set)"
    assert [(level.target, level.index, level.devices) for level in cib.levels] == [
        ("PATTERN~node.+", 2, ("power",)),
        ("nodea", 1, ("power",)),
    ]
    (dummy,) = cib.of_kind("ocf:heartbeat:Dummy")
    assert [cib.operation_ms(dummy, name)[0] for name in ("start", "stop", "monitor", "promote")] == [60000, 20000, 33000, 20000]
    assert cib.properties == {"stonith-timeout": "90s"}


@pytest.mark.parametrize(
    "text, ms",
    [
        ("20", 20000),
        ("20s", 20000),
        ("500ms", 500),
        ("2min", 120000),
        ("1h", 3600000),
        ("PT1M30S", 90000),
        ("soon", None),
        ("", None),
        ("-1", None),
        ("PT", None),
        ("1.5s", None),
    ],
)
def test_times(text: str, ms: int) -> None:
    assert cib_conf.parse_time(text) == ms


def test_sbd() -> None:
    sbd = storage_conf.parse_sbd(
        '# c\nSBD_DEVICE="/dev/a; /dev/b"\nexport SBD_WATCHDOG_TIMEOUT=7\nSBD_DELAY_START=40 # long\n', "/s"
    )
    assert sbd.devices == ("/dev/a", "/dev/b") and sbd.watchdog == (7000, "/s:3") and sbd.delay_start == (40000, "/s:4")
    header = storage_conf.parse_sbd_header(
        "==Dumping header on disk /dev/a\nHeader version     : 2.1\nTimeout (watchdog) : 15\nTimeout (allocate) : 2\n"
        "Timeout (loop)     : 1\nTimeout (msgwait)  : 30\n==Header on disk /dev/a is dumped\n",
        "/dev/a",
    )
    assert sbd.with_headers((header,)).watchdog == (15000, "header of /dev/a") and header.msgwait_s == 30
    assert storage_conf.parse_sbd("").watchdog == (5000, "default")
    assert storage_conf.parse_sbd("SBD_WATCHDOG_TIMEOUT=x").watchdog[0] is None
    assert storage_conf.parse_sbd("SBD_DELAY_START=1").delay_start[0] is None


@pytest.mark.parametrize(
    "parse, text, line, said",
    [
        (storage_conf.parse_sbd, "A=1\nwhat\n", 2, 'expected NAME=VALUE, found "what"'),
        (storage_conf.parse_sbd, 'A="x\n', 1, 'expected a closing "'),
        (lambda text: storage_conf.parse_sbd_header(text, "/dev/a"), "Timeout (watchdog) : 5", 1, "Timeout (msgwait)"),
        (storage_conf.parse_lio, '{\n"storage_objects": [\n}', 3, "expected JSON"),
        (storage_conf.parse_lio, "[]", 1, '"storage_objects"'),
        (cib_conf.parse, "<cib>\n<configuration>\n</cib>", 3, "expected the XML of a CIB"),
        (cib_conf.parse, "<html/>", 1, "expected <cib>"),
        (cib_conf.parse, "<cib/>", 1, "expected <configuration>"),
    ],
)
def test_an_error_names_line_and_expectation(parse, text: str, line: int, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert caught.value.line == line and said in str(caught.value)


def test_lio() -> None:
    lio = storage_conf.parse_lio(
        '{"storage_objects": [{"plugin": "fileio", "name": "d", "dev": "/srv/d", "write_back": true,'
        '"attributes": {"emulate_write_cache": 0}}, {"plugin": "block", "name": "e"}]}'
    )
    assert lio.backstores == (
        storage_conf.Backstore("fileio", "d", "/srv/d", True, False),
        storage_conf.Backstore("block", "e", "", False, None),
    )


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["storage_objects", "attributes", "plugin", "write_back", "emulate_write_cache", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=120),
        json_like.map(lambda value: __import__("json").dumps(value)),
        st.lists(st.sampled_from(CIB.split("\n")), max_size=9).map("\n".join),
        st.lists(st.sampled_from(["A=1", "B='x'", 'C="', "#", "\n", " ", "export", "Timeout (watchdog) : 9", "="])).map("".join),
    )
)
def test_nothing_but_a_parse_error(text: str) -> None:
    for parse in (
        cib_conf.parse,
        storage_conf.parse_sbd,
        storage_conf.parse_lio,
        lambda given: storage_conf.parse_sbd_header(given, "/dev/a"),
    ):
        try:
            parse(text)
        except ParseError as error:
            assert 1 <= error.line <= text.count("\n") + 1
    cib_conf.parse_time(text)

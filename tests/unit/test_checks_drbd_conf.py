"""DRBD's configuration as text: what `drbdadm dump` of drbd-utils 9.22 printed, `drbdsetup show`, and anything else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartgate.adapters import drbd_config
from heartgate.checks import drbd_conf
from heartgate.checks.source import ParseError

DUMP = (Path(__file__).parent / "data" / "drbd-dump.txt").read_text()
# As DRBD 8.4.11 and drbd-utils 9.22 show it; addresses changed, protocol added (a default, which `show` leaves out).
SHOW84 = """\
resource r0 {
    options {
    }
    net {
        protocol        \tC; # default
        ping-int        \t1; # seconds
        ping-timeout    \t50; # 1/10 seconds
    }
    _remote_host {
        address\t\t\tipv4 10.0.0.2:7788;
    }
    _this_host {
        address\t\t\tipv4 10.0.0.1:7788;
        volume 0 {
            device\t\t\tminor 0;
            disk\t\t\t"/dev/vdb";
            meta-disk\t\t\tinternal;
            disk {
                fencing         \tresource-and-stonith;
            }
        }
    }
}
"""
SHOW9 = """\
resource "r0" {
    options {
        quorum majority;
    }
    _this_host {
        node-id 0;
        volume 0 {
            device minor 0;
            disk "/dev/vdb";
        }
    }
    connection {
        _peer_node_id 1;
        path {
            _this_host ipv4 10.0.0.1:7788;
            _remote_host ipv4 10.0.0.2:7788;
        }
        _name "nodeb";
        net {
            fencing resource-and-stonith;
            ping-timeout 7;
        }
    }
}
"""


def test_the_dump() -> None:
    r0, r1 = drbd_conf.parse_dump(DUMP)
    assert (r0.name, r0.where, r0.nodes) == ("r0", "/etc/drbd.d/r0.res:2", ("nodea", "nodeb"))
    fencing = r0.values("fencing", "dont-care")
    assert [(each.value, each.where) for each in fencing] == [
        ("resource-and-stonith", "/etc/drbd.d/r0.res:2, resource r0, section net")
    ]
    assert r0.handlers["fence-peer"].value == "/usr/lib/drbd/crm-fence-peer.9.sh --timeout 10"
    assert "s ec;r{et" in DUMP and "s ec" not in repr(r0) and r0.net["protocol"] == drbd_conf.Setting("C", "common, section net")
    assert r0.time_ms("ping-int")[0][0] == 1000 and r0.time_ms("ping-timeout")[0][0] == 200
    assert r0.time_ms("timeout") == ((6000, "default"),)
    assert r0.connections[0].paths[0].ends == (("nodea", "10.0.0.1:7000"), ("nodeb", "10.0.0.2:7000"))
    assert [each.value for each in r1.values("protocol", "C")] == ["A"]
    assert r1.time_ms("ping-int") == ((3000, "/etc/drbd.d/r1.res:1, resource r1, connection nodea nodeb, section net"),)
    assert [path.ends[0][1] for path in r1.connections[0].paths] == ["10.0.0.1:7002", "[fd00::1]:7002"]


def test_what_the_kernel_shows() -> None:
    (old,), (new,) = drbd_conf.parse_show(SHOW84), drbd_conf.parse_show(SHOW9)
    assert old.values("fencing", "dont-care")[0].value == "resource-and-stonith" and old.time_ms("ping-int")[0][0] == 1000
    assert dict(old.connections[0].paths[0].ends) == {"peer": "10.0.0.2:7788", "local": "10.0.0.1:7788"}
    assert new.values("fencing", "dont-care")[0].value == "resource-and-stonith" and new.time_ms("ping-timeout")[0][0] == 700
    assert new.connections[0].nodes == ("nodeb",) and new.options["quorum"].value == "majority"


@pytest.mark.skipif(not shutil.which("drbdadm", path="/usr/sbin:/sbin"), reason="drbd-utils are not installed")
def test_text_and_xml_agree(tmp_path: Path) -> None:
    """The daemon reads dump-xml, the check the text: both must say the same of one configuration."""
    (tmp_path / "drbd.conf").write_text(
        "global { usage-count no; }\ncommon { net { protocol C; ping-int 4; } }\n"
        'resource r0 { device minor 0; disk /dev/vdb; meta-disk internal; handlers { fence-peer "/x y"; }\n'
        "  net { after-sb-0pri discard-least-changes; allow-two-primaries; }\n"
        "  on nodea { address 10.0.0.1:7000; } on nodeb { address 10.0.0.2:7000; } }\n"
    )

    def drbdadm(command: str) -> str:
        return subprocess.run(
            ["drbdadm", "-c", str(tmp_path / "drbd.conf"), command], capture_output=True, text=True, timeout=20, check=True
        ).stdout

    xml, (text,) = drbd_config.parse_dump(drbdadm("dump-xml"))["r0"], drbd_conf.parse_dump(drbdadm("dump"))
    assert {name: setting.value for name, setting in text.net.items()} == dict(xml.net)
    assert {name: setting.value for name, setting in text.handlers.items()} == dict(xml.handlers)
    assert set(text.nodes) == set(xml.hosts) and text.where == f"{tmp_path}/drbd.conf:3"


@pytest.mark.parametrize(
    "text, line, said",
    [
        ("resource r0 {\n net { ping-int 1 }\n}", 2, 'expected ";" after "ping-int 1"'),
        ("resource r0 {\n", 1, 'expected "}" that closes "resource r0" of line 1'),
        ("}\n", 1, "no section is open"),
        ("common\n", 1, 'expected ";" or "{" after "common"'),
        ('common { net { shared-secret "ab\n"; } }', 1, "expected a word, a quoted string"),
        ("\n{ }", 2, "expected the name of a section"),
        ("resource a b { }", 1, "expected resource NAME"),
    ],
)
def test_an_error_names_line_and_expectation(text: str, line: int, said: str) -> None:
    with pytest.raises(ParseError) as caught:
        drbd_conf.parse_dump(text, "dump")
    assert caught.value.line == line and said in str(caught.value)


def test_an_unreadable_number_is_not_a_time() -> None:
    (resource,) = drbd_conf.parse_dump("resource r { net { ping-int soon; } on a { address 1:1; } }")
    assert resource.time_ms("ping-int")[0][0] is None


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                [
                    "resource",
                    "r0",
                    "{",
                    "}",
                    ";",
                    "net",
                    "on",
                    "nodea",
                    "address",
                    "ipv4",
                    "1:2",
                    "connection",
                    "path",
                    "host",
                    '"a b"',
                    "\n",
                    "# defined at /x:3",
                    "common",
                    "disk",
                    "volume",
                    "0",
                    "_this_host",
                    "_remote_host",
                    "connection-mesh",
                    "floating",
                    "handlers",
                ]
            ),
            max_size=40,
        ).map(" ".join),
    )
)
def test_nothing_but_a_parse_error(text: str) -> None:
    for parse in (drbd_conf.parse_dump, drbd_conf.parse_show):
        try:
            for resource in parse(text):
                assert resource.values("fencing", "dont-care") and resource.time_ms("ping-int")
        except ParseError as error:
            assert 1 <= error.line <= text.count("\n") + 1

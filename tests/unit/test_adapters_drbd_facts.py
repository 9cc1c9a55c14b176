"""DRBD's facts as they are read: lines of `events2`, generations, configuration."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.adapters import drbd_config, drbd_events
from heartgate.adapters.base import AdapterError
from heartgate.core.model import Disk, Link, PeerLink, Role
from tests.unit.drbd_samples import DATA, DUMP9, DUMP84, GI


def story():
    """(line, facts after it) for the captured run: cut, mend, demoted, down, up."""
    table, incarnations = drbd_events.Table(), drbd_events.Incarnations()
    for line in (DATA / "drbd84-events2.txt").read_bytes().splitlines():
        table.apply(drbd_events.parse_line(line))
        yield (
            line.decode(),
            table,
            drbd_events.snapshot(table.resources.get("r0"), "r0", ("nodeb",), {}, incarnations),
        )


def test_captured_run():
    facts = {}
    for line, _, replica in story():
        facts.setdefault(line, replica)
    peer = lambda replica: replica.peer("nodeb")  # noqa: E731
    dumped = facts["exists -"]
    assert (dumped.disk, dumped.role, dumped.frozen) == (Disk.UPTODATE, Role.PRIMARY, False)
    assert peer(dumped) == PeerLink(Link.UP, 1, Disk.UPTODATE)
    assert facts["change resource name:r0 suspended:fencing"].frozen is True
    failure = "change connection name:r0 peer-node-id:0 conn-name:peer connection:NetworkFailure role:Unknown"
    assert peer(facts[failure]).link is Link.DOWN
    back = (
        "change peer-device name:r0 peer-node-id:0 conn-name:peer volume:0 replication:Established peer-disk:UpToDate"
    )
    assert peer(facts[back]) == PeerLink(Link.UP, 2, Disk.UPTODATE)
    assert facts["change resource name:r0 suspended:no"].frozen is False
    gone = facts["destroy resource name:r0"]
    assert (gone.disk, gone.role, gone.frozen) == (Disk.ABSENT, Role.SECONDARY, False)
    assert peer(gone) == PeerLink(Link.DOWN, 2, Disk.UNKNOWN)
    assert facts["change device name:r0 volume:0 minor:0 disk:Consistent"].disk is Disk.CONSISTENT
    *_, (_, table, last) = story()
    assert peer(last) == PeerLink(Link.UP, 3, Disk.UPTODATE)
    assert table.complete and table.doubtful and table.missing == 0  # overtaken, not lost


def test_connected_is_up_only_with_replication():
    assert drbd_events.link_of("Connected", ["Established"]) is Link.UP
    assert drbd_events.link_of("Connected", ["Off"]) is Link.UNKNOWN
    assert drbd_events.link_of("Connected", ["Established", None]) is Link.UNKNOWN
    assert drbd_events.link_of("Connected", ["Ahead"]) is Link.UNKNOWN
    assert drbd_events.link_of("Connected", []) is Link.UNKNOWN
    assert drbd_events.link_of("Wobbling", ["Established"]) is Link.UNKNOWN
    for word in drbd_events.DOWN_WORDS:
        assert drbd_events.link_of(word, ["Off"]) is Link.DOWN


@pytest.mark.parametrize(
    ("word", "frozen"),
    [
        ("no", False),
        ("fencing", True),
        ("user,no-data", True),
        ("quorum", True),
        ("odd", None),
        (None, None),
        ("", None),
    ],
)
def test_suspended(word, frozen):
    assert drbd_events.frozen_of(word) is frozen


def test_worst_volume_counts():
    table = drbd_events.Table()
    for line in (
        b"exists resource name:r role:Secondary suspended:no",
        b"exists device name:r volume:0 minor:1 disk:UpToDate",
        b"exists device name:r volume:1 minor:2 disk:Outdated",
    ):
        table.apply(drbd_events.parse_line(line))
    assert table.resources["r"].disk() is Disk.OUTDATED
    assert table.resources["r"].minors() == [1, 2]


def test_drbd9_connections_go_by_name():
    table = drbd_events.Table()
    for line in (
        b"exists resource name:r role:Primary suspended:no may_promote:no promotion_score:10101",
        b"exists connection name:r peer-node-id:1 conn-name:nodeb connection:Connected role:Secondary",
        b"exists connection name:r peer-node-id:2 conn-name:nodec connection:Connecting role:Unknown",
        b"exists path name:r peer-node-id:1 conn-name:nodeb local:ipv4:10.0.0.1:7788 peer:ipv4:10.0.0.2:7788 established:yes",  # noqa: E501
        b"exists device name:r volume:0 minor:1 backing_dev:/dev/vdb disk:UpToDate client:no open:yes quorum:yes",
        b"exists peer-device name:r peer-node-id:1 conn-name:nodeb volume:0 replication:Established peer-disk:UpToDate",
        b"exists peer-device name:r peer-node-id:2 conn-name:nodec volume:0 replication:Off peer-disk:DUnknown",
        b"exists -",
    ):
        table.apply(drbd_events.parse_line(line))
    replica = drbd_events.snapshot(table.resources["r"], "r", ("nodeb", "nodec"), {}, drbd_events.Incarnations())
    assert [link.link for _, link in replica.peers] == [Link.UP, Link.DOWN]


def test_unnamed_peer_is_left_out_rather_than_guessed():
    assert drbd_events.peer_name(("0", "peer"), {}, ("nodeb",)) == "nodeb"
    assert drbd_events.peer_name(("0", "peer"), {}, ()) is None
    assert drbd_events.peer_name(("3", "strange"), {}, ("nodeb",)) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"exists",
        b"nonsense resource name:r",
        b"exists thing name:r",
        b"exists resource name",
        b"exists device name:r disk:UpToDate",
        b"\xff\xfe",
        b"- skipped x",
        b"exists resource role:Primary",
    ],
)
def test_unreadable_lines(line):
    with pytest.raises(drbd_events.Unreadable):
        drbd_events.Table().apply(drbd_events.parse_line(line))


WORDS = st.sampled_from(
    [  # noqa: E501
        "exists",
        "change",
        "destroy",
        "create",
        "resource",
        "connection",
        "device",
        "peer-device",
        "-",
        "skipped",
        "name:r",
        "volume:0",
        "minor:1",
        "disk:UpToDate",
        "suspended:fencing",
        "conn-name:peer",
        "connection:Connected",
        "replication:Off",
        "x",
        ":",
    ]
)


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.lists(WORDS, max_size=7).map(lambda words: " ".join(words).encode())))
)
def test_any_lines_end_in_facts_or_unreadable(lines):
    table = drbd_events.Table()
    for line in lines:
        with contextlib.suppress(drbd_events.Unreadable):
            table.apply(drbd_events.parse_line(line))
    for resource in table.resources.values():
        drbd_events.snapshot(resource, resource.name, ("nodeb",), {}, drbd_events.Incarnations())


def test_generations():
    (volume,) = drbd_events.parse_gi(GI + "\n")
    assert volume == ("DE75BF1C4EA83E72", ("57CED1072A380848",))  # the Primary's bit is masked, zeros are stripped
    assert drbd_events.combined([volume]) == volume
    assert drbd_events.combined([("A", ("a",)), ("B", ())]) == ("A+B", ("a+B",))
    assert drbd_events.combined([("", ())]) == ("", ())
    assert drbd_events.combined([("A", tuple("abcdefg"))] * 4) == ("", ())


@given(st.text(max_size=200))
def test_any_gi_ends_in_generations_or_unreadable(text):
    with contextlib.suppress(drbd_events.Unreadable):
        drbd_events.parse_gi(text)


# --- configuration


def test_dump_of_84():
    config = drbd_config.parse_dump(DUMP84)["r0"]
    assert config.others("nodea") == ("nodeb",) and config.minors("nodea") == (0,)
    assert config.others("elsewhere") == ()
    mine, theirs = config.paths("nodea", "nodeb")[0]
    assert (mine.host, mine.port, theirs.host) == ("10.77.20.1", 7789, "10.77.20.2")
    codes = [problem.code for problem in drbd_config.problems(config, "r0", ["nodea", "nodeb"], "nodea", False)]
    assert codes == ["handler-fence-peer", "handler-after-resync-target"]


def test_dump_of_9():
    configs = drbd_config.parse_dump(DUMP9)
    assert drbd_config.problems(configs["r0"], "r0", ["nodea", "nodeb"], "nodea", False) == []
    problems = drbd_config.problems(configs["r1"], "r1", ["nodea", "nodeb"], "nodea", True)
    assert {problem.code for problem in problems} == {"nodes", "fencing-policy", "protocol"}
    remedies = {problem.code: problem.remedy for problem in problems}
    assert remedies["fencing-policy"] == "resource r1 { net { fencing resource-and-stonith; } }"
    assert configs["r1"].paths("nodea", "nodec")[0][1].host == "fd00::3"


def test_rebooting_handler_is_a_problem():
    text = DUMP84.replace(
        '<section name="net">',
        '<section name="handlers"><option name="pri-on-incon-degr" '
        'value="/usr/lib/drbd/notify.sh; echo b &gt; /proc/sysrq-trigger; reboot -f"/></section><section name="net">',
    )
    problems = drbd_config.problems(drbd_config.parse_dump(text)["r0"], "r0", ["nodea", "nodeb"], "nodea", False)
    assert "handler-pri-on-incon-degr" in {problem.code for problem in problems}


def test_missing_resource():
    assert drbd_config.problems(None, "r9", ["a", "b"], "a", False)[0].code == "no-resource"


@given(st.text(max_size=300))
def test_any_dump_is_read_or_refused(text):
    for document in (text, f"<config><resource name='r'>{text}</resource></config>"):
        with contextlib.suppress(AdapterError):
            drbd_config.parse_dump(document)

"""corosync.conf: what is accepted and refused, with `corosync -t` as the oracle, and the values in force."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartgate.checks import corosync_conf
from heartgate.checks.source import ParseError

CONF = """\
# comment
totem {
    version: 2
    cluster_name: c
    token: 5000
    crypto_cipher: aes256
    crypto_hash: sha256
    interface {
        linknumber: 1
        knet_ping_interval: 200
    }
}
nodelist {
    node {
        name: nodea
        nodeid: 1
        ring0_addr: 127.0.0.1
        ring1_addr: 127.0.1.1
    }
    node {
        name: nodeb
        nodeid: 2
        ring0_addr: 127.0.0.2
        ring1_addr: 127.0.1.2
    }
}
quorum {
    provider: corosync_votequorum
    two_node: 1
}
"""
NODES = CONF[CONF.index("nodelist") :]


def test_values_and_lines() -> None:
    conf = corosync_conf.parse(CONF, "/etc/corosync/corosync.conf")
    token = conf.setting("totem", "token")
    assert token is not None and (token.value, token.where) == ("5000", "/etc/corosync/corosync.conf:5")
    assert [(node.name, node.nodeid, node.line) for node in conf.nodes] == [("nodea", 1, 14), ("nodeb", 2, 20)]
    assert conf.links == (0, 1) and conf.nodes[1].addresses[1] == ("127.0.1.2", 24)
    assert conf.two_node and conf.wait_for_all and conf.secure == ("aes256", "sha256")
    assert conf.interface(1, "knet_ping_interval") and not conf.interface(0, "knet_ping_interval")
    assert corosync_conf.effective(conf) == {
        "token": 5000, "consensus": 6000, "join": 50,
        "interface.0.knet_ping_interval": 1250, "interface.0.knet_ping_timeout": 2500,
        "interface.1.knet_ping_interval": 200, "interface.1.knet_ping_timeout": 2500,
    }  # fmt: skip


def test_sections_in_pieces_and_the_last_value_counts() -> None:
    conf = corosync_conf.parse("totem {\n token: 1\n token: 2000\n}\ntotem {\n join: 60\n secauth: on\n}\n")
    assert corosync_conf.token(conf) == corosync_conf.Timing(2000, "corosync.conf:3")
    assert corosync_conf.join(conf).ms == 60 and conf.secure == ("aes256", "sha256")


@pytest.mark.parametrize(
    "text, line, said",
    [
        ("totem {\n version: 2\n", 2, 'expected "}" that closes section "totem" of line 1'),
        ("totem {\n version: 2", 2, 'expected "}"'),
        ("}\n", 1, "no section is open"),
        ("totem {\nnonsense\n}\n", 2, 'expected "section {", "key: value" or "}", found "nonsense"'),
        ("totem {\nversion: 2\ntoken: 3s\n}\n", 3, 'expected a whole number from 0 to 4294967295 for totem.token, found "3s"'),
        ("totem { version: 2 }\n", 1, 'expected nothing after "{"'),
        ("{\n}\n", 1, "name of a section"),
        ("totem {\n} x\n", 2, 'expected "}" alone'),
        ("totem {\ncrypto_hash: sha3\n}\n", 2, "expected one of none, md5"),
        ("totem {\nthe token: 3\n}\n", 2, "expected a key of letters"),
        ("x" * 600, 1, "at most 510 bytes"),
    ],
)
def test_an_error_names_line_and_expectation(text: str, line: int, said: str) -> None:
    with pytest.raises(ParseError) as caught:
        corosync_conf.parse(text, "c.conf")
    assert caught.value.line == line and said in str(caught.value) and str(caught.value).startswith(f"c.conf:{line}: ")


CASES = [
    CONF, CONF.replace("    ", ""), CONF.replace("\n", "\r\n"), CONF.replace("totem {", "totem{"), CONF.replace(": ", ":"),
    CONF.replace("totem {", "totem : {"), CONF.replace("token: 5000", "token: +5000"), CONF.replace("token: 5000", "token: 0"),
    CONF.replace("token: 5000", "token: 5 s"), CONF.replace("token: 5000", "token:"), CONF.replace("two_node: 1", "two_node: 256"),
    CONF.replace("two_node: 1", "two_node: yes"), CONF.replace("nodeid: 2", "nodeid: b"), CONF.replace("# comment", "  #{"),
    CONF.replace("# comment", "comment"), CONF.replace("# comment", "foo {\nbar: 1\n}"), CONF.replace("# comment", "ab: 1"),
    CONF.replace("# comment", "abc: 1"), CONF.replace("# comment", "a b c: 1"), CONF.replace("# comment", ":abc"),
    CONF.replace("# comment", "foo {\nb:1\n}"), CONF.replace("# comment", "}"), CONF[:-2], CONF.replace("}\nq", "} # x\nq"),
    CONF.replace("# comment", "#" * 509), CONF.replace("# comment", "#" * 510), CONF.replace("# comment", "#" * 511),
    CONF.replace("# comment", "#" * 512), CONF.replace("token: 5000", "token: 5000 # ms"), CONF.replace("token", "name: {\n}\ntoken"),
    CONF.replace("linknumber: 1", "linknumber: x"), CONF.replace("aes256", "des"), CONF.replace("# comment", "foo bar {\n}"),
    CONF.replace("token: 5000", "knet_compression_level: -3"), CONF.replace("token: 5000", "token_coefficient: x"),
    *(CONF.replace("token: 5000", f"{key}: x") for path in ("totem",) for key in corosync_conf._INTEGERS[path]),
    *(CONF.replace("two_node: 1", f"two_node: 1\n{key}: x") for key in corosync_conf._INTEGERS["quorum"]),
    *(CONF.replace("linknumber: 1", f"linknumber: 1\n{key}: x") for key in corosync_conf._INTEGERS["totem.interface"]
      if key not in ("ringnumber",)),
]  # fmt: skip


def refused_by_corosync(text: str, tmp_path: Path) -> str:
    """The parser's message, or ""; what is wrong with a configuration that can be read is none of its business."""
    path = tmp_path / "corosync.conf"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    done = subprocess.run(["corosync", "-t", "-f", "-c", str(path)], capture_output=True, text=True, timeout=20,
                          errors="replace", check=False)  # fmt: skip
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "parser error" in line]
    return lines[0] if lines else ""


needs_corosync = pytest.mark.skipif(not shutil.which("corosync", path="/usr/sbin:/usr/bin"), reason="corosync is not installed")


@needs_corosync
@pytest.mark.parametrize("number", range(len(CASES)))
def test_corosync_agrees(number: int, tmp_path: Path) -> None:
    agree(CASES[number], tmp_path)


def agree(text: str, tmp_path: Path) -> None:
    theirs = refused_by_corosync(text, tmp_path)
    try:
        corosync_conf.parse(text)
    except ParseError as error:
        assert theirs, f"corosync accepts what we refuse: {error}"
        assert f":{error.line}:" in theirs, f"{error} against {theirs}"
    else:
        assert not theirs, f"corosync refuses what we accept: {theirs}"


pieces = st.sampled_from(
    ["totem {", "}", "version: 2", "token: 1000", "token: x", "# c", "", "  ", "node {", "nodelist {", "quorum{", "a: b", "abc:d",
     "interface {", "x y", "foo: {", "linknumber: 1", "  }  ", "{", ":", "}{", "quorum {", "two_node: 1", "\tabc :\td "]
)  # fmt: skip


@needs_corosync
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(pieces, min_size=1, max_size=8))
def test_corosync_agrees_on_fuzz(lines, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    agree("\n".join(lines) + "\n", tmp_path)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(pieces, max_size=20).map("\n".join), st.text(alphabet="{}:#\n\r ab1\0", max_size=80)))
def test_nothing_but_a_parse_error(text: str) -> None:
    try:
        conf = corosync_conf.parse(text)
    except ParseError as error:
        assert 1 <= error.line <= text.count("\n") + 1
    else:
        assert all(value >= 0 for value in corosync_conf.effective(conf).values())
        assert conf.secure and isinstance(conf.wait_for_all, bool)

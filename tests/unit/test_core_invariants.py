"""check_local sees every violation that it is for, and finds none along the golden scripts; the core is pure."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

from heartgate.core import policy, rules, rules_doc
from heartgate.core.fold import message
from heartgate.core.invariants import check_local
from heartgate.core.model import (
    Action,
    AnswerHandler,
    Config,
    Disk,
    Flush,
    Link,
    PeerLink,
    Persist,
    Proof,
    ProofKind,
    Publish,
    Record,
    Replica,
    ReplicaChanged,
    Role,
    Send,
    Standing,
    State,
    Unblock,
    make_config,
)
from tests.unit.core_script import Step, run_script, script_paths

CONFIG = make_config("data", "nodea", {"nodea": 1, "nodeb": 2})
THREE = make_config("data", "nodea", {"nodea": 1, "nodeb": 2, "nodec": 3})
CONFIRMED = (Proof("nodeb", ProofKind.CONFIRMED, 3),)
GOOD = Replica(Disk.UPTODATE, Role.PRIMARY, False)


def record(
    standing: Standing, epoch: int = 3, in_sync: Tuple[str, ...] = ("nodea",), proofs: Tuple[Proof, ...] = ()
) -> Record:
    return Record(standing, epoch, in_sync, "boot", proofs)


SOLO = record(Standing.SOLO, proofs=CONFIRMED)
SYNCED = record(Standing.SYNCED, in_sync=("nodea", "nodeb"))
DECIDING = record(Standing.DECIDING, in_sync=("nodea", "nodeb"))
BLOCKED = record(Standing.BLOCKED, in_sync=("nodea", "nodeb"))


PERSIST = Publish(Standing.SOLO)  # stands for: the record after the step is persisted
LIE = Publish(Standing.UNPROVEN)  # stands for: a message that tells a later epoch


class Case(NamedTuple):
    broken: str  # what check_local has to say
    before: Optional[Record]
    after: Record
    actions: Tuple[Action, ...]
    disk: Disk = Disk.UPTODATE
    config: Config = CONFIG


# Each broken step, and beside it the least change that makes it a good one (see test_mended).
CASES: Dict[str, Case] = {
    "solo-without-proof": Case("I3 solo without proof about nodeb", None, SOLO._replace(proofs=()), ()),
    "solo-without-one-of-two-proofs": Case("I3 solo without proof about nodec", None, SOLO, (), config=THREE),
    "shared-solo-without-proof": Case(
        "I3 solo without proof about nodec", None, record(Standing.SOLO, in_sync=("nodea", "nodeb")), (), config=THREE
    ),
    "synced-without-a-node": Case("I3 synced without proof about nodeb", None, record(Standing.SYNCED), ()),
    "serves-without-being-in-sync": Case("I3 solo without being in sync", None, SOLO._replace(in_sync=("nodeb",)), ()),
    "epoch-goes-back": Case("I3 epoch went back from 3 to 2", SYNCED, SYNCED._replace(epoch=2), (PERSIST,)),
    "nothing-persisted": Case("I6 the record is not persisted", SYNCED, DECIDING, (Publish(Standing.DECIDING),)),
    "persisted-late": Case(
        "I6 the record is not persisted", SYNCED, DECIDING, (Publish(Standing.DECIDING), Persist(DECIDING))
    ),
    "no-actions-at-all": Case("I6 the record is not persisted", SYNCED, DECIDING, ()),
    "block-left-for-deciding": Case("I5 blocked left for deciding", BLOCKED, DECIDING, (PERSIST,)),
    "block-left-for-unproven": Case("I5 blocked left for unproven", BLOCKED, record(Standing.UNPROVEN), (PERSIST,)),
    "block-left-in-the-same-epoch": Case("I5 blocked left for synced", BLOCKED, SYNCED, (PERSIST,)),
    "handler-4-while-deciding": Case(
        "I3 a handler is let go while deciding", DECIDING, DECIDING, (AnswerHandler("1", 4),)
    ),
    "handler-7-while-blocked": Case("I3 a handler is let go while blocked", BLOCKED, BLOCKED, (AnswerHandler("1", 7),)),
    "handler-4-on-old-data": Case(
        "I4 a handler is let go on outdated data", SOLO, SOLO, (AnswerHandler("1", 4),), Disk.OUTDATED
    ),
    "handler-4-on-half-a-copy": Case(
        "I4 a handler is let go on inconsistent data", SOLO, SOLO, (AnswerHandler("1", 4),), Disk.INCONSISTENT
    ),
    "handler-4-on-unknown-data": Case(
        "I4 a handler is let go on unknown data", SOLO, SOLO, (AnswerHandler("1", 4),), Disk.UNKNOWN
    ),
    "unblock-while-blocked": Case("I5 unblock while blocked", BLOCKED, BLOCKED, (Unblock(),)),
    "flush-while-deciding": Case("I5 flush while deciding", DECIDING, DECIDING, (Flush(3),)),
    "tells-another-standing": Case("I6 a message tells what is not in the record", SYNCED, SYNCED, (LIE,)),
}


def check(case: Case) -> Tuple[str, ...]:
    after = State(case.after, "run", GOOD._replace(disk=case.disk))
    lie = Send(message(case.config, after._replace(record=case.after._replace(epoch=case.after.epoch + 1))))
    words: Dict[Action, Action] = {PERSIST: Persist(case.after), LIE: lie}
    actions = tuple(words.get(action, action) for action in case.actions)
    before = None if case.before is None else State(case.before, "run", GOOD)
    return check_local(case.config, before, after, actions)


@pytest.mark.req("E1", "D8")
@pytest.mark.parametrize("name", list(CASES))
def test_goes_red(name: str) -> None:
    found = check(CASES[name])
    assert any(reason.startswith(CASES[name].broken) for reason in found), found


MENDED: Dict[str, Callable[[Case], Case]] = {
    "solo-without-proof": lambda c: c._replace(after=SOLO),
    "epoch-goes-back": lambda c: c._replace(after=SYNCED._replace(epoch=4)),
    "persisted-late": lambda c: c._replace(actions=c.actions[::-1]),
    "block-left-in-the-same-epoch": lambda c: c._replace(after=SYNCED._replace(epoch=4)),
    "handler-4-while-deciding": lambda c: c._replace(actions=(AnswerHandler("1", 1),)),
    "handler-4-on-old-data": lambda c: c._replace(disk=Disk.CONSISTENT),
    "unblock-while-blocked": lambda c: c._replace(before=SOLO, after=SOLO),
}


@pytest.mark.parametrize("name", list(MENDED))
def test_mended(name: str) -> None:
    assert check(MENDED[name](CASES[name])) == ()


@pytest.mark.req("E1", "A4")
def test_holds_along_the_scripts() -> None:
    steps = [step for path in script_paths() for step in run_script(path).steps]
    print(f"\n{len(steps)} steps")
    assert len(steps) > 400
    for step in steps:
        assert check_local(*step) == ()


def tampered(step: Step) -> Iterator[Tuple[str, Step]]:
    """Steps of the scripts with one thing left out or added, each of which must be refused."""
    record_changed = step.before is not None and step.before.record != step.after.record
    if record_changed:
        rest = tuple(action for action in step.actions if not isinstance(action, Persist))
        yield "I6", step._replace(actions=rest)
        if rest:
            yield "I6", step._replace(actions=(*rest, Persist(step.after.record)))
    if step.after.record.standing not in (Standing.SYNCED, Standing.SOLO):
        yield "I3", step._replace(actions=(*step.actions, AnswerHandler("1", 4)))
        yield "I5", step._replace(actions=(*step.actions, Flush(1)))
    if step.after.record.standing is Standing.SOLO:
        yield "I3", step._replace(after=step.after._replace(record=step.after.record._replace(proofs=())))


def test_goes_red_along_the_scripts() -> None:
    count = 0
    for path in script_paths():
        for step in run_script(path).steps:
            for ident, worse in tampered(step):
                count += 1
                assert any(reason.startswith(ident) for reason in check_local(*worse)), (path.name, ident, worse)
    print(f"\n{count} tampered steps")
    assert count > 200


@pytest.mark.req("E1")
def test_the_broken_policy_is_seen() -> None:
    """Rules left out (as the explorer does) are seen on the node itself where one node can see them."""
    alone = make_config("data", "nodea", {"nodea": 1, "nodeb": 2}, omitted_rules=("proof",))
    state, _ = policy.initial(alone, record(Standing.DECIDING, in_sync=("nodea", "nodeb")), "boot", "run")
    lost = GOOD._replace(frozen=True, peers=(("nodeb", PeerLink(Link.DOWN, 1)),))
    after, actions = policy.step(alone, state, ReplicaChanged(lost))
    assert any(reason.startswith("I3") for reason in check_local(alone, state, after, actions))


# --- purity -----------------------------------------------------------------------------------------------------------

CORE = Path(rules.__file__).parent
# Words and data structures. Nothing that could look at the world, the clock or chance.
PURE = {
    "__future__",
    "collections",
    "dataclasses",
    "enum",
    "typing",
    "itertools",
    "functools",
    "json",
    "re",
    "hashlib",
    "base64",
    "binascii",
    "heartgate",
}
MAIN_ONLY = {"sys"}  # to print the table, below `if __name__ == "__main__"`
IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def without_main(tree: ast.Module) -> ast.Module:
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.dump(node.test))]
    return ast.Module(body=body, type_ignores=[])


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda p: str(p.stem))
def test_core_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in imports(tree):
        top = name.split(".")[0]
        assert top in PURE | MAIN_ONLY, f"{path.name} imports {name}"
        assert top != "heartgate" or name.startswith("heartgate.core"), f"{path.name} imports {name}"
    pure = without_main(tree)
    assert not MAIN_ONLY & set(imports(pure)), f"{path.name} imports more than words outside of its main"
    for node in ast.walk(pure):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_NAMES, f"{path.name}:{node.lineno} calls {node.func.id}"
        assert not isinstance(node, (ast.Global, ast.Nonlocal)), f"{path.name}:{node.lineno} changes what is outside"


def test_the_same_step_twice() -> None:
    """The same state and event give the same result, and leave the state as it was (everything is immutable)."""
    for path in script_paths():
        first, again = run_script(path), run_script(path)
        assert first == again
        for step in first.steps:
            hash(step.after)


def test_rules_document_is_current() -> None:
    document = CORE.parents[2] / "docs" / "rules.md"
    remedy = "run: PYTHONPATH=lib python3 -m heartgate.core.rules_doc > docs/rules.md"
    assert document.read_text(encoding="utf-8") == rules_doc.render(), remedy


def test_rules_have_ids_of_their_own() -> None:
    idents: List[str] = [rule.ident for rule in rules.TABLE] + [ident for ident, _ in rules.GUARDS]
    assert len(idents) == len(set(idents))

"""The heartbeat interfaces that heartbeat-link has registered: their carrier as a node attribute, and what a monitor is told.

The carrier comes from the kernel as an event (`heartgate.daemon.links`) and is published at once. What the rules find is
looked at by a process of its own: at the start, after every change of an interface, and once in a while. Nothing here
stops or starts anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple, Union

from heartgate.adapters.base import AdapterError, Cluster, Problem
from heartgate.checks import link_report
from heartgate.checks.findings import Finding
from heartgate.checks.link_report import KnetLook, Question, Report
from heartgate.core.codec import is_name
from heartgate.daemon import link_params
from heartgate.daemon.all_well import EVERY_S, AllWell
from heartgate.daemon.control import Client
from heartgate.daemon.link_params import LinkParams
from heartgate.daemon.loop import Timer
from heartgate.daemon.publisher import AttributePublisher
from heartgate.daemon.registration import Refused, tell
from heartgate.daemon.services import World, why

if TYPE_CHECKING:
    from heartgate.daemon.heartgated import Daemon

REPORT_S = 35.0
LOOK_S = 2.0
SETTLE_S = 0.5  # a change seldom comes alone
REST_S = 5.0  # between two looks by the rules, however much changes
STALE_S = 60.0  # what no event tells (an address, a route) is looked at this often
WATCHED, FAILED, NOT_WATCHED, DEGRADED = 0, 1, 7, 190  # as the agent's monitor returns them
NOTE = "heartbeat-link"
_UNKNOWN = {"rc": NOT_WATCHED, "message": "not watched"}


class State(Enum):
    """Of the interface. GONE: the kernel does not have it. UNKNOWN: nobody tells; never taken for a loss."""

    UP = "has carrier"
    LOST = "has no carrier"
    GONE = "does not exist any more"
    UNKNOWN = "is not known to have carrier: rtnetlink tells nothing"


ATTRIBUTE = {State.UP: "1", State.LOST: "0", State.GONE: "0", State.UNKNOWN: None}


class Checked(NamedTuple):
    me: str
    params: LinkParams
    question: Question
    report: Report
    look: Optional[KnetLook]


class Heartbeat:
    """One registered interface. known: what the rules found at the start, which is no news; None until it has had carrier."""

    def __init__(self, resource: str, found: Checked, raw: Mapping[str, str], known: Optional[FrozenSet[str]]) -> None:
        self.resource = resource
        self.me = found.me
        self.params = found.params
        self.question = found.question
        self.raw = raw
        self.report = found.report
        self.known = known
        self.state: Optional[State] = None  # nothing was published
        self.look = found.look
        self.directions: Tuple[link_report.Direction, ...] = ()
        self.trouble = ""

    @property
    def attribute(self) -> str:
        return self.params.attribute(self.resource)

    @property
    def interface(self) -> str:
        """The kernel's name; as it was named if the kernel does not know it."""
        return self.report.interface or self.question.interface

    def news(self) -> Tuple[Finding, ...]:
        """Without carrier no warning is news: much of what the rules look at goes with it."""
        if self.known is None:
            return self.report.errors
        return tuple(each for each in self.report.warnings if link_report.identity(each) not in self.known)

    def note(self, boot: str) -> Dict[str, object]:
        """For the next daemon of this boot."""
        known = None if self.known is None else sorted(self.known)
        return {"boot": boot, "me": self.me, "params": dict(self.raw), "known": known, "interface": self.interface}


class Heartbeats:
    """Loop thread only."""

    def __init__(self, daemon: Daemon, cluster: Callable[[], Optional[Cluster]], runtime: Path) -> None:
        """runtime: the directory in which monitors find that all is well."""
        self._daemon = daemon
        self.all: Dict[str, Heartbeat] = {}
        self.publisher = AttributePublisher(daemon.services, cluster)
        self._due: Optional[Timer] = None
        self._looked_at = 0.0
        self._looking = False
        self.well = AllWell(runtime)
        self._ticking: Optional[Timer] = None
        self._asking: Dict[str, List[Client]] = {}  # of each resource whose links are being looked at: who waits for that
        self._missed = False  # something changed while the rules were being asked: their answer may be older
        daemon.links.listeners.append(self._changed)

    # --- requests

    def check(self, client: Client, request: Mapping[str, Any]) -> None:
        """As register, and nothing follows from it."""
        asked = _asked(client, request)
        if asked is None:
            return
        raw, me, world = asked[1], self._daemon.me, self._daemon.services.world

        def done(result: Union[Checked, Exception]) -> None:
            client.reply(_refusal(result) if isinstance(result, Exception) else _told(result.report))

        self._daemon.workers.submit("link-check", lambda: checked(world, raw, me), done, REPORT_S)

    def register(self, client: Client, request: Mapping[str, Any]) -> None:
        asked = _asked(client, request)
        if asked is None:
            return
        (resource, raw), daemon = asked, self._daemon
        me, world, store = daemon.me, daemon.services.world, daemon.services.store

        def work() -> Checked:
            found = checked(world, raw, me)
            store.save_note(resource, NOTE, Heartbeat(resource, found, raw, found.report.known()).note(world.boot))
            return found

        def done(result: Union[Checked, Exception]) -> None:
            if isinstance(result, Exception):
                client.reply(_refusal(result))
                return
            try:
                daemon.identify(result.me)
            except AdapterError as error:
                client.reply(_refusal(error))
                return
            self._add(Heartbeat(resource, result, raw, result.report.known()))
            client.reply(_told(result.report))

        daemon.workers.submit(f"link:{resource}", work, done, REPORT_S)

    def unregister(self, client: Client, request: Mapping[str, Any]) -> None:
        resource = str(request.get("resource", ""))
        beat = self.all.pop(resource, None)
        if beat is not None:
            self.well.take_back(resource)
        store = self._daemon.services.store
        if is_name(resource):
            self._daemon.workers.submit(
                f"link:{resource}", lambda: store.forget_note(resource, NOTE), lambda result: None, REPORT_S
            )
        if beat is not None:
            self._withdraw(beat)
        client.reply({"ok": True})

    def monitor(self, client: Client, request: Mapping[str, Any]) -> None:
        beat = self.all.get(str(request.get("resource", "")))
        if beat is None:
            client.reply(_UNKNOWN)
            return
        if request.get("probe") == "1":  # Pacemaker has restarted: it has forgotten
            self._publish(beat, again=True)
        self._look_if_stale()
        self._look_at(beat, client)

    def status(self) -> List[Dict[str, object]]:
        """For `heartgate status`."""
        return [
            {
                "resource": beat.resource,
                "interface": beat.interface,
                "state": (beat.state or State.UNKNOWN).name.lower(),
                "attribute": beat.attribute,
                "published": self.publisher.told.get(beat.attribute),
                "message": _answer(beat)["message"],
            }
            for beat in self.all.values()
        ]

    def close(self) -> None:
        self.well.clear()

    # --- which ones

    def restore(self) -> None:
        """What was registered since the node's start: a daemon that was killed goes on where it was. In the loop's thread:
        nothing else runs yet."""
        services = self._daemon.services
        for resource in services.store.noted(NOTE):
            body: Any = services.store.load_note(resource, NOTE)
            try:
                if body["boot"] != services.world.boot:
                    continue  # Pacemaker starts it anew
                me, raw, interface = self._daemon.me or str(body["me"]), dict(body["params"]), str(body["interface"])
                known = None if body["known"] is None else frozenset(map(str, body["known"]))
                params, problems = link_params.parse(raw)
                if params is None:
                    raise Refused(problems)
                question = params.question(me)
                self._daemon.identify(me)
            except (KeyError, TypeError, ValueError, AttributeError, Refused, AdapterError) as error:
                services.journal.send("setup", f"{resource}: what was saved of it cannot be used: {error}", device=resource)
                continue
            report = Report(interface, None, None, (), ())
            self._add(Heartbeat(resource, Checked(me, params, question, report, None), raw, known))
            self._soon(0.0)

    def renamed(self, me: str) -> None:
        """This node has another name: its end of each link is looked up under that."""
        services = self._daemon.services
        for beat in list(self.all.values()):
            try:
                beat.question = beat.params.question(me)
            except ValueError as error:
                services.journal.send("setup", f"{beat.resource}: {error}", device=beat.resource)
                del self.all[beat.resource]
                self.well.take_back(beat.resource)
                self._withdraw(beat)
                continue
            beat.me = me
            self.well.take_back(beat.resource)
            self._keep(beat)
        self._soon(0.0)

    def _add(self, beat: Heartbeat) -> None:
        before = self.all.get(beat.resource)
        if before is not None and before.attribute != beat.attribute:
            self._withdraw(before)
        self.all[beat.resource] = beat
        self.well.take_back(beat.resource)
        self.publisher.dampen_ms[beat.attribute] = beat.params.dampen_ms
        beat.state = self._state(beat)
        self._publish(beat)
        if self._ticking is None and self.well.usable:
            self._ticking = self._daemon.loop.after(EVERY_S, self._tick)

    def _withdraw(self, beat: Heartbeat) -> None:
        if not any(other.attribute == beat.attribute for other in self.all.values() if other is not beat):
            self.publisher.want(beat.attribute, None)

    # --- carrier

    def _state(self, beat: Heartbeat) -> State:
        links = self._daemon.links
        if not links.told:
            return State.UNKNOWN
        carrier = links.carriers.get(beat.interface)
        return State.GONE if carrier is None else State.UP if carrier else State.LOST

    def _changed(self) -> None:
        """Something about some interface."""
        for beat in self.all.values():
            state = self._state(beat)
            if state is beat.state:
                continue
            beat.state = state
            self._take_back_if_wrong(beat)
            self._publish(beat)
            self._journal(beat, f"{beat.interface} {state.value}")
        if self.all:
            self._soon(SETTLE_S)

    def _publish(self, beat: Heartbeat, again: bool = False) -> None:
        value = ATTRIBUTE[beat.state or State.UNKNOWN]
        if value is not None or not again:
            self.publisher.want(beat.attribute, value)

    def _journal(self, beat: Heartbeat, text: str) -> None:
        state = (beat.state or State.UNKNOWN).name.lower()
        journal = self._daemon.services.journal
        journal.send(NOTE, f"{beat.resource}: {text}", interface=beat.interface, state=state, attribute=beat.attribute)

    # --- Corosync's links

    def _tick(self) -> None:
        """What a monitor does when it asks, for those that need not ask."""
        self._ticking = None
        if not self.all:
            return
        self._ticking = self._daemon.loop.after(EVERY_S, self._tick)
        self._look_if_stale()
        for beat in self.all.values():
            self._look_at(beat, None)

    def _look_at(self, beat: Heartbeat, client: Optional[Client]) -> None:
        """client: gets the answer that follows from it."""
        resource, workers, world = beat.resource, self._daemon.workers, self._daemon.services.world
        asking, seen_s = [] if client is None else [client], time.clock_gettime(time.CLOCK_BOOTTIME)
        if resource in self._asking:  # its answer comes in a moment, or it is given up
            self._asking[resource] += asking
            return
        if workers.busy(f"knet:{resource}"):  # Corosync is stopped
            self._looked(resource, None, seen_s, asking)
            return
        self._asking[resource] = asking

        def done(result: Union[KnetLook, Exception]) -> None:
            now = result if isinstance(result, KnetLook) else None
            self._looked(resource, now, seen_s, self._asking.pop(resource))

        numbers = beat.report.links
        workers.submit(f"knet:{resource}", lambda: world.knet_look(numbers), done, LOOK_S)

    def _looked(self, resource: str, now: Optional[KnetLook], seen_s: float, asking: List[Client]) -> None:
        beat = self.all.get(resource)
        if beat is None:
            for client in asking:
                client.reply(_UNKNOWN)
            return
        beat.directions = link_report.directions(beat.look, now, beat.report.links)
        # Two monitors are compared with each other, as they come: what only the daemon looks at in between would leave too short
        # a time to tell which direction is lost.
        if asking or not any(each.lost for each in beat.directions):
            beat.look = now or beat.look
        if _answer(beat)["rc"] == WATCHED:
            self.well.tell(resource, beat.raw, seen_s)
        else:
            self.well.take_back(resource)
        for client in asking:
            client.reply(_answer(beat))

    def _take_back_if_wrong(self, beat: Heartbeat) -> None:
        """Said anew after the next look only, which is never long ago then."""
        if _answer(beat)["rc"] != WATCHED:
            self.well.take_back(beat.resource)

    # --- rules

    def _look_if_stale(self) -> None:
        if time.monotonic() - self._looked_at > STALE_S:
            self._soon(0.0)

    def _soon(self, delay_s: float) -> None:
        """Look again, not before delay_s, and not too often."""
        self._missed = self._missed or self._looking
        if self._due is not None or self._looking:
            return
        rest_s = self._looked_at + REST_S - time.monotonic() if self._looked_at else 0.0
        self._due = self._daemon.loop.after(max(delay_s, rest_s), self._look)

    def _look(self) -> None:
        self._due = None
        beats, world = list(self.all.values()), self._daemon.services.world
        self._looked_at = time.monotonic()
        if not beats:
            return
        self._looking, self._missed = True, False
        questions = [beat.question for beat in beats]

        def work() -> Tuple[Union[Report, AdapterError], ...]:
            return tuple(_report(world, question) for question in questions)

        def done(result: Union[Tuple[Union[Report, AdapterError], ...], Exception]) -> None:
            self._looking = False
            for place, beat in enumerate(beats):
                self._take(beat, result[place] if isinstance(result, tuple) else result)
            if self._missed:
                self._soon(0.0)

        self._daemon.workers.submit("link-report", work, done, REPORT_S * len(beats))

    def _take(self, beat: Heartbeat, report: Union[Report, Exception]) -> None:
        if isinstance(report, Exception):
            beat.trouble = why(report)  # what was known stays known
            return
        if beat.known is None and report.known() is not None:
            self._settle(beat, report)
        before = {link_report.identity(each) for each in beat.news()}
        beat.trouble, beat.report = "", report._replace(interface=report.interface or beat.report.interface)
        for each in beat.news():
            if link_report.identity(each) not in before:
                self._journal(beat, f"{each.evidence}; {each.remedy} (rule {each.rule})")
        before_state, beat.state = beat.state, self._state(beat)
        self._take_back_if_wrong(beat)
        if beat.state is not before_state:
            self._publish(beat)

    def _settle(self, beat: Heartbeat, report: Report) -> None:
        """The first look with carrier: what it warns of was there before."""
        beat.known = report.known()
        self._keep(beat)

    def _keep(self, beat: Heartbeat) -> None:
        store, body, resource = self._daemon.services.store, beat.note(self._daemon.services.world.boot), beat.resource
        self._daemon.workers.submit(
            f"link:{resource}", lambda: store.save_note(resource, NOTE, body), lambda result: None, REPORT_S
        )


# --- worker thread


def checked(world: World, raw: Mapping[str, str], me: Optional[str]) -> Checked:
    """Everything that can be wrong with an interface. Raises Refused, AdapterError."""
    params, problems = link_params.parse(raw)
    if params is None:
        raise Refused(problems)
    try:
        name = me or world.local_name()
    except AdapterError as error:
        raise Refused([Problem("no-cluster", f"Corosync does not answer: {error}", "start Corosync first")]) from None
    try:
        question = params.question(name)
    except ValueError as error:
        remedy = f"name it ({link_params.EXAMPLE}), or keep the resource off {name} by a location rule"
        raise Refused([Problem("interface-me-missing", str(error), remedy)]) from None
    report = world.link_report(question)
    if report.errors:
        raise Refused([Problem(each.rule, f"{each.evidence} (rule {each.rule})", each.remedy) for each in report.errors])
    return Checked(name, params, question, report, _look_or_none(world, report))


def _look_or_none(world: World, report: Report) -> Optional[KnetLook]:
    try:
        return world.knet_look(report.links)
    except AdapterError:
        return None


def _report(world: World, question: Question) -> Union[Report, AdapterError]:
    try:
        return world.link_report(question)
    except AdapterError as error:
        return error


# --- answers


def _asked(client: Client, request: Mapping[str, Any]) -> Optional[Tuple[str, Dict[str, str]]]:
    resource, params = request.get("resource"), request.get("params")
    if not is_name(resource):
        client.reply({"ok": False, "error": f"{resource!r:.80} cannot be the name of a resource"})
    elif not isinstance(params, dict) or not all(isinstance(value, str) for value in params.values()):
        client.reply({"ok": False, "error": "params is not an object of texts"})
    else:
        return str(resource), {name: value for name, value in params.items() if name in link_params.DEFAULTS}
    return None


def _told(report: Report) -> Dict[str, object]:
    """What is no error is told all the same."""
    notes = [f"{each.evidence}; {each.remedy} (rule {each.rule})" for each in report.warnings]
    notes += [f"waived: {each.evidence} (rule {each.rule}: {each.waived})" for each in report.findings if each.waived]
    return {"ok": True, "notes": notes}


def _refusal(result: Exception) -> Dict[str, object]:
    if isinstance(result, Refused):
        return {"ok": False, "problems": tell(result.problems)}
    return {"ok": False, "error": why(result)}


def _answer(beat: Heartbeat) -> Dict[str, object]:
    state = beat.state or State.UNKNOWN
    lost = [f"{each.words()}, and {each.node} is heard over another link" for each in beat.directions if each.lost]
    news = [f"{each.evidence}; {each.remedy} (rule {each.rule})" for each in beat.news()]
    wrong = [*([f"{beat.interface} {state.value}"] if state in (State.LOST, State.GONE) else []), *lost, *news]
    if wrong:
        failed = state in (State.LOST, State.GONE) and beat.params.on_loss == "fail"
        return {"rc": FAILED if failed else DEGRADED, "message": ". ".join(wrong)}
    speed = f"{beat.report.speed_mbit} Mbit/s" if beat.report.speed_mbit else "speed unknown"
    words = [f"{beat.interface} {state.value}, {speed}", *(each.words() for each in beat.directions)]
    words += [f"the rules could not be asked: {beat.trouble}"] if beat.trouble else []
    return {"rc": WATCHED, "message": ". ".join(words)}

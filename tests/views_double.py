"""What operators see, in memory. It passes the same contract suite as PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.webhooks_double import MemoryWebhookViews

from dory_orchestrator.core import drill, ordering
from dory_orchestrator.core.answering import Question, QuestionKind
from dory_orchestrator.core.directive import NOT_FOUND, BeatFacts
from dory_orchestrator.core.drill import DrillFacts
from dory_orchestrator.core.model import OrderKind
from dory_orchestrator.core.node_rows import Candidate
from dory_orchestrator.core.ordering import OrderFacts
from dory_orchestrator.ports import (
    BrakeStatus,
    DrillView,
    EdgeNodeAmbiguous,
    EventBounds,
    EventPage,
    EventQuery,
    EventView,
    FleetPicture,
    FleetSummary,
    GuardStatus,
    HeldProcessor,
    MovePage,
    MoveQuery,
    MoveView,
    NobodyAnswers,
    NodeCounts,
    NodePage,
    NodePicture,
    NodeQuery,
    NodeView,
    NotKnown,
    OperatorRefused,
    PauseStatus,
    PictureQuery,
    Position,
    ProcessorPage,
    ProcessorPicture,
    ProcessorQuery,
    ProcessorView,
    StoreError,
    StoreUnavailable,
    Stranger,
    SuspectNode,
    Trouble,
)

_FROZEN = ("epoch_ahead", "document_ahead")


@dataclass
class MemoryViews(MemoryWebhookViews):
    """Set `error` to have every call fail with it, and `hold` to have pictures wait for it.

    `homes` are those that processors are away from, and since when; `pictures` counts how many
    were made.
    """

    processors: dict[UUID, ProcessorView] = field(default_factory=dict)
    nodes: list[NodeView] = field(default_factory=list)
    events: list[EventView] = field(default_factory=list)
    held_since: datetime | None = None
    groups: dict[str, int] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)
    confirmed_at: datetime | None = None
    confirmed_by: str | None = None
    moves: list[MoveView] = field(default_factory=list)
    engaged_at: datetime | None = None
    brake_reason: str | None = None
    brake_detail: str = ""
    population_count: int = 0
    override: tuple[datetime, str, str] | None = None
    links: dict[UUID, str] = field(default_factory=dict)
    failures: dict[UUID, tuple[int, float | None]] = field(default_factory=dict)
    """Of each how often in a row, and in how many seconds the next try is due."""
    orders: dict[UUID, tuple[str, str, str]] = field(default_factory=dict)
    paused: tuple[datetime, datetime, str, str] | None = None
    drills: list[DrillView] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    answer: Callable[[Question], Mapping[str, Any]] | None = None
    """The leader; None: there is none."""
    beat: BeatFacts = NOT_FOUND
    leader: str | None = None
    is_stale: bool = False
    error: StoreError | None = None
    failing_behind: int | None = None
    """Events behind this id cannot be read."""
    hold: asyncio.Event | None = None
    homes: dict[UUID, tuple[str, datetime]] = field(default_factory=dict)
    checkpoints: dict[UUID, datetime] = field(default_factory=dict)
    pictures: int = 0
    wakes: int = 0
    closed: bool = False

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error

    def tell(self, kind: str, reason: str, detail: str = "", **values: Any) -> EventView:
        """Write an event."""
        blank: dict[str, Any] = dict.fromkeys(
            ("processor_id", "node_name", "pod_name", "pod_uid", "epoch", "term")
        )
        name = self.processors.get(values.get("processor_id"))  # type: ignore[arg-type]
        event = EventView(
            id=self._newest + 1,
            kind=kind,
            reason=reason,
            detail=detail,
            processor_name=name.name if name else None,
            **{**blank, "at": datetime.now(UTC), **values},
        )
        self.events.append(event)
        return event

    async def close(self) -> None:
        self.closed = True

    async def list_processors(self, query: ProcessorQuery) -> ProcessorPage:
        self._answer()
        found = [p for p in self.processors.values() if _matches(p, query)]
        page, position = _page(found, _processor_key, query)
        return ProcessorPage(page, position)

    async def get_processor(
        self, processor_id: UUID, *, events_max: int
    ) -> tuple[ProcessorView, Sequence[EventView]] | None:
        self._answer()
        if processor_id not in self.processors:
            return None
        query = EventQuery(limit=events_max, processor_id=processor_id)
        return self.processors[processor_id], (await self.list_events(query)).events

    async def list_nodes(self, query: NodeQuery) -> NodePage:
        self._answer()
        counts: dict[str | None, Counter[str]] = {}
        for processor in self.processors.values():
            counts.setdefault(processor.node_name, Counter())[processor.state] += 1
        found = [
            replace(n, processors=dict(counts.get(n.name, {})))
            for n in self.nodes
            if _node_matches(n, query)
        ]
        page, position = _page(found, _node_key, query)
        return NodePage(page, position)

    async def list_events(self, query: EventQuery) -> EventPage:
        self._answer()
        if self.failing_behind is not None and (query.after_id or 0) >= self.failing_behind:
            raise StoreUnavailable("gone")
        found = [e for e in self.events if _event_matches(e, query)]
        newest = self._newest if query.until_id is None else query.until_id
        if query.after_id is None:
            found.reverse()
        if not query.explained:
            found = [replace(event, explanation=None) for event in found]
        page, more = found[: query.limit], len(found) > query.limit
        forward = query.after_id is not None and more
        return EventPage(page, page[-1].id if forward else newest, more)

    @property
    def _newest(self) -> int:
        return self.events[-1].id if self.events else 0

    async def settled_event(self) -> int | None:
        self._answer()
        return self._newest

    async def event_bounds(self, since: datetime | None, until: datetime | None) -> EventBounds:
        self._answer()
        hour = timedelta(hours=1)
        before = [e.id for e in self.events if since is not None and e.at < since - hour]
        behind = [e.id for e in self.events if until is not None and e.at >= until + hour]
        return EventBounds(before[-1] if before else 0, behind[0] if behind else None)

    async def guard_status(self) -> GuardStatus:
        self._answer()
        held, frozen, foreign = (
            [p for p in self.processors.values() if p.reason in reasons]
            for reasons in (("guard_held",), _FROZEN, ("foreign_fleet",))
        )
        return GuardStatus(
            held=self.held_since is not None,
            held_since=self.held_since,
            detail="",
            groups=self.groups,
            confirmed=self.confirmed,
            confirmed_at=self.confirmed_at,
            confirmed_by=self.confirmed_by,
            processors_count=len(held),
            processors=_waiting(held),
            frozen_count=len(frozen),
            frozen=_waiting(frozen),
            strangers_count=len(foreign),
            strangers=[_stranger(p) for p in foreign],
        )

    async def confirm_guard(self, by: str, expected: Mapping[str, int] | None) -> GuardStatus:
        self._answer()
        if self.held_since is None:
            raise OperatorRefused("nothing is held: there is nothing to confirm")
        if expected is not None and dict(expected) != self.groups:
            raise OperatorRefused("groups: what is held has changed: look at it again")
        now = datetime.now(UTC)
        if self.confirmed_at is None or now - self.confirmed_at > timedelta(seconds=600):
            self.confirmed = {}
        self.confirmed = {**self.confirmed, **self.groups}
        self.confirmed_at, self.confirmed_by = now, by
        self.tell("guard", "confirmed", by)
        self.wakes += 1
        return await self.guard_status()

    async def adopt(self, processor_ids: Sequence[UUID] | None, by: str) -> Sequence[UUID]:
        self._answer()
        frozen = sorted(p.id for p in self.processors.values() if p.reason in _FROZEN)
        wanted = frozen if processor_ids is None else sorted(set(processor_ids))
        if not wanted:
            raise OperatorRefused("nothing is frozen: there is nothing to adopt")
        if others := set(wanted) - set(frozen):
            raise OperatorRefused(f"processors: not frozen: {', '.join(map(str, others))}")
        for key in wanted:
            processor = self.processors[key]
            if processor.reason == "epoch_ahead":
                self.processors[key] = replace(processor, epoch=processor.pod_epoch)
            self.tell("guard", "adopted", by, processor_id=key)
        self.wakes += 1
        return wanted

    @property
    def _override(self) -> tuple[datetime, str, str] | None:
        """Until when, by whom and why; None once it is over."""
        in_force = self.override is not None and self.override[0] > datetime.now(UTC)
        return self.override if in_force else None

    @property
    def _engaged(self) -> bool:
        return self.engaged_at is not None and self._override is None

    async def brake_status(self) -> BrakeStatus:
        self._answer()
        until, by, reason = self._override or (None, None, None)
        suspects = [n for n in self.nodes if n.edge_node_id and n.health in ("suspect", "offline")]
        nodes = sorted(map(_suspect, suspects), key=lambda n: (n.name, n.id))
        return BrakeStatus(
            engaged=self._engaged,
            engaged_at=self.engaged_at,
            reason=self.brake_reason,
            detail=self.brake_detail,
            population_count=self.population_count,
            override_until=until,
            override_by=by,
            override_reason=reason,
            nodes_count=len(nodes),
            nodes=nodes[:100],
        )

    async def override_brake(self, for_seconds: float, reason: str, by: str) -> BrakeStatus:
        self._answer()
        until = datetime.now(UTC) + timedelta(seconds=for_seconds)
        self.override = (until, by, reason)
        written = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        self.tell("brake", "overridden", f"{by} overrode the brake until {written}: {reason}")
        self.wakes += 1
        return await self.brake_status()

    async def clear_brake_override(self, by: str) -> BrakeStatus:
        self._answer()
        if self._override is None:
            raise OperatorRefused("the brake is not overridden: there is nothing to clear")
        self.override = None
        self.tell("brake", "override_cleared", f"{by} ended the override of the brake")
        self.wakes += 1
        return await self.brake_status()

    async def cordon(self, name: str, organization_id: UUID | None, reason: str, by: str) -> bool:
        number = self._node(name, organization_id)
        if self.nodes[number].cordoned:
            return False
        changes = {"cordoned": True, "cordon_cause": reason}
        self.nodes[number] = replace(self.nodes[number], **changes)  # type: ignore[arg-type]
        self.tell("cordon", "cordoned", f"by {by}: {reason}", node_name=name)
        self.wakes += 1
        return True

    async def uncordon(self, name: str, organization_id: UUID | None, by: str) -> bool:
        number = self._node(name, organization_id)
        if self.nodes[number].status == "decommissioned":
            raise OperatorRefused(f"node: {name} is decommissioned: it has to register first")
        if not self.nodes[number].cordoned:
            return False
        self.nodes[number] = replace(self.nodes[number], cordoned=False, cordon_cause=None)
        self.tell("cordon", "uncordoned", f"by {by}", node_name=name)
        self.wakes += 1
        return True

    def _node(self, name: str, organization_id: UUID | None) -> int:
        self._answer()
        found = [
            number
            for number, node in enumerate(self.nodes)
            if node.name == name
            and node.edge_node_id
            and organization_id in (None, node.organization_id)
        ]
        if not found:
            raise OperatorRefused(f"node: there is no edge node {name}")
        if len(found) > 1:
            raise EdgeNodeAmbiguous("node", name, [_candidate(self.nodes[n]) for n in found])
        return found[0]

    @property
    def _drill(self) -> DrillView | None:
        running = [one for one in self.drills if one.phase != "ended"]
        return running[-1] if running else None

    @property
    def _pause(self) -> tuple[datetime, datetime, str, str] | None:
        in_force = self.paused is not None and self.paused[0] > datetime.now(UTC)
        return self.paused if in_force else None

    async def pause_status(self) -> PauseStatus:
        self._answer()
        until, began_at, by, reason = self._pause or (None,) * 4
        return PauseStatus(
            paused=until is not None, until=until, began_at=began_at, by=by, reason=reason
        )

    async def pause(self, for_seconds: float, reason: str, by: str) -> PauseStatus:
        self._answer()
        now = datetime.now(UTC)
        until = now + timedelta(seconds=for_seconds)
        self.paused = (until, now, by, reason)
        written = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        self.tell("pause", "paused", f"{by} paused everything until {written}: {reason}")
        self.wakes += 1
        return await self.pause_status()

    async def resume(self, by: str) -> PauseStatus:
        self._answer()
        if self._pause is None:
            raise OperatorRefused("nothing is paused: there is nothing to resume")
        self.paused = None
        self.tell("pause", "resumed", f"{by} ended the pause")
        self.wakes += 1
        return await self.pause_status()

    async def order(self, processor_id: UUID, kind: OrderKind, reason: str, by: str) -> str:
        facts = self._order_facts(processor_id)
        if refused := ordering.refusal(kind, facts):
            raise OperatorRefused(f"processor: {refused}")
        if kind is OrderKind.FAILBACK and facts.linked_node is not None:
            del self.orders[processor_id]
        else:
            self.orders[processor_id] = (str(kind), by, reason)
        self.tell("order", str(kind), f"by {by}: {reason}", processor_id=processor_id)
        self.wakes += 1
        return ordering.follows(kind, facts)

    async def retry(self, processor_id: UUID, reason: str, by: str) -> str:
        facts = self._order_facts(processor_id)
        if refused := ordering.retry_refusal(facts):
            raise OperatorRefused(f"processor: {refused}")
        self.failures[processor_id] = (facts.failures, None)
        self.tell("order", "retry", f"by {by}: {reason}", processor_id=processor_id)
        self.wakes += 1
        return f"it failed {facts.failures} times in a row, and is tried again now"

    def _order_facts(self, key: UUID) -> OrderFacts:
        self._answer()
        if key not in self.processors:
            raise NotKnown(f"processor: no processor {key} is known")
        processor, link = self.processors[key], self.links.get(key)
        home = None if link or key not in self.homes else self.homes[key][0]
        node = next((n for n in self.nodes if n.name == home), None)
        failures, waits = self.failures.get(key, (0, None))
        moves = [m.kind for m in self.moves if m.processor_id == key and m.ended_at is None]
        ready = [n for n in self.nodes if n.kind == "application" and n.ready]
        return OrderFacts(
            node_type=processor.node_type,
            reason=processor.reason,
            linked_node=link,
            home_node=home,
            home_status=node.status if node else None,
            home_cordoned=bool(node and node.cordoned),
            home_ready=bool(node and node.ready),
            home_health=node.health if node else None,
            move=moves[0] if moves else None,
            order=self.orders[key][0] if key in self.orders else None,
            brake_engaged=self._engaged,
            paused=self._pause is not None,
            application_nodes_ready=len(ready),
            failures=failures,
            waits_seconds=waits,
        )

    async def start_drill(
        self, node: str, organization_id: UUID | None, for_seconds: float, reason: str, by: str
    ) -> DrillView:
        found = self.nodes[self._node(node, organization_id)]
        if refused := drill.refusal(self._drill_facts(found)):
            raise OperatorRefused(f"node: {refused}")
        now = datetime.now(UTC)
        begun = DrillView(
            id=len(self.drills) + 1,
            node_name=node,
            by=by,
            reason=reason,
            phase="running",
            began_at=now,
            until=now + timedelta(seconds=for_seconds),
            left_at=None,
            ended_at=None,
            outcome=None,
            detail="",
            moves=[],
        )
        self.drills.append(begun)
        self.tell("drill", "started", f"by {by}: {reason}", node_name=node)
        self.wakes += 1
        return begun

    def _drill_facts(self, node: NodeView) -> DrillFacts:
        others = [n for n in self.nodes if n is not node and n.health in ("suspect", "offline")]
        running = [one for one in self.drills if one.phase != "ended"]
        return DrillFacts(
            status=str(node.status),
            failover_enabled=bool(node.failover_enabled),
            cordoned=node.cordoned,
            ready=bool(node.ready),
            health=node.health,
            other_drill=running[0].node_name if running else None,
            brake_engaged=self._engaged,
            paused=self._pause is not None,
            guard_held=self.held_since is not None,
            moves_open=sum(move.ended_at is None for move in self.moves),
            others_in_trouble=len(others),
            processors=sum(name == node.name for name in self.links.values()),
        )

    async def stop_drill(self, by: str) -> DrillView:
        self._answer()
        if self._drill is None:
            raise OperatorRefused("no drill runs: there is nothing to stop")
        now, before = datetime.now(UTC), self.drills[-1]
        said = f"{by} stopped it: its processors go home"
        if before.phase == "running":
            changes = {"phase": "returning", "outcome": "aborted", "left_at": now}
        else:
            said = f"{by} ended it: who is still away goes home without it"
            changes = {"phase": "ended", "outcome": before.outcome or "still_away"}
            changes |= {"ended_at": now}
        stopped = replace(before, **changes, detail=said)  # type: ignore[arg-type]
        self.drills[-1] = stopped
        self.tell("drill", "aborted", said, node_name=stopped.node_name)
        self.wakes += 1
        return stopped

    async def list_drills(self, limit: int) -> Sequence[DrillView]:
        self._answer()
        return self.drills[::-1][:limit]

    async def ask(
        self, kind: QuestionKind, parameters: Mapping[str, Any], *, timeout_seconds: float
    ) -> Mapping[str, Any]:
        self._answer()
        question = Question(len(self.questions) + 1, kind, parameters)
        self.questions.append(question)
        self.wakes += 1
        if self.answer is None:
            raise NobodyAnswers(f"no leader answered within {timeout_seconds:g} s")
        found = self.answer(question)
        if "unknown" in found:
            raise NotKnown(str(found["unknown"]))
        return found

    async def directive(
        self, processor_id: UUID, sender_node_name: str | None
    ) -> tuple[BeatFacts, str]:
        self._answer()
        return self.beat, sender_node_name or ""

    async def list_moves(self, query: MoveQuery) -> MovePage:
        self._answer()
        found = [m for m in reversed(self.moves) if _move_matches(m, query)]
        return MovePage(found[: query.limit], len(found) > query.limit)

    async def summary(self) -> FleetSummary:
        self._answer()
        desired = [p for p in self.processors.values() if p.status not in (None, "terminated")]
        return FleetSummary(
            fleet_id=UUID(int=1),
            at=datetime.now(UTC),
            current=self.leader is not None and not self.is_stale,
            desired=len(desired),
            ready=sum(p.state == "running" for p in desired),
            states=dict(Counter(p.state for p in self.processors.values())),
            nodes=sum(n.ready is not None for n in self.nodes),
            nodes_ready=sum(n.ready is True for n in self.nodes),
            leader=self.leader,
            term=1 if self.leader else 0,
            lease_seconds=5.0 if self.leader else None,
            guard_held=self.held_since is not None,
            brake_engaged=self._engaged,
            moves_open=sum(move.ended_at is None for move in self.moves),
            away=sum(key not in self.links for key in self.homes),
            pause_until=self._pause[0] if self._pause else None,
            pause_by=self._pause[2] if self._pause else None,
            pause_reason=self._pause[3] if self._pause else None,
            drill_node=self._drill.node_name if self._drill else None,
            drill_until=self._drill.until if self._drill else None,
            drill_phase=self._drill.phase if self._drill else None,
        )

    async def picture_mark(self) -> str:
        self._answer()
        if self.hold is not None:
            await self.hold.wait()
        return repr((self.processors, self.nodes, self.moves, self.events, self.leader))

    async def picture(self, query: PictureQuery) -> FleetPicture:
        self._answer()
        if self.hold is not None:
            await self.hold.wait()
        self.pictures += 1
        every = sorted(map(self._node_picture, self.nodes), key=lambda n: (-n.trouble, n.name))
        nodes = every[query.offset : query.offset + query.nodes]
        behind = every[query.offset + query.nodes :] if nodes else []
        names = {node.name for node in nodes} | ({None} if query.offset == 0 else set())
        placed = self._placed(names)
        open_first = sorted(self.moves, key=lambda m: (m.ended_at is not None, -m.id))
        return FleetPicture(
            summary=await self.summary(),
            brake=await self.brake_status(),
            guard_held_since=self.held_since,
            guard_detail="",
            frozen=sum(p.reason in _FROZEN for p in self.processors.values()),
            away=len(self.homes),
            away_since=min((since for _, since in self.homes.values()), default=None),
            nodes=nodes,
            total=_counted(every),
            behind=_counted(behind),
            processors=[p for group in placed.values() for p in group[: query.processors]],
            placed={place: len(found) for (place, shadow), found in placed.items() if not shadow},
            shadows={place: len(found) for (place, shadow), found in placed.items() if shadow},
            moves=open_first[: query.moves],
            more_moves=len(open_first) > query.moves,
        )

    def _node_picture(self, node: NodeView) -> NodePicture:
        states = [p.state for p in self.processors.values() if p.node_name == node.name]
        away = sum(home == node.name for home, _ in self.homes.values())
        hosts = any(self.processors[key].node_name == node.name for key in self.homes)
        moving = {
            name for m in self.moves if m.ended_at is None for name in (m.from_node, m.to_node)
        }
        values = {
            name: getattr(node, name)
            for name in NodePicture.__dataclass_fields__
            if name not in ("processors", "running", "away", "trouble")
        }
        if node.ready is None and not states and node.status == "decommissioned":
            trouble = Trouble.GONE
        elif (
            node.health in ("suspect", "offline")
            or not node.ready
            or {*states} - {"running"}
            or node.name in moving
        ):
            trouble = Trouble.TROUBLED
        elif node.health in ("recovering", "quarantined") or node.cordoned or away or hosts:
            trouble = Trouble.UNUSUAL
        else:
            trouble = Trouble.WELL
        return NodePicture(
            **values,
            processors=len(states),
            running=states.count("running"),
            away=away,
            trouble=trouble,
        )

    def _placed(
        self, names: set[str | None]
    ) -> dict[tuple[str | None, bool], list[ProcessorPicture]]:
        found: dict[tuple[str | None, bool], list[ProcessorPicture]] = {}
        for p in self.processors.values():
            home, since = self.homes.get(p.id, (None, None))
            places = [(p.node_name, False)]
            if home is not None and home != p.node_name:
                places.append((home, True))
            for place, is_shadow in places:
                if place in names:
                    found.setdefault((place, is_shadow), []).append(
                        ProcessorPicture(
                            id=p.id,
                            name=p.name,
                            state=p.state,
                            reason=p.reason,
                            node_name=p.node_name,
                            place=place,
                            is_shadow=is_shadow,
                            home=home,
                            away_since=since,
                            beat_at=p.last_health_check_at,
                            checkpoint_at=self.checkpoints.get(p.id),
                        )
                    )
        for group in found.values():
            group.sort(key=lambda p: (p.state == "running", p.home is None, p.name or "~"))
        return dict(sorted(found.items(), key=lambda kv: (kv[0][0] or "", kv[0][1])))


def _counted(nodes: Sequence[NodePicture]) -> NodeCounts:
    return NodeCounts(
        nodes=len(nodes),
        troubled=sum(node.trouble is Trouble.TROUBLED for node in nodes),
        processors=sum(node.processors for node in nodes),
        running=sum(node.running for node in nodes),
    )


def _page(found: Sequence[Any], key: Any, query: Any) -> tuple[list[Any], Position | None]:
    placed = sorted(((key(row, query.sort), row) for row in found), key=lambda pair: pair[0])
    if query.after is not None:
        placed = [pair for pair in placed if pair[0] > query.after]
    page = placed[: query.limit]
    return [row for _, row in page], page[-1][0] if len(placed) > query.limit else None


def _processor_key(processor: ProcessorView, sort: str) -> Position:
    since = processor.since.timestamp() if processor.since else None
    keys = {
        "name": "",
        "state": processor.state,
        "node": processor.node_name or "",
        "since": "~" if since is None else f"{1e11 - since:019.6f}",
    }
    return Position(keys[sort], processor.name or "", str(processor.id))


def _node_key(node: NodeView, sort: str) -> Position:
    used = -1.0 if node.utilisation is None else node.utilisation
    keys = {"name": "", "kind": node.kind, "utilisation": f"{1000 - used:011.6f}"}
    return Position(keys[sort], node.name, str(node.edge_node_id or ""))


def _is(wanted: object, value: object) -> bool:
    return wanted is None or wanted == value


def _begins(prefix: str | None, *texts: str | None) -> bool:
    return prefix is None or any((t or "").lower().startswith(prefix.lower()) for t in texts)


def _matches(processor: ProcessorView, query: ProcessorQuery) -> bool:
    return (
        (query.states is None or processor.state in query.states)
        and _is(query.node, processor.node_name)
        and _is(query.template, processor.template)
        and _is(query.organization_id, processor.organization_id)
        and _is(query.namespace, processor.namespace)
        and _is(query.health_status, processor.health_status)
        and _begins(query.prefix, processor.name, str(processor.id))
    )


def _node_matches(node: NodeView, query: NodeQuery) -> bool:
    return (
        _is(query.kind, node.kind)
        and _is(query.ready, node.ready is True)
        and _is(query.status, node.status)
        and _is(query.organization_id, node.organization_id)
        and _begins(query.prefix, node.name)
    )


def _event_matches(event: EventView, query: EventQuery) -> bool:
    return (
        (query.before_id is None or event.id < query.before_id)
        and (query.after_id is None or event.id > query.after_id)
        and (query.until_id is None or event.id <= query.until_id)
        and (query.since is None or event.at >= query.since)
        and (query.until is None or event.at < query.until)
        and _is(query.processor_id, event.processor_id)
        and _is(query.node, event.node_name)
        and _is(query.kind, event.kind)
        and _is(query.reason, event.reason)
    )


def _move_matches(move: MoveView, query: MoveQuery) -> bool:
    return (
        (query.before_id is None or move.id < query.before_id)
        and (query.node is None or query.node in (move.from_node, move.to_node))
        and _is(query.processor_id, move.processor_id)
        and _is(query.kind, move.kind)
        and _is(query.under_way, move.ended_at is None)
        and _is(query.outcome, move.outcome)
    )


def _candidate(node: NodeView) -> Candidate:
    assert node.edge_node_id is not None
    assert node.organization_id is not None
    return Candidate(node.organization_id, node.edge_node_id, str(node.status))


def _suspect(node: NodeView) -> SuspectNode:
    assert node.edge_node_id is not None
    assert node.health_since is not None
    return SuspectNode(
        id=node.edge_node_id,
        name=node.name,
        state=str(node.health),
        reason=str(node.health_reason),
        detail=str(node.health_detail),
        since=node.health_since,
    )


def _waiting(found: Sequence[ProcessorView]) -> list[HeldProcessor]:
    names = HeldProcessor.__dataclass_fields__
    ordered = sorted(found, key=lambda p: p.id)[:100]
    return [HeldProcessor(**{name: getattr(p, name) for name in names}) for p in ordered]


def _stranger(processor: ProcessorView) -> Stranger:
    assert processor.since is not None
    return Stranger(
        pod_name=processor.pod_name,
        node_name=processor.node_name,
        processor_id=processor.id,
        detail=processor.detail,
        at=processor.since,
    )

"""Where pods are created: on the edge node of their link, or in the cloud."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core.cycle import Cycle, Wanted
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    EDGE_NODE_SELECTOR,
    EdgeNodeRow,
    Limits,
    MoveKind,
    ProcessorConfig,
    Snapshot,
)
from dory_orchestrator.core.plan import Choice, Create, Finding, MoveStart, Reason, Unfit
from dory_orchestrator.core.scheduling import Request, Shortlist, choose_node, shortlist
from dory_orchestrator.core.specify import EDGE, specify, tolerations_of
from dory_orchestrator.core.why import Rule

_SHOWN_NODES_MAX = 5
_UNKNOWN_NODE = "unknown"


@dataclass(slots=True)
class Kind:
    """Pods that differ in nothing that a place depends on. `full` is the answer for all of them
    once no node fits: nodes only fill."""

    request: Request
    shortlist: Shortlist
    full: "Place | None" = None


@dataclass(frozen=True, slots=True)
class Place:
    """The scheduler's choice, and in words why it chose no node."""

    choice: Choice
    why_not: str


class Placing(Cycle):
    """Places what has no pod."""

    def __init__(
        self, snapshot: Snapshot, limits: Limits, explained: frozenset[UUID] = frozenset()
    ) -> None:
        super().__init__(snapshot, limits, explained)
        self.kinds: dict[tuple[bool, UUID | None, str, str], Kind] = {}
        self.choices: dict[UUID, Choice] = {}

    def create(self) -> None:
        """Place what has no pod, the most important first.

        Who may choose among edge nodes comes after those that are linked to one already: a leader
        before may have placed them, and their pods be still to come. Else their home is full by
        the time that they are placed there, and they wait for room for ever.
        """
        ordered = sorted(
            self.wanted,
            key=lambda w: (
                self._may_choose(w.config),
                -w.blueprint.runtime.priority,
                w.config.processor_id.int,
            ),
        )
        for wanted in ordered:
            key, created = wanted.config.processor_id, len(self.creates)
            most = self.limits.creations_max
            if self._ask(key, Rule.CREATION_LIMIT, created >= most, created, most):
                detail = f"{self.limits.creations_max} are created in this cycle"
                self._find(wanted.config.processor_id, Reason.CREATION_LIMIT, detail)
                self._count_missing(
                    wanted.blueprint.slug, self.desired.ownership.get(wanted.config.processor_id)
                )
                self._wake(self.now)
            elif wanted.config.node_type == EDGE:
                self._place_on_edge(wanted)
            else:
                self._place_in_cloud(wanted)

    def _may_choose(self, config: ProcessorConfig) -> bool:
        key = config.processor_id
        return (
            config.node_type == EDGE
            and key not in self.desired.links
            and key not in self.desired.homes
        )

    def _place_in_cloud(self, wanted: Wanted, moved_from: EdgeNodeRow | None = None) -> None:
        place = self._choose(wanted, APPLICATION_NODE_SELECTOR, None)
        self._create(wanted, place, home=None, moved_from=moved_from)

    def _place_on_edge(self, wanted: Wanted) -> None:
        """On the node of its link; without one on a node of its own organization. Who has failed
        over lives in the cloud until it goes home."""
        processor_id = wanted.config.processor_id
        linked = self.desired.links.get(processor_id)
        if linked is None and processor_id in self.desired.homes:
            self._place_in_cloud(wanted, self._moved_from(wanted.config, None))
            return
        if linked is None:
            self._place_first(wanted)
            return
        home = self.desired.edge_nodes.get(linked)
        unusable = home is None or home.status == "decommissioned"
        name = None if home is None else home.name
        if self._ask(processor_id, Rule.NO_EDGE_NODE, unusable, name) or home is None:
            detail = "its edge node is " + ("not in the database" if home is None else home.status)
            self._find(processor_id, Reason.NO_EDGE_NODE, detail)
            return
        place = self._choose(wanted, EDGE_NODE_SELECTOR, frozenset({home.name}))
        self._create(wanted, place, home=home)

    def _place_first(self, wanted: Wanted) -> None:
        processor_id, organization_id = wanted.config.processor_id, wanted.config.organization_id
        rows = self.homes.of(organization_id)
        place = self._choose(wanted, EDGE_NODE_SELECTOR, frozenset(rows))
        found = place.choice.node_name
        if self._ask(processor_id, Rule.NO_EDGE_NODE, found is None, found) or found is None:
            # Without a node it cannot be created Pending: it might land in another organization.
            detail = f"no edge node of its organization takes it{place.why_not}"
            self._find(processor_id, Reason.NO_EDGE_NODE, detail)
            own = self.desired.ownership.get(processor_id)
            if own is not None:
                # It had a place: that it has none now may be the new configuration's fault.
                self._count_missing(wanted.blueprint.slug, own)
            return
        home = rows[found]
        self._create(wanted, place, home=home, link=home.id)

    def _choose(
        self, wanted: Wanted, selector: Mapping[str, str], names: frozenset[str] | None
    ) -> Place:
        place = self._find_place(wanted, selector, names)
        self.choices[wanted.config.processor_id] = place.choice
        return place

    def _find_place(
        self, wanted: Wanted, selector: Mapping[str, str], names: frozenset[str] | None
    ) -> Place:
        """What was found out for one holds for others of its kind."""
        blueprint = wanted.blueprint
        organization_id = None if names is None else wanted.config.organization_id
        key = (names is None, organization_id, blueprint.slug, blueprint.digest)
        # A single node is soon looked at, and not the same one for all of a kind.
        is_single = names is not None and len(names) <= 1
        kind = None if is_single else self.kinds.get(key)
        if kind is None:
            request = Request(
                blueprint.runtime.requests,
                {**selector, **blueprint.runtime.node_selector},
                tolerations_of(blueprint, is_edge=names is not None),
                names,
            )
            kind = Kind(request, shortlist(request, self.loads))
            if not is_single:
                self.kinds[key] = kind
        if kind.full is not None:
            return kind.full
        choice = choose_node(kind.request, self.loads, self.limits, kind.shortlist)
        if choice.node_name is not None:
            return Place(choice, "")
        kind.full = Place(choice, _why_not(choice))
        return kind.full

    def _create(
        self,
        wanted: Wanted,
        place: Place,
        *,
        home: EdgeNodeRow | None,
        link: UUID | None = None,
        moved_from: EdgeNodeRow | None = None,
        move: MoveStart | None = None,
    ) -> None:
        processor_id, choice = wanted.config.processor_id, place.choice
        own = self.desired.ownership.get(processor_id)
        before = own.epoch if own is not None else 0
        spec = specify(
            wanted.config,
            wanted.blueprint,
            config_hash=wanted.config_hash,
            fleet_id=self.desired.fleet_id,
            namespace=wanted.namespace,
            epoch=before + 1,
            home=home.name if home is not None else None,
            preferred=choice.node_name if home is None else None,
            before=own,
            moved_from=_origin(wanted.config, home, moved_from),
        )
        self._count_missing(wanted.blueprint.slug, own)
        candidates = len(choice.unfit) + (choice.node_name is not None)
        self._ask(processor_id, Rule.NO_NODE_FITS, choice.node_name is None, candidates)
        if choice.node_name is not None:
            self.loads[choice.node_name].add(spec.requests)
        detail = f"on {choice.node_name}" if choice.node_name else f"no node fits{place.why_not}"
        reason = Reason.NOT_RUNNING if move is None else Reason.NODE_DEAD
        if move is not None and move.kind is MoveKind.FAILBACK:
            reason, detail = Reason.GOES_HOME, f"home, {detail}"
        elif move is not None:
            detail = f"from {move.from_node}: {detail}"
        previous = tuple(
            name
            for name in (
                own.newest_pod_name if own is not None else None,
                *self._names_of(processor_id),
            )
            if name is not None
        )
        self.creates.append(
            Create(
                processor_id,
                before,
                before + 1,
                spec,
                choice,
                reason,
                detail,
                link,
                tuple(dict.fromkeys(previous)),
                move,
                wanted.blueprint.runtime.proof,
            )
        )
        self.findings[processor_id] = Finding(Reason.NOT_RUNNING, detail)

    def _names_of(self, processor_id: UUID) -> Iterable[str]:
        return sorted(pod.name for pod in self.ours.get(processor_id, ()))

    def _moved_from(self, config: ProcessorConfig, row: EdgeNodeRow | None) -> EdgeNodeRow | None:
        """The edge node that an edge processor in the cloud comes from, first of all."""
        if config.node_type != EDGE:
            return None
        home_id = self.desired.homes.get(config.processor_id)
        home = self.desired.edge_nodes.get(home_id) if home_id is not None else None
        return home or row


def _origin(
    config: ProcessorConfig, home: EdgeNodeRow | None, moved_from: EdgeNodeRow | None
) -> str | None:
    """The edge node that an edge processor comes from, if it is created elsewhere."""
    if moved_from is not None:
        return moved_from.name
    return _UNKNOWN_NODE if home is None and config.node_type == EDGE else None


def _why_not(choice: Choice) -> str:
    """The nodes that come nearest first: those of another role never take it."""
    if not choice.unfit:
        return ""
    shown = heapq.nsmallest(
        _SHOWN_NODES_MAX, choice.unfit.items(), key=lambda one: (one[1] is Unfit.SELECTOR, one[0])
    )
    more = len(choice.unfit) - len(shown)
    said = ", ".join(f"{name}: {unfit}" for name, unfit in shown)
    return f" ({said}{f' and {more} more' if more else ''})"

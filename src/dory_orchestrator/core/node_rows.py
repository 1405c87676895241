"""Which row of `edge_nodes` is meant by the name of a node: several organizations may have one of
the same name, on one machine or on none.

It is the one that the processor is linked to, or away from; else that of its organization, or of a
processor of none the only one of that name; else none. Among rows of one organization one that was decommissioned comes last.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core.model import Desired, EdgeNodeRow, Pod
from dory_orchestrator.core.specify import ORGANIZATION_LABEL

_SHOWN_MAX = 10


class NodeRows:
    """The edge nodes of the database, by name."""

    def __init__(self, desired: Desired) -> None:
        self._desired = desired
        self._named: defaultdict[str, list[EdgeNodeRow]] = defaultdict(list)
        for row in sorted(desired.edge_nodes.values(), key=_last_the_decommissioned):
            self._named[row.name].append(row)

    def named(self, name: str | None) -> Sequence[EdgeNodeRow]:
        """All of that name."""
        return self._named.get(name or "", ())

    def of(self, processor_id: UUID, name: str | None) -> EdgeNodeRow | None:
        """The one that is meant where a processor is, or was, on the node of that name."""
        return self._meant(processor_id, self._organization(processor_id), self.named(name))

    def of_pod(self, pod: Pod) -> EdgeNodeRow | None:
        """As `of`; also of a pod whose processor is not desired any more: its label tells."""
        if pod.processor_id is None:
            return None
        organization = self._organization(pod.processor_id) or pod.labels.get(ORGANIZATION_LABEL)
        return self._meant(pod.processor_id, organization, self.named(pod.node_name))

    def _organization(self, processor_id: UUID) -> str | None:
        config = self._desired.configs.get(processor_id)
        organization_id = None if config is None else config.organization_id
        return None if organization_id is None else str(organization_id)

    def pods_of(self, row: EdgeNodeRow, pods: Iterable[Pod]) -> Iterable[Pod]:
        """Those of the pods on the node of its name that say how this row's node is. Who belongs
        to none of that name speaks for the machine, that is for each."""
        if len(self.named(row.name)) == 1:
            return pods
        return [pod for pod in pods if self.of_pod(pod) in (row, None)]

    def _meant(
        self, processor_id: UUID, organization: str | None, named: Sequence[EdgeNodeRow]
    ) -> EdgeNodeRow | None:
        if not named:
            return None
        desired = self._desired
        for links in (desired.links, desired.homes):
            for row in named:
                if row.id == links.get(processor_id):
                    return row
        if organization is None:
            # A processor of no organization can only mean the one row that there is.
            return named[0] if len(named) == 1 else None
        return next((row for row in named if str(row.organization_id) == organization), None)


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """An edge node that may be meant."""

    organization_id: UUID
    id: UUID
    status: str


def ambiguous(name: str, candidates: Sequence[Candidate]) -> str:
    """What is said to whoever names a node that several organizations have."""
    shown = [
        f"{one.organization_id} ({one.status}, id {one.id})"
        for one in sorted(candidates)[:_SHOWN_MAX]
    ]
    more = len(candidates) - len(shown)
    said = ", ".join(shown) + (f" and {more} more" if more else "")
    return f"{len(candidates)} organizations have a node {name}: name one, of {said}"


def _last_the_decommissioned(row: EdgeNodeRow) -> tuple[bool, int]:
    return row.status == "decommissioned", row.id.int

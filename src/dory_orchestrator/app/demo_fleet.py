"""What the demonstration asks: the fleet API, the pods themselves, and their documents."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp

from dory_orchestrator.app.demo_judge import Reading
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.core.fleet import Fleet, Table
from dory_orchestrator.ports import ClusterError

_ROOT = "/api/v1/fleet"
_PAGE = 1000
_POD_PORT = 8080
_POD_SECONDS = 1.0
_COUNTER_TEMPLATE = "counter"


class NoAnswer(Exception):
    """The orchestrator, or a pod, does not answer, or answers what cannot be understood."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays: an edge node, and the counter on it. `interval_seconds` is what the counter's
    template wishes for, if it does."""

    node: str
    counter: str
    interval_seconds: float | None


def cast(fleet: Fleet, wanted: str | None) -> Cast:
    """The node that is wanted, else the first one with a counter. Raises LookupError."""
    found = _casts(fleet)
    if wanted is None and found:
        return found[0]
    for one in found:
        if one.node == wanted:
            return one
    names = ", ".join(dict.fromkeys(one.node for one in found)) or "none"
    raise LookupError(f"no edge node {wanted or ''} with a counter (there is: {names})")


def _casts(fleet: Fleet) -> list[Cast]:
    nodes = {row.id: str(row.columns["name"]) for row in fleet.of(Table.EDGE_NODES)}
    slugs = {row.id: row.columns["slug"] for row in fleet.of(Table.TEMPLATES)}
    homes = {
        row.columns["processor_id"]: row.columns["edge_node_id"] for row in fleet.of(Table.LINKS)
    }
    intervals = {
        version.columns["processor_template_id"]: _interval(
            str(version.columns["runtime_config_template"])
        )
        for version in fleet.of(Table.VERSIONS)
    }
    order = list(nodes)
    found = []
    for row in fleet.of(Table.PROCESSORS):
        template, home = row.columns["processor_template_id"], homes.get(row.id)
        is_counter = isinstance(template, UUID) and slugs.get(template) == _COUNTER_TEMPLATE
        if is_counter and isinstance(home, UUID) and home in nodes:
            found.append(
                (home, Cast(nodes[home], str(row.columns["name"]), intervals.get(template)))
            )
    return [one for _, one in sorted(found, key=lambda pair: order.index(pair[0]))]


def _interval(config: str) -> float | None:
    wished = json.loads(config).get("orchestrator", {}).get("checkpoint_interval_seconds")
    return None if wished is None else float(wished)


class DemoFleet:
    """A running `dev`, as the demonstration sees it. All methods raise NoAnswer."""

    def __init__(
        self, url: str, token: str, session: aiohttp.ClientSession, cluster: LocalCluster
    ) -> None:
        self.url = url
        self._token = token
        self._session = session
        self._cluster = cluster

    async def nodes(self) -> list[dict[str, Any]]:
        """All nodes."""
        return await self._rows("/nodes", "nodes")

    async def processors(self) -> list[dict[str, Any]]:
        """All processors."""
        return await self._rows("/processors", "processors")

    async def moves(self) -> list[dict[str, Any]]:
        """All moves, the oldest first."""
        return (await self._rows("/moves", "moves"))[::-1]

    async def events(self, after: int) -> tuple[list[dict[str, Any]], int]:
        """What happened after an event, the oldest first, and where to go on."""
        answer = await self._get(f"{self.url}{_ROOT}/events?after={after}&limit={_PAGE}")
        return list(answer["events"]), int(answer["follow"])

    async def reading(self, name: str) -> Reading | None:
        """The counter's value, asked of its pod itself; None while no pod of it answers."""
        rows = await self._rows("/processors", "processors", f"q={name}&")
        row = next((row for row in rows if row["name"] == name), None)
        if row is None or not row["pod_ip"] or row["epoch"] is None:
            return None
        try:
            answer = await self._get(
                f"http://{row['pod_ip']}:{_POD_PORT}/state",
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=aiohttp.ClientTimeout(total=_POD_SECONDS),
            )
            # Before its uptime counts, a program has not restored its state yet; and the row
            # may still be about the pod before.
            if not answer["uptime_seconds"] or answer["pod_name"] != row["pod_name"]:
                return None
            count = int(answer["data"]["count"])
        except (NoAnswer, KeyError, TypeError, ValueError):
            return None
        return Reading(time.time(), count, row["pod_name"], row["node_name"] or "?", row["epoch"])

    async def seeded(self, row: dict[str, Any], pod_names: Sequence[str]) -> int | None:
        """The count in the document that the client library starts from, if one of these pods
        told or saved it; None: it was none of theirs."""
        try:
            stored = await self._cluster.read_state(row["namespace"] or "", UUID(row["id"]))
            document = json.loads(stored.document) if stored is not None else {}
            if document["metadata"]["pod_name"] not in pod_names:
                return None
            return int(document["payload"]["count"])
        except (ClusterError, KeyError, TypeError, ValueError):
            return None

    async def _rows(self, path: str, name: str, query: str = "") -> list[dict[str, Any]]:
        answer = await self._get(f"{self.url}{_ROOT}{path}?{query}limit={_PAGE}")
        return list(answer[name])

    async def _get(self, url: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._session.get(url, **options) as answer:
                content = await answer.json()
                if answer.status != 200:
                    raise NoAnswer(f"{url} answers with status {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NoAnswer(f"{url}: {error or type(error).__name__}") from error
        if not isinstance(content, dict):
            raise NoAnswer(f"{url} answers with no object")
        return content

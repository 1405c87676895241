"""No cluster: for a process that serves and reads, and has nowhere to run pods."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn
from uuid import UUID

from dory_orchestrator.core.announcing import Announcement
from dory_orchestrator.core.model import Observation, Pod, PodSpec
from dory_orchestrator.core.start import Carrier
from dory_orchestrator.ports import ClusterUnavailable, StoredState


class AbsentCluster:
    """A `Cluster` that is never there: everything raises ClusterUnavailable."""

    async def version(self) -> str:
        """See Cluster."""
        _absent()

    @asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[Observation]]:
        """See Cluster."""
        _absent()
        yield  # type: ignore[unreachable]  # what makes it a context manager

    def look_in(self, namespaces: frozenset[str]) -> None:
        """See Cluster."""

    async def create_pod(self, spec: PodSpec) -> Pod:
        """See Cluster."""
        _absent()

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        """See Cluster."""
        _absent()

    async def find_pod(self, namespace: str, name: str) -> Pod | None:
        """See Cluster."""
        _absent()

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        """See Cluster."""
        _absent()

    async def seed_state(
        self, namespace: str, processor_id: UUID, document: bytes, *, version: str | None
    ) -> None:
        """See Cluster."""
        _absent()

    async def remove_state(self, namespace: str, processor_id: UUID, *, version: str) -> None:
        """See Cluster."""
        _absent()

    def carrier(self, backend: str) -> Carrier:
        """See Cluster."""
        return Carrier.UNKNOWN

    async def announce(self, said: Announcement) -> None:
        """See Cluster."""
        _absent()

    async def close(self) -> None:
        """See Cluster."""


def _absent() -> NoReturn:
    raise ClusterUnavailable("no cluster is named: set kubeconfig, or cluster: local")

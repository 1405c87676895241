"""What the loops that ask pods know, in the form that decisions take it."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

from dory_orchestrator.core.model import Pod
from dory_orchestrator.core.plan import Create
from dory_orchestrator.loops.checkpoint import Checkpointer
from dory_orchestrator.loops.poll_health import HealthPoller
from dory_orchestrator.ports import Cluster, Lease

_ROUNDS_UNTIL_OLD = 2.5
_OLD_SECONDS_MIN = 3.0
"""However often is polled: on a busy machine a round is late."""


class PodEvidence:
    """Whether pods answer, and whether they have their state."""

    def __init__(
        self, poller: HealthPoller, checkpointer: Checkpointer, poll_interval_seconds: float
    ) -> None:
        self._poller = poller
        self._checkpointer = checkpointer
        self._old_seconds = max(_ROUNDS_UNTIL_OLD * poll_interval_seconds, _OLD_SECONDS_MIN)

    def answers(self) -> Mapping[str, bool]:
        """Of each pod that was asked lately, by uid, whether it answered at all."""
        oldest = asyncio.get_running_loop().time() - self._old_seconds
        return {
            uid: asked.answer is not None
            for uid, asked in self._poller.answers.items()
            if asked.at >= oldest
        }

    def is_restored(self, pod: Pod) -> bool:
        """Whether the present incarnation of a pod has its state."""
        return self._checkpointer.restored(pod.uid, pod.restart_count)

    def unprotected(self) -> Mapping[str, str]:
        """See Evidence."""
        return self._checkpointer.unprotected

    def ahead(self) -> Mapping[UUID, str]:
        """See Evidence."""
        return self._checkpointer.frozen

    def attended_since(self) -> float | None:
        """See Evidence. Where nobody has begun yet, it is from now on."""
        since = self._checkpointer.attended_since
        return asyncio.get_running_loop().time() if since is None else since


class KeptStates:
    """The checkpointer, as who creates and ends pods sees it."""

    def __init__(self, checkpointer: Checkpointer, cluster: Cluster) -> None:
        self._checkpointer = checkpointer
        self._cluster = cluster

    async def prepare(self, lease: Lease, create: Create) -> float | None:
        """See States."""
        seeded = await self._checkpointer.prepare(
            lease, self._cluster, create.spec, create.previous, proof=create.proof
        )
        return None if seeded is None else seeded.confirmed_at

    async def capture(self, lease: Lease, pod: Pod, epoch: int) -> str | None:
        """See States."""
        return await self._checkpointer.capture_now(lease, pod, epoch)

    async def undo_late_save(self, pod: Pod) -> bool:
        """See States."""
        return await self._checkpointer.undo_late_save(self._cluster, pod)

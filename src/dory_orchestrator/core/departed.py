"""Which state documents are removed from the cluster. Pure."""

from uuid import UUID

from dory_orchestrator.core.checkpoint import Document
from dory_orchestrator.core.model import Observation

GONE_SECONDS = 3_600.0
"""How long the client library says that a document is kept (platform facts 12.3); nobody there
sees to it."""


def is_gone(processor_id: UUID, namespace: str, observed: Observation) -> bool:
    """Whether no pod of it is seen, of whichever fleet, where one would be."""
    return observed.shows(namespace) and all(
        pod.processor_id != processor_id for pod in observed.pods.values()
    )


def is_removable(found: Document | None, pod_name: str | None) -> bool:
    """Whether a document is ours to remove: one that we put there, or that its last pod
    (`pod_name`) saved. What cannot be read (None), or is of a pod that we do not know, stays."""
    return found is not None and (found.position is not None or found.pod_name == pod_name)

"""What labels and annotations of a pod say. Alike for every kind of cluster."""

import re
from collections.abc import Mapping
from uuid import UUID

from dory_orchestrator.core.model import (
    CONFIG_HASH_ANNOTATION,
    EPOCH_ANNOTATION,
    FLEET_ANNOTATION,
    MANAGED_BY,
    Pod,
    PodPhase,
    PodSpec,
)

CONTAINER_NAME = "processor"
"""Name of the one container of each of our pods."""

VARIABLES_OF_LABELS = {
    "DORY_APP_NAME": "app",
    "DORY_PROCESSOR_ID": "processor-id",
    "DORY_WORKLOAD_LOCATION": "workload-location",
    "DORY_MIGRATED_FROM_EDGE": "migrated-from-edge",
    "DORY_ORIGINAL_NODE": "original-edge-node",
}
"""What a pod's program is told of its labels, as Kubernetes' Downward API does (platform facts
5.4)."""

_EPOCH = re.compile(r"[0-9]{1,18}", re.ASCII)


def is_ours(labels: Mapping[str, str]) -> bool:
    """Whether a pod calls itself ours."""
    return labels.get("managed-by") == MANAGED_BY


def processor_id_of(labels: Mapping[str, str]) -> UUID | None:
    """The processor that a pod says it runs; None when the label is no UUID."""
    try:
        return UUID(labels.get("processor-id", ""))
    except ValueError:
        return None


def epoch_of(annotations: Mapping[str, str]) -> int | None:
    """The epoch on a pod; None when it is missing or no whole number."""
    text = annotations.get(EPOCH_ANNOTATION, "")
    return int(text) if _EPOCH.fullmatch(text) else None


def new_pod(spec: PodSpec, *, uid: str, created_at: float) -> Pod:
    """A pod as it is right after its creation: without a place."""
    return Pod(
        uid=uid,
        namespace=spec.namespace,
        name=spec.name,
        processor_id=processor_id_of(spec.labels),
        phase=PodPhase.PENDING,
        created_at=created_at,
        fleet_id=spec.annotations.get(FLEET_ANNOTATION),
        epoch=epoch_of(spec.annotations),
        config_hash=spec.annotations.get(CONFIG_HASH_ANNOTATION),
        requests=spec.requests,
        labels=dict(spec.labels),
    )

"""What is said of pods and nodes, as Events of Kubernetes (core/v1). Pure."""

from datetime import UTC, datetime
from typing import Any

from dory_orchestrator.core.announcing import Announcement

_COMPONENT = "dory-orchestrator"
_OF_NODES = "default"
"""Where Kubernetes wants Events on what has no namespace."""
_NAME_CHARACTERS_MAX = 253


def event_of(said: Announcement) -> dict[str, Any]:
    """The body of the request that creates it. `kubectl describe` looks for uids, and of a node
    also for its name in the place of one, as kubelets write it."""
    if said.pod is not None:
        namespace, name = said.pod.namespace, said.pod.name
        about = {"kind": "Pod", "namespace": namespace, "uid": said.pod.uid}
    else:
        namespace, name = _OF_NODES, str(said.node_name)
        about = {"kind": "Node", "uid": name}
    room = _NAME_CHARACTERS_MAX - len(said.key) - 1
    at = datetime.fromtimestamp(said.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name[:room].rstrip('.-')}.{said.key}", "namespace": namespace},
        "involvedObject": {"apiVersion": "v1", "name": name, **about},
        "type": "Warning" if said.is_warning else "Normal",
        "reason": said.reason,
        "message": said.message,
        "source": {"component": _COMPONENT},
        "reportingComponent": _COMPONENT,
        "reportingInstance": _COMPONENT,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }

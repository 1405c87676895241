"""What of our events the cluster is told, so that `kubectl describe` tells the story. Pure."""

from dataclasses import dataclass

from dory_orchestrator.core.model import Observation, Pod

_WORRYING = (
    "brake",
    "checkpoint_late",
    "checkpoint_refused",
    "create_refused",
    "delete_refused",
    "document_refused",
    "error",
    "failover",
    "failure",
    "held",
    "node_offline",
    "node_quarantined",
    "node_suspect",
    "rollout",
    "stranger",
)
_REASON_CHARACTERS_MAX = 128
_MESSAGE_CHARACTERS_MAX = 1_024
"""What Kubernetes takes of an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event of ours, as it is stored. `at` is Unix seconds; `id` grows."""

    id: int
    at: float
    kind: str
    reason: str
    detail: str
    node_name: str | None
    pod_name: str | None
    pod_uid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """Something to be said of a pod, or of a node (then `namespace` and `uid` are None).

    `key` is the same each time that it is said, and of nothing else.
    """

    key: str
    at: float
    pod: Pod | None
    node_name: str | None
    reason: str
    message: str
    is_warning: bool


def announcement(happening: Happening, observed: Observation) -> Announcement | None:
    """What is said of the pod that it names, else of the node.

    None when it names neither, or nothing that is there: it may come yet.
    """
    pod = _pod(happening, observed)
    node_name = happening.node_name if happening.pod_name is None else None
    if pod is None and (node_name is None or node_name not in observed.nodes):
        return None
    said = ": ".join(filter(None, (happening.reason, happening.detail)))
    return Announcement(
        key=f"{happening.id:x}-{round(happening.at * 1e6):x}",
        at=happening.at,
        pod=pod,
        node_name=node_name,
        reason=_words(happening.kind)[:_REASON_CHARACTERS_MAX],
        message=said[:_MESSAGE_CHARACTERS_MAX],
        is_warning=happening.kind in _WORRYING,
    )


def concerns(happening: Happening) -> bool:
    """Whether it is about a pod or a node at all."""
    return happening.pod_name is not None or happening.node_name is not None


def _pod(happening: Happening, observed: Observation) -> Pod | None:
    """By its uid; of one that was to be created only its name was known."""
    if happening.pod_uid is not None:
        return observed.pods.get(happening.pod_uid)
    if happening.pod_name is None:
        return None
    named = (pod for pod in observed.pods.values() if pod.name == happening.pod_name)
    return next(named, None)


def _words(kind: str) -> str:
    """`node_offline` as Kubernetes writes reasons: NodeOffline."""
    return "".join(word.capitalize() for word in kind.split("_"))

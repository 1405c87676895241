"""The environment of a pod's process: what Kubernetes would give it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from dory_orchestrator.cluster.local.leftovers import MARK
from dory_orchestrator.cluster.reading import CONTAINER_NAME, VARIABLES_OF_LABELS
from dory_orchestrator.core.model import PodSpec

WORKING_DIR = "DORY_LOCAL_WORKING_DIR"
"""In the environment of a spec: the folder to run in, instead of one of the pod's own."""

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What only the cluster knows of a pod. `programs` is the folder of our own Python."""

    uid: str
    node_name: str
    ip: str
    health_port: int
    orchestrator_url: str
    state_token: str | None
    mark: str
    programs: str
    parent: Mapping[str, str]


def environment_of(spec: PodSpec, around: Surroundings) -> dict[str, str]:
    """Everything that the process gets; of our own environment only what is harmless."""
    given = {name: value for name, value in spec.environment.items() if name != WORKING_DIR}
    environment = _inherited(around.parent) | given | _downward(spec, around)
    environment |= {
        "DORY_ORCHESTRATOR_URL": around.orchestrator_url,
        "DORY_HEALTH_PORT": str(around.health_port),
        "DORY_STATE_BACKEND": _state_backend(given),
        # Else the client library counts starts in one file for all pods of the machine, and
        # from the third on throws saved state away.
        "RESTART_COUNT": given.get("RESTART_COUNT", "0"),
        "PATH": f"{around.programs}:{environment.get('PATH', _PATH)}",
        "PYTHONUNBUFFERED": "1",
        MARK: around.mark,
    }
    if around.state_token is not None:
        environment["DORY_STATE_TOKEN"] = around.state_token
    return environment


def _inherited(parent: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in parent.items()
        if name in _INHERITED or name.startswith("LC_")
    }


def _downward(spec: PodSpec, around: Surroundings) -> dict[str, str]:
    labels = {
        name: spec.labels[key] for name, key in VARIABLES_OF_LABELS.items() if key in spec.labels
    }
    return labels | {
        "POD_NAME": spec.name,
        "DORY_POD_NAME": spec.name,
        "POD_NAMESPACE": spec.namespace,
        "DORY_POD_NAMESPACE": spec.namespace,
        "POD_IP": around.ip,
        "POD_UID": around.uid,
        "NODE_NAME": around.node_name,
        "SERVICE_ACCOUNT": "default",
        "CONTAINER_NAME": CONTAINER_NAME,
    }


def _state_backend(given: Mapping[str, str]) -> str:
    """There are no ConfigMaps and no volumes here: the client library's file stands for both."""
    wanted = given.get("DORY_STATE_BACKEND", "local")
    return wanted if wanted == "s3" else "local"

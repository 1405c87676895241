"""Which pods own their processors, and what is asked of their state."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from dory_orchestrator.core.model import Desired, Observation, Pod
from dory_orchestrator.core.specify import Blueprints, NotDefined


@dataclass(frozen=True, slots=True)
class OwnedPod:
    """A pod that owns its processor in `epoch`, how often its state is asked for (0: never), the
    JSON pointers that prove a restore, and where its client library saves (`DORY_STATE_BACKEND`).
    """

    pod: Pod
    epoch: int
    interval_seconds: float
    proof: tuple[str, ...]
    backend: str = ""


def owned_pods(
    desired: Desired,
    observed: Observation,
    interval_seconds: float,
    before: Mapping[str, OwnedPod],
) -> Iterator[OwnedPod]:
    """The owners among the observed pods of this fleet. Where it cannot be read how a pod's state
    is kept, it is kept as `before` (by uid), else each `interval_seconds`: the pod runs on. So
    also one whose row is gone: it may have gone by mistake, and come back.
    """
    blueprints = Blueprints()
    for pod in observed.pods.values():
        if pod.processor_id is None or pod.fleet_id != desired.fleet_id:
            continue
        own = desired.ownership.get(pod.processor_id)
        if own is None or own.pod_uid != pod.uid:
            continue
        config = desired.configs.get(pod.processor_id)
        last = before.get(pod.uid)
        if last is None:
            last = OwnedPod(pod, own.epoch, interval_seconds, ())
        kept, proof, backend = last.interval_seconds, last.proof, last.backend
        with suppress(NotDefined):
            if config is not None:
                runtime = blueprints.of(config).runtime
                wished = runtime.checkpoint_interval_seconds
                kept, proof = interval_seconds if wished is None else wished, runtime.proof
                backend = runtime.environment.get("DORY_STATE_BACKEND", "")
        yield OwnedPod(pod, own.epoch, kept, proof, backend)

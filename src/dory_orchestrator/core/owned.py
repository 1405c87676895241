"""Which pods own their processors, and what is asked of their state."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from dory_orchestrator.core.model import Desired, Observation, Pod
from dory_orchestrator.core.specify import Blueprints, NotDefined


@dataclass(frozen=True, slots=True)
class OwnedPod:
    """A pod that owns its processor in `epoch`, how often its state is asked for (0: never),
    and the JSON pointers that prove a restore."""

    pod: Pod
    epoch: int
    interval_seconds: float
    proof: tuple[str, ...]


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
        kept, proof = (
            (interval_seconds, ()) if last is None else (last.interval_seconds, last.proof)
        )
        with suppress(NotDefined):
            if config is not None:
                runtime = blueprints.of(config).runtime
                wished = runtime.checkpoint_interval_seconds
                kept, proof = interval_seconds if wished is None else wished, runtime.proof
        yield OwnedPod(pod, own.epoch, kept, proof)

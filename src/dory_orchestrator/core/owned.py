"""Which pods own their processors, and what is asked of their state."""

from collections.abc import Iterator
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
    desired: Desired, observed: Observation, interval_seconds: float
) -> Iterator[OwnedPod]:
    """The owners among the observed pods of this fleet. `interval_seconds` is for templates
    that say nothing else; of one that cannot be read it counts, too: its pod runs on."""
    blueprints = Blueprints()
    for pod in observed.pods.values():
        if pod.processor_id is None or pod.fleet_id != desired.fleet_id:
            continue
        own = desired.ownership.get(pod.processor_id)
        config = desired.configs.get(pod.processor_id)
        if own is None or own.pod_uid != pod.uid or config is None:
            continue
        try:
            runtime = blueprints.of(config).runtime
        except NotDefined:
            yield OwnedPod(pod, own.epoch, interval_seconds, ())
            continue
        wished = runtime.checkpoint_interval_seconds
        yield OwnedPod(
            pod, own.epoch, interval_seconds if wished is None else wished, runtime.proof
        )

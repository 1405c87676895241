"""`compute` alone, over fleets of growing size: a steady one, and one in which much happens."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from benchmarks.standin import running
from benchmarks.world import World, make_world
from dory_orchestrator.core.cycle import CRASH_LOOP
from dory_orchestrator.core.model import (
    Desired,
    Limits,
    Observation,
    Ownership,
    Pod,
    PodPhase,
    ProcessorConfig,
    Snapshot,
)
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.specify import HASH_SCHEME, Blueprints, specify

_NOW = 1_800_000_000.0
_AGE_SECONDS = 86_400.0
_FLEET_ID = str(UUID(int=7))
_LIMITS = Limits()
_RUNS_OF = 20_000
"""A smaller fleet is computed several times a round."""
# Of a thousand processors so many are: to be created for the first time, created again,
# changed, failed just now, waiting for the next try; and so many pods are not desired.
_NEW, _LOST, _CHANGED, _FAILED, _WAITING, _UNDESIRED = 5, 5, 10, 5, 5, 1


@dataclass(slots=True)
class Computed:
    """How long `compute` takes over one snapshot: of each round the median of its runs."""

    size: int
    snapshot: Snapshot
    runs: int
    actions: int = 0
    rounds: list[float] = field(default_factory=list)

    @property
    def nodes(self) -> int:
        return len(self.snapshot.observed.nodes)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def microseconds_each(self) -> float:
        """Per processor, the median."""
        return self.median / self.size * 1e6

    def growth_from(self, smaller: "Computed") -> float:
        """Cost of a processor by that in the smaller fleet: the median of the rounds, since
        what slows down a round of the machine slows down both."""
        pairs = zip(self.rounds, smaller.rounds, strict=True)
        return statistics.median(own / less for own, less in pairs) * smaller.size / self.size

    def run(self) -> None:
        """One round."""
        seconds = []
        for _ in range(self.runs):
            began_at = time.perf_counter()
            plan = compute(self.snapshot, _LIMITS)
            seconds.append(time.perf_counter() - began_at)
            self.actions = len(plan.actions)
            del plan
        self.rounds.append(statistics.median(seconds))


def measure(sizes: Sequence[int], rounds: int, *, steady: bool) -> list[Computed]:
    """All sizes take turns, after a round that warms up."""
    fleets = [
        Computed(size, make_snapshot(make_world(size), steady=steady), max(1, _RUNS_OF // size))
        for size in sizes
    ]
    for _ in range(rounds + 1):
        for one in fleets:
            one.run()
    for one in fleets:
        del one.rounds[0]
        if steady and one.actions:
            raise AssertionError(f"a steady fleet needs {one.actions} actions")
    return fleets


def make_snapshot(world: World, *, steady: bool) -> Snapshot:
    """Every processor with its running pod; or a share of them in trouble."""
    builder = _Builder(world)
    for number, config in enumerate(world.configs.values()):
        builder.add(config, 500 if steady else number % 1_000)
    if not steady:
        builder.take_out_rows()
    desired = Desired(
        now=_NOW,
        fleet_id=_FLEET_ID,
        configs=builder.configs,
        edge_nodes=world.edge_nodes,
        links=builder.links,
        ownership=builder.ownership,
    )
    observed = Observation(world.nodes, builder.pods)
    most = {"all": len(builder.configs)}
    return Snapshot(desired=desired, observed=observed, desired_most=most)


class _Builder:
    """Pods and ownership as production makes them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._blueprints = Blueprints()
        self._application_nodes = [n for n in world.nodes if n.startswith("application")]
        self._undesired: list[UUID] = []
        self.configs = dict(world.configs)
        self.links = dict(world.links)
        self.pods: dict[str, Pod] = {}
        self.ownership: dict[UUID, Ownership] = {}

    def add(self, config: ProcessorConfig, place: int) -> None:
        """`place` of a thousand says what is the matter with it."""
        key = config.processor_id
        pod = self._pod(config)
        own = Ownership(1, pod.uid, pod.name, pod.ip, pod.node_name, True, namespace=pod.namespace)
        for count, change in (
            (_NEW, self._new),
            (_LOST, self._lost),
            (_CHANGED, self._changed),
            (_FAILED, self._failed),
            (_WAITING, self._waiting),
            (_UNDESIRED, self._not_desired),
        ):
            if place < count:
                change(key, pod, own)
                return
            place -= count
        self._put(key, pod, own)

    def take_out_rows(self) -> None:
        """What is not desired has no row any more."""
        for key in self._undesired:
            del self.configs[key]

    def _pod(self, config: ProcessorConfig) -> Pod:
        blueprint = self._blueprints.of(config)
        home = self.links.get(config.processor_id)
        number = len(self.pods)
        spec = specify(
            config,
            blueprint,
            config_hash=self._blueprints.change_hash(config, blueprint),
            fleet_id=_FLEET_ID,
            namespace="default",
            epoch=1,
            home=None if home is None else self._world.edge_nodes[home].name,
            preferred=self._application_nodes[number // 2 % len(self._application_nodes)],
            before=None,
        )
        return running(spec, str(UUID(int=number)), _NOW - _AGE_SECONDS, number)

    def _put(self, key: UUID, pod: Pod, own: Ownership) -> None:
        self.pods[pod.uid] = pod
        self.ownership[key] = own

    def _new(self, key: UUID, _pod: Pod, _own: Ownership) -> None:
        """Nobody has linked it to a node yet, if it is for the edge."""
        self.links.pop(key, None)

    def _lost(self, key: UUID, _pod: Pod, own: Ownership) -> None:
        self.ownership[key] = own

    def _changed(self, key: UUID, pod: Pod, own: Ownership) -> None:
        self._put(key, replace(pod, config_hash=HASH_SCHEME + "0" * 32), own)

    def _failed(self, key: UUID, pod: Pod, own: Ownership) -> None:
        failed = replace(pod, ready=False, waiting_reason=CRASH_LOOP, exit_code=1, restart_count=3)
        self._put(key, failed, own)

    def _waiting(self, key: UUID, pod: Pod, own: Ownership) -> None:
        failed = replace(pod, ready=False, phase=PodPhase.FAILED, exit_code=137)
        waits = replace(
            own, ready=False, failures=3, failed_pod_uid=pod.uid, retry_at=_NOW + 60, exit_code=137
        )
        self._put(key, failed, waits)

    def _not_desired(self, key: UUID, pod: Pod, own: Ownership) -> None:
        self._undesired.append(key)
        self._put(key, pod, own)

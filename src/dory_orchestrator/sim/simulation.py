"""A fleet, its faults, and the promises: joined, and run to a quiet end."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from uuid import UUID

from dory_orchestrator.core.directive import decide
from dory_orchestrator.core.model import (
    Directive,
    EdgeNodeRow,
    Limits,
    MoveKind,
    Node,
    ProcessorConfig,
    Resources,
    Taint,
    TaintEffect,
    TemplateVersion,
)
from dory_orchestrator.core.plan import EndMove, MoveStart
from dory_orchestrator.sim.cluster import BEAT_SECONDS, Cluster, Machine, Process
from dory_orchestrator.sim.database import Database, Moved
from dory_orchestrator.sim.ground import Broken, Fault, Ground, Line, Promise
from dory_orchestrator.sim.orchestrator import Orchestrator

LIMITS = Limits()
_ORGANIZATION = UUID(int=0xA)
_MIB = 1024 * 1024
_LEAST_TROUBLE_SECONDS = 25.0
_LATELY_SECONDS = 15.0
_LOSS_TOLERATED_SECONDS = 3.0
_LATE_SECONDS = 1.0
_QUIET_SECONDS_MAX = 4 * 3600.0
_SETTLED_SECONDS = 30.0

_RUNTIME = json.dumps(
    {
        "resources": {"cpu_request": "100m", "memory_request": "64Mi"},
        "orchestrator": {"proof": ["/count"]},
    }
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is simulated. `fault_seconds` is the mean time between two faults, while there are
    any: the first `hours`."""

    nodes: int = 8
    processors: int = 16
    seed: int = 1
    scenario: str = "random"
    hours: float = 1.0
    limits: Limits = LIMITS
    compares: bool = True
    stores_gaps: bool = True
    keeps_links: bool = False
    fault_seconds: float = 20.0
    keeps_lines: int | None = None
    """How many lines of the timeline are kept; None: all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    setup: Setup
    broken: Broken | None
    lines: list[Line]
    faults: Mapping[Fault, int]
    checks: Mapping[Promise, int]
    moves: list[Moved]
    simulated_seconds: float
    cycles: int

    @property
    def is_kept(self) -> bool:
        """Whether every promise was kept."""
        return self.broken is None


@dataclass
class Simulation:
    """The world at one moment; `run` lets it pass."""

    setup: Setup
    ground: Ground = field(init=False)
    database: Database = field(init=False)
    cluster: Cluster = field(init=False)
    orchestrators: list[Orchestrator] = field(init=False)
    removed: dict[UUID, ProcessorConfig] = field(default_factory=dict)
    api_outages: int = 0
    disturbed_at: float = -1e9
    """When checkpoints last could not be taken as usual, as far as all are concerned."""
    lost_at: dict[UUID, float] = field(default_factory=dict)
    missed_since: dict[str, float] = field(default_factory=dict)
    """Since when the pods of a well node could not be asked for their state, by uid."""
    heard_at: dict[str, float] = field(default_factory=dict)
    """When the last heartbeat of a node was recorded, by its name."""
    old: dict[str, Process] = field(default_factory=dict)
    deaf: list[tuple[float, float]] = field(default_factory=list)
    """Times in which nobody recorded beats; `deaf_since` is when the present one began."""
    deaf_since: float | None = None
    stalled: list[tuple[float, float]] = field(default_factory=list)
    """Times in which a leader's picture of the cluster stood still."""
    trouble_at: dict[str, float] = field(default_factory=dict)
    """When the trouble began for which a pod was left, by its uid."""
    beats_lost_share: float = 0.0
    is_over: bool = False

    def __post_init__(self) -> None:
        setup = self.setup
        ground = self.ground = Ground(setup.seed, setup.keeps_lines)
        database = self.database = Database(ground)
        database.compares, database.stores_gaps = setup.compares, setup.stores_gaps
        cluster = self.cluster = Cluster(ground)
        self.orchestrators = [
            Orchestrator(name, ground, database, cluster, setup.limits, self._move_ended)
            for name in ("one", "two")
        ]
        database.keeps_links = setup.keeps_links
        database.on_move = self._move_begins
        database.is_living = lambda uid: uid in cluster.processes
        cluster.on_change = self._changed
        cluster.on_started = self._started
        cluster.on_ready = self._ready
        cluster.unseen_seconds_since = self._unseen_seconds_since
        self._settle_nodes()
        self._desire()

    # The fleet

    def _settle_nodes(self) -> None:
        taint = Taint("edge-node", "true", TaintEffect.NO_SCHEDULE)
        ids = [UUID(int=0x1000 + number) for number in range(self.setup.nodes)]
        for number, key in enumerate(ids):
            name = f"edge-{number + 1}"
            allocatable = Resources(16_000, 64_000 * _MIB)
            labels = {"node-type": "edge"}
            node = Node(name, ready=True, labels=labels, taints=(taint,), allocatable=allocatable)
            self.cluster.add(node, key)
            target = ids[(number + 1) % len(ids)] if number % 4 == 3 and len(ids) > 2 else None
            self.database.edge_nodes[key] = EdgeNodeRow(
                key, _ORGANIZATION, name, "online", failover_target_node_id=target
            )
        for number in range(max(2, self.setup.nodes // 5)):
            labels = {"workload-type": "application"}
            self.cluster.add(
                Node(
                    f"cloud-{number + 1}",
                    ready=True,
                    labels=labels,
                    allocatable=Resources(200_000, 800_000 * _MIB),
                ),
                None,
            )

    def _desire(self) -> None:
        names = list(self.database.edge_nodes)
        for number in range(self.setup.processors):
            is_edge = number % 8 != 7
            config = ProcessorConfig(
                processor_id=UUID(int=0x2000_0000 + number),
                organization_id=_ORGANIZATION,
                name=f"p{number}",
                node_type="edge" if is_edge else "managed",
                namespace=None,
                status="running",
                template_slug=f"camera-{number % 2}",
                versions=(_version(number % 2, 1),),
                sensor_id=None,
                sensor_config=None,
                sensor_location=None,
            )
            self.database.configs[config.processor_id] = config
            if is_edge:
                self.database.links[config.processor_id] = names[number % len(names)]

    def _changed(self) -> None:
        for orchestrator in self.orchestrators:
            orchestrator.changed()

    def wake(self) -> None:
        """The database tells of a change."""
        for orchestrator in self.orchestrators:
            orchestrator.wake()

    # Pods

    def _started(self, process: Process) -> None:
        self.old[process.uid] = process
        twins = [
            other.uid
            for other in self.cluster.running.get(process.processor_id, ())
            if other is not process and other.epoch == process.epoch
        ]
        self.ground.check(
            Promise.ONE_OWNER,
            not twins,
            f"{process.name}: {process.uid} and {twins} run in epoch {process.epoch}",
        )

    def _ready(self, process: Process) -> None:
        self.ground.after(self.ground.between(0.1, BEAT_SECONDS), self._beat, process)
        self.ground.after(self.ground.between(0.2, 1.2), self._visit, process)

    @property
    def hears(self) -> bool:
        """Whether anybody records beats."""
        return (
            self.database.is_up
            and self.api_outages == 0
            and any(one.is_running for one in self.orchestrators)
        )

    def hearing_changed(self) -> None:
        """Have the canary notice."""
        now = self.ground.now
        if self.hears:
            self.database.hears()
            if self.deaf_since is not None:
                self.deaf.append((self.deaf_since, now))
            self.deaf_since = None
        else:
            self.database.deafened()
            self.deaf_since = now if self.deaf_since is None else self.deaf_since

    def _beat(self, process: Process) -> None:
        if process.ended_at is not None:
            return
        ground = self.ground
        ground.after(BEAT_SECONDS + ground.between(-0.2, 0.2), self._beat, process)
        if not process.node.beats_arrive or not self.hears:
            return
        if self.beats_lost_share and ground.random.random() < self.beats_lost_share:
            ground.fault(Fault.BEAT_LOST, process.uid, notable=False)
            return
        key, name = process.processor_id, process.node.name
        facts = self.database.beat(key, name)
        self.heard_at[name] = ground.now
        directive, reason = decide(facts, name)
        if directive is not Directive.SHUTDOWN:
            ground.checks[Promise.NO_FALSE_SHUTDOWN] += 1
            return
        own = self.database.ownership.get(key)
        is_desired = key in self.database.configs or key in self.database.vanished
        ground.check(
            Promise.NO_FALSE_SHUTDOWN,
            not (is_desired and own is not None and own.pod_uid == process.uid),
            f"{process.name} on {name}: {reason}",
        )
        ground.tell("shutdown", f"{process.name} on {name} is told to end: {reason}")
        ground.after(ground.between(0.1, 1.0), self.cluster.shut_down, process)

    def _visit(self, process: Process) -> None:
        if process.ended_at is not None:
            return
        ground = self.ground
        again = 2.0
        leading = [one for one in self.orchestrators if one.is_running and one.lease is not None]
        if self.beats_lost_share and ground.random.random() < self.beats_lost_share:
            ground.fault(Fault.CHECKPOINT_LOST, process.uid, notable=False)
            self.lost_at[process.processor_id] = ground.now
        elif leading and not leading[0].visit(process):
            again = BEAT_SECONDS
            self.missed_since.pop(process.uid, None)
        elif leading and not process.node.is_impaired:
            if not process.node.is_asked:
                self.missed_since.setdefault(process.uid, ground.now)
            if not self._is_known(process):
                # Its leader does not know yet that it runs: its picture stalls, or an answer
                # was lost.
                self.lost_at[process.processor_id] = ground.now
        ground.after(again, self._visit, process)

    def _is_known(self, process: Process) -> bool:
        """Whether this very life has been visited before."""
        life = self.database.incarnations.get(process.processor_id)
        return life is not None and (life.pod_uid, life.restart_count) == (
            process.uid,
            process.restart_count,
        )

    # Promises about moves

    def _move_begins(self, key: UUID, start: MoveStart) -> None:
        brake, now = self.database.brake, self.ground.database_now
        is_held = brake.engaged_at is not None and (brake.override_until or 0.0) <= now
        self.ground.check(
            Promise.BRAKE_HOLDS, not is_held, f"{key} leaves {start.from_node} nevertheless"
        )
        if start.kind is not MoveKind.FAILOVER or start.old_uid is None:
            # What runs nowhere cannot be moved wrongly.
            return
        machine = self.cluster.machines[start.from_node]
        if machine.impaired_since is not None:
            self.trouble_at[start.old_uid] = machine.impaired_since
        self.ground.check(
            Promise.NO_FALSE_MOVE,
            self._is_in_trouble(machine),
            f"{key} leaves {machine.name}, in trouble since {machine.impaired_since}"
            f" until {machine.impaired_until}, now {self.ground.now:.1f}",
        )

    def _is_in_trouble(self, machine: Machine) -> bool:
        now = self.ground.now
        # That it is well again nobody can know until its next beat is heard, or until it is seen.
        lately = _LATELY_SECONDS + self._unseen_seconds_since(machine.impaired_until)
        if machine.impaired_since is None or machine.impaired_until < now - lately:
            return False
        return machine.impaired_since <= now - _LEAST_TROUBLE_SECONDS

    def _unseen_seconds_since(self, at: float) -> float:
        """For how long since then nobody can have known that a node is well."""
        now = self.ground.now
        deaf = (now if self.deaf_since is None else self.deaf_since, now)
        times = [*self.deaf, deaf, *self.stalled]
        return sum(max(0.0, min(ended_at, now) - max(began_at, at)) for began_at, ended_at in times)

    def _move_ended(self, key: UUID, end: EndMove) -> None:
        moved = self.database.ended[-1]
        new = self.cluster.processes.get(end.pod.uid)
        old = self.old.get(moved.old_uid or "")
        if end.rpo_seconds is None or new is None or old is None:
            return
        trouble_at = self.trouble_at.get(old.uid)
        ended_at = old.ended_at if old.ended_at is not None else self.ground.now
        if moved.kind is MoveKind.FAILOVER and trouble_at is not None:
            ended_at = min(ended_at, max(trouble_at, old.since))
        loss = old.count_at(ended_at) - new.count - _LOSS_TOLERATED_SECONDS
        over = loss - end.rpo_seconds
        lost_at = max(self.disturbed_at, self.lost_at.get(key, -1e9))
        lived_on = moved.lived_on and moved.kind is MoveKind.FAILOVER
        # What nobody can know is not held against it: see docs/simulator.md.
        if lost_at < ended_at - 5 * BEAT_SECONDS and not lived_on and not self._hid_a_miss(old):
            self.ground.check(
                Promise.STATED_LOSS,
                over <= 0,
                f"{key}: lost {loss:.1f} s, stated {end.rpo_seconds:.1f} s",
            )

    def _hid_a_miss(self, old: Process) -> bool:
        """Whether its end came between a failed question for its state and the next heartbeat,
        so that the failure looks like the end."""
        missed_since = self.missed_since.get(old.uid)
        if missed_since is None:
            return False
        return self.heard_at.get(old.node.name, -1e9) <= missed_since + _LATE_SECONDS

    # The run

    def run(self, faults: Callable[["Simulation"], None]) -> Outcome:
        """Start, let the faults come, and wait until all is well again."""
        broken = None
        try:
            self.database.deafened()
            for orchestrator in self.orchestrators:
                orchestrator.start()
            self.hearing_changed()
            self.ground.run_until(60.0)
            faults(self)
            self.ground.run_until(60.0 + self.setup.hours * 3600.0)
            self._end_faults()
            self._wait_until_settled()
        except Broken as error:
            broken = error
        return Outcome(
            self.setup,
            broken,
            list(self.ground.lines),
            self.ground.faults,
            self.ground.checks,
            self.database.ended,
            self.ground.now,
            sum(one.computed for one in self.orchestrators),
        )

    def _end_faults(self) -> None:
        self.is_over = True
        self.beats_lost_share = 0.0
        for orchestrator in self.orchestrators:
            orchestrator.call_faults = 0.0
        self.ground.tell("quiet", "no more faults")

    def _wait_until_settled(self) -> None:
        end, well_since = self.ground.now + _QUIET_SECONDS_MAX, None
        wrong = self._wrong()
        while self.ground.now < end:
            self.ground.run_until(self.ground.now + 10.0)
            wrong = self._wrong()
            if wrong is not None:
                well_since = None
            elif well_since is None:
                well_since = self.ground.now
            elif self.ground.now - well_since >= _SETTLED_SECONDS:
                break
        self.ground.check(Promise.RUNS_ONCE, wrong is None, wrong or "")

    def _wrong(self) -> str | None:
        database, cluster = self.database, self.cluster
        if database.moves:
            return f"{len(database.moves)} moves have not ended"
        for key in database.configs:
            living, own = cluster.running.get(key, []), database.ownership.get(key)
            if len(living) != 1 or own is None:
                return f"{key}: {len(living)} run"
            one = living[0]
            if (own.pod_uid, own.epoch) != (one.uid, one.epoch) and own.pod_uid != one.uid:
                return f"{key}: {one.uid} runs, {own.pod_uid} owns"
            if one.ready_at is None or not own.ready:
                return f"{key}: is not ready"
            link = database.links.get(key)
            if key in database.homes and link is None:
                return f"{key}: on {one.node.name}, and not at home"
            if link is not None and database.edge_nodes[link].name != one.node.name:
                return f"{key}: on {one.node.name}, and belongs elsewhere"
        for key, processes in cluster.running.items():
            if processes and key not in database.configs:
                return f"{key}: runs undesired"
        for pod in cluster.pods.values():
            if pod.uid not in cluster.processes:
                return f"{pod.name}: is left over"
        return None

    def count_losses(self) -> None:
        """Checkpoints of all are disturbed until now."""
        self.disturbed_at = self.ground.now


@cache
def _version(template: int, number: int) -> TemplateVersion:
    return TemplateVersion(
        UUID(int=0x3000_0000 + template * 1_000_000 + number),
        str(number),
        f"registry/camera-{template}:{number}",
        None,
        _RUNTIME,
    )


def change_template(simulation: Simulation, template: int, number: int) -> None:
    """Another version is active."""
    database = simulation.database
    version = _version(template, number)
    for rows in (database.configs, database.vanished, simulation.removed):
        for key, config in rows.items():
            if config.template_slug == f"camera-{template}":
                rows[key] = replace(config, versions=(version,))
    simulation.wake()

"""The cluster: what it shows of nodes and pods, and what truly runs on them.

A node that is cut off goes on with what it runs, also with pods that the cluster has forgotten.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID

from dory_orchestrator.core.checkpoint import Document, sha256_of
from dory_orchestrator.core.model import (
    CONFIG_HASH_ANNOTATION,
    EPOCH_ANNOTATION,
    FLEET_ANNOTATION,
    Node,
    Observation,
    Pod,
    PodPhase,
    PodSpec,
    Taint,
    TaintEffect,
    Toleration,
)
from dory_orchestrator.sim.database import count_of, payload_of
from dory_orchestrator.sim.ground import Ground

LEASE_SECONDS = 40.0
"""After so long without its kubelet a node is no longer Ready."""
BEAT_SECONDS = 10.0
_HEALED_SECONDS = 15.0
_RESCHEDULE_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class Process:
    """A container that runs, and counts seconds. `epoch` is what it was told at its creation."""

    uid: str
    name: str
    processor_id: UUID
    epoch: int
    node: "Machine"
    restart_count: int
    count: float
    since: float
    ready_at: float | None = None
    ended_at: float | None = None

    def count_at(self, now: float) -> float:
        """What it has counted."""
        end = now if self.ended_at is None else min(now, self.ended_at)
        return self.count + max(0.0, end - self.since)


@dataclass(eq=False, slots=True)
class Machine:
    """A node as it truly is. The counts are those of the troubles that last."""

    name: str
    edge_node_id: UUID | None
    downs: int = 0
    cuts: int = 0
    mutes: int = 0
    unasked: int = 0
    lease: int = 0
    processes: dict[str, Process] = field(default_factory=dict)
    impaired_since: float | None = None
    impaired_until: float = -1e9
    answers_at: list[float] = field(default_factory=lambda: [-1e9])
    answers: list[bool] = field(default_factory=lambda: [True])

    @property
    def is_up(self) -> bool:
        """It has power."""
        return self.downs == 0

    @property
    def is_connected(self) -> bool:
        """Its kubelet and the cluster hear one another."""
        return self.downs == 0 and self.cuts == 0

    @property
    def beats_arrive(self) -> bool:
        """What its pods send reaches us."""
        return self.downs == 0 and self.cuts == 0 and self.mutes == 0

    @property
    def is_asked(self) -> bool:
        """We reach its pods."""
        return self.downs == 0 and self.cuts == 0 and self.unasked == 0

    @property
    def is_impaired(self) -> bool:
        """So that it may be held dead."""
        return self.downs > 0 or self.cuts > 0 or self.mutes > 0

    def changed(self, now: float, unseen_seconds_since: Callable[[float], float]) -> None:
        """Remember what became of it. That it was well for a moment, or for as long as nobody
        could know, ends no trouble."""
        if self.is_impaired:
            if self.impaired_since is None or (
                self.impaired_until < 1e9
                and now - self.impaired_until - unseen_seconds_since(self.impaired_until)
                > _HEALED_SECONDS
            ):
                self.impaired_since = now
            self.impaired_until = 1e9
        elif self.impaired_until >= 1e9:
            self.impaired_until = now
        if self.answers[-1] != self.is_asked:
            self.answers_at.append(now)
            self.answers.append(self.is_asked)

    def answered_at(self, moment: float) -> bool:
        """Whether it could be asked then."""
        return self.answers[bisect_right(self.answers_at, moment) - 1]


class Cluster:
    """Nodes, pods, and the documents that the client library keeps."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.machines: dict[str, Machine] = {}
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, Pod] = {}
        self.specs: dict[str, PodSpec] = {}
        self.processes: dict[str, Process] = {}
        self.running: dict[UUID, list[Process]] = {}
        self.documents: dict[UUID, Document] = {}
        self.last_counts: dict[str, tuple[float, float]] = {}
        """Of processes that ended, by uid: when, and what they had counted."""
        self.created = 0
        self.on_change: Callable[[], None] = lambda: None
        self.on_started: Callable[[Process], None] = lambda _process: None
        self.on_ready: Callable[[Process], None] = lambda _process: None
        self.unseen_seconds_since: Callable[[float], float] = lambda _at: 0.0
        """For how long since then nobody can have known how a node is."""

    def add(self, node: Node, edge_node_id: UUID | None) -> None:
        """A node joins."""
        self.nodes[node.name] = node
        self.machines[node.name] = Machine(node.name, edge_node_id)

    def picture(self) -> Observation:
        """What the cluster shows."""
        return Observation(dict(self.nodes), dict(self.pods))

    # Nodes

    def trouble(self, machine: Machine, what: str, seconds: float) -> None:
        """Begin a trouble that lasts: `downs`, `cuts`, `mutes` or `unasked`."""
        was_connected, was_up = machine.is_connected, machine.is_up
        setattr(machine, what, getattr(machine, what) + 1)
        machine.changed(self.ground.now, self.unseen_seconds_since)
        if was_up and not machine.is_up:
            for process in list(machine.processes.values()):
                self._end(process)
        if was_connected and not machine.is_connected:
            machine.lease += 1
            self.ground.after(
                LEASE_SECONDS + self.ground.between(-4, 4), self._lease_ends, machine, machine.lease
            )
        self.ground.after(seconds, self._heal, machine, what)

    def _heal(self, machine: Machine, what: str) -> None:
        was_connected = machine.is_connected
        setattr(machine, what, getattr(machine, what) - 1)
        machine.changed(self.ground.now, self.unseen_seconds_since)
        if machine.is_connected and not was_connected:
            machine.lease += 1
            self.ground.after(
                self.ground.between(0.5, 5.0), self._reconnect, machine, machine.lease
            )

    def _lease_ends(self, machine: Machine, lease: int) -> None:
        if machine.lease != lease or not self.nodes[machine.name].ready:
            return
        self._set_ready(machine, False)
        for uid, pod in self.pods.items():
            if pod.node_name == machine.name and pod.ready:
                self.pods[uid] = replace(pod, ready=False, ready_changed_at=self.ground.cluster_now)
        self.on_change()

    def _set_ready(self, machine: Machine, ready: bool) -> None:
        node = self.nodes[machine.name]
        self.nodes[machine.name] = replace(
            node, ready=ready, ready_changed_at=self.ground.cluster_now
        )
        self.ground.tell("node", f"{machine.name} is {'' if ready else 'not '}Ready")

    def _reconnect(self, machine: Machine, lease: int) -> None:
        """The kubelet and the cluster agree again."""
        if machine.lease != lease:
            return
        if not self.nodes[machine.name].ready:
            self._set_ready(machine, True)
        for process in list(machine.processes.values()):
            if process.uid not in self.pods:
                self.ground.after(self.ground.between(0.5, 15.0), self.shut_down, process)
        for uid, pod in list(self.pods.items()):
            if pod.node_name != machine.name:
                continue
            running = machine.processes.get(uid)
            if pod.terminating:
                self._end_gracefully(pod)
            elif running is None:
                self.ground.after(self.ground.between(0.5, 4.0), self._start, uid)
            else:
                self._show(running)
        self.ground.after(0.1, self._schedule_all)
        self.on_change()

    # What we ask of it

    def create(self, spec: PodSpec) -> Pod | None:
        """Create a pod; None when one of its name is there already."""
        if any(pod.name == spec.name for pod in self.pods.values()):
            return None
        self.created += 1
        pod = Pod(
            uid=f"uid-{self.created}",
            namespace=spec.namespace,
            name=spec.name,
            processor_id=spec.processor_id,
            phase=PodPhase.PENDING,
            created_at=self.ground.cluster_now,
            fleet_id=spec.annotations[FLEET_ANNOTATION],
            epoch=int(spec.annotations[EPOCH_ANNOTATION]),
            config_hash=spec.annotations[CONFIG_HASH_ANNOTATION],
            requests=spec.requests,
            labels=spec.labels,
        )
        self.pods[pod.uid], self.specs[pod.uid] = pod, spec
        self.ground.after(self.ground.between(0.05, 0.4), self._schedule, pod.uid)
        self.on_change()
        return pod

    def delete(self, uid: str, *, force: bool) -> None:
        """End a pod."""
        pod = self.pods.get(uid)
        if pod is None:
            return
        if force or pod.node_name is None:
            self._vanish(uid)
            process = self.processes.get(uid)
            if process is not None and process.node.is_connected:
                self.ground.after(0.5, self._end_forgotten, process)
        elif not pod.terminating:
            self.pods[uid] = replace(pod, terminating=True, ready=False)
            self._end_gracefully(pod)
        self.on_change()

    def _end_gracefully(self, pod: Pod) -> None:
        machine = self.machines[pod.node_name or ""]
        if machine.is_connected:
            self.ground.after(self.ground.between(0.1, 3.0), self._ended, pod.uid)

    def _ended(self, uid: str) -> None:
        pod = self.pods.get(uid)
        if pod is None or not self.machines[pod.node_name or ""].is_connected:
            return
        process = self.processes.get(uid)
        if process is not None:
            self._save(process)
            self._end(process)
        self._vanish(uid)
        self.on_change()

    def _end_forgotten(self, process: Process) -> None:
        if process.ended_at is None and process.node.is_connected:
            self._end(process)

    def _vanish(self, uid: str) -> None:
        self.pods.pop(uid, None)
        self.specs.pop(uid, None)
        self.ground.after(0.1, self._schedule_all)

    # What it does by itself

    def _schedule_all(self) -> None:
        for uid, pod in list(self.pods.items()):
            if pod.node_name is None:
                self._schedule(uid)

    def _schedule(self, uid: str) -> None:
        pod, spec = self.pods.get(uid), self.specs.get(uid)
        if pod is None or spec is None or pod.node_name is not None:
            return
        fitting = [node.name for node in self.nodes.values() if self._takes(node, spec)]
        if not fitting:
            return
        name = spec.preferred_node_name if spec.preferred_node_name in fitting else fitting[0]
        self.pods[uid] = replace(pod, node_name=name)
        self.ground.after(self.ground.between(0.5, 6.0), self._start, uid)
        self.on_change()

    def _takes(self, node: Node, spec: PodSpec) -> bool:
        if not node.ready or spec.node_name not in (None, node.name):
            return False
        if any(node.labels.get(key) != value for key, value in spec.node_selector.items()):
            return False
        if any(not _is_tolerated(taint, spec.tolerations) for taint in node.taints):
            return False
        here = [pod for pod in self.pods.values() if pod.node_name == node.name]
        used = sum(pod.requests.cpu_millicores for pod in here)
        return (
            len(here) < node.pods_max
            and used + spec.requests.cpu_millicores <= node.allocatable.cpu_millicores
        )

    def _start(self, uid: str) -> None:
        """A container starts: from the document, if there is one."""
        pod = self.pods.get(uid)
        if pod is None or pod.terminating or pod.node_name is None or uid in self.processes:
            return
        machine = self.machines[pod.node_name]
        if not machine.is_connected or pod.processor_id is None:
            return
        found = self.documents.get(pod.processor_id)
        has_run = pod.started_at is not None or pod.exit_code is not None
        restarts = pod.restart_count + has_run
        now = self.ground.now
        process = Process(
            uid,
            pod.name,
            pod.processor_id,
            pod.epoch or 0,
            machine,
            restarts,
            0.0 if found is None else count_of(found.payload),
            now,
        )
        machine.processes[uid] = self.processes[uid] = process
        self.running.setdefault(process.processor_id, []).append(process)
        self.pods[uid] = replace(
            pod,
            phase=PodPhase.RUNNING,
            started_at=self.ground.cluster_now,
            restart_count=restarts,
            ready=False,
            waiting_reason=None,
            ip=f"10.0.{machine.name}.{uid}",
            address=uid,
        )
        self.ground.after(self.ground.between(1.0, 5.0), self._become_ready, process)
        self.on_started(process)
        self.on_change()

    def _become_ready(self, process: Process) -> None:
        if process.ended_at is not None:
            return
        process.ready_at = self.ground.cluster_now
        if process.node.is_connected:
            self._show(process)
        self.on_ready(process)
        self.on_change()

    def _show(self, process: Process) -> None:
        pod = self.pods.get(process.uid)
        if pod is None or pod.terminating:
            return
        self.pods[process.uid] = replace(
            pod,
            phase=PodPhase.RUNNING,
            ready=process.ready_at is not None,
            ready_changed_at=self.ground.cluster_now,
            restart_count=process.restart_count,
        )

    def crash(self, process: Process, *, loops: bool) -> None:
        """It ends without saving, and is started again, or is given up for a while."""
        self._end(process)
        pod = self.pods.get(process.uid)
        if pod is None:
            return
        if process.node.is_connected:
            self.pods[process.uid] = replace(
                pod,
                ready=False,
                ready_changed_at=self.ground.cluster_now,
                # Nothing runs: it is not expected to be heard.
                started_at=None,
                waiting_reason="CrashLoopBackOff" if loops else None,
                exit_code=1,
                exit_reason="Error",
            )
        if not loops:
            self.ground.after(self.ground.between(1.0, 8.0), self._start, process.uid)
        self.on_change()

    def shut_down(self, process: Process) -> None:
        """It saves and ends. What the cluster still knows is started again."""
        if process.ended_at is not None or not process.node.is_up:
            return
        if process.node.is_connected:
            self._save(process)
        self._end(process)
        if process.uid in self.pods:
            self.ground.after(self.ground.between(1.0, 8.0), self._start, process.uid)
        self.on_change()

    def _save(self, process: Process) -> None:
        if process.ready_at is None:
            return
        payload = payload_of(process.count_at(self.ground.now))
        self.documents[process.processor_id] = Document(
            payload, sha256_of(payload), process.name, self.ground.cluster_now
        )

    def _end(self, process: Process) -> None:
        now = self.ground.now
        process.ended_at = now
        self.last_counts[process.uid] = (now, process.count_at(now))
        process.node.processes.pop(process.uid, None)
        self.processes.pop(process.uid, None)
        self.running[process.processor_id].remove(process)


def _is_tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    return taint.effect is TaintEffect.PREFER_NO_SCHEDULE or any(
        (each.effect is None or each.effect is taint.effect)
        and (each.key == taint.key or (each.key == "" and each.operator == "Exists"))
        and (each.operator == "Exists" or each.value == taint.value)
        for each in tolerations
    )

"""A model of what the decisions meet: a database and a cluster in memory, without a clock.

`World` carries a plan out as the store and the loops do: a grant compares the epoch, the pod
appears later, or never, or twice. Whoever writes a test chooses what happens in between.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid5

from dory_orchestrator.core import guard
from dory_orchestrator.core.brake import BrakeRecord
from dory_orchestrator.core.model import (
    CONFIG_HASH_ANNOTATION,
    EPOCH_ANNOTATION,
    FLEET_ANNOTATION,
    MANAGED_BY,
    Desired,
    EdgeNodeRow,
    GuardRecord,
    Limits,
    Move,
    MoveKind,
    Node,
    Observation,
    Ownership,
    Pod,
    PodPhase,
    PodSpec,
    ProcessorConfig,
    Resources,
    Snapshot,
    Taint,
    TaintEffect,
    TemplateVersion,
    Toleration,
)
from dory_orchestrator.core.node_health import NodeRecord
from dory_orchestrator.core.plan import (
    Adopt,
    CancelMove,
    Create,
    Delete,
    EndMove,
    Failure,
    Forget,
    MoveStart,
    Plan,
    Reason,
    Record,
)
from dory_orchestrator.core.reconcile import compute, refused
from dory_orchestrator.core.specify import Blueprints, label_value

FLEET = "00000000-0000-0000-0000-00000000f1ee"
ORGANIZATION = UUID(int=0xA)
SPACE = UUID(int=0xB)
START = 1_000_000.0
LIMITS = Limits()
MIB = 1024 * 1024


# The nouns, with what matters in a test ----------------------------------------------------


def an_id(name: object) -> UUID:
    return uuid5(SPACE, str(name))


def a_version(text: str = "1", **changes: Any) -> TemplateVersion:
    """`runtime` is the content of `runtime_config_template`."""
    runtime = changes.pop("runtime", {})
    said = {
        "image_uri": f"registry:5000/camera:{text}",
        "digest": None,
        "runtime_config_template": runtime if isinstance(runtime, str) else json.dumps(runtime),
    }
    return TemplateVersion(id=an_id(f"version {text}"), version=text, **(said | changes))


V1, V2, V3 = a_version("1"), a_version("2"), a_version("3")


def a_processor(name: object, **changes: Any) -> ProcessorConfig:
    said: dict[str, Any] = {
        "processor_id": an_id(name),
        "organization_id": ORGANIZATION,
        "name": str(name),
        "node_type": "managed",
        "namespace": None,
        "status": "pending",
        "template_slug": "camera",
        "versions": (V1,),
        "sensor_id": None,
        "sensor_config": None,
        "sensor_location": None,
    }
    return ProcessorConfig(**(said | changes))


def processors(count: int, **changes: Any) -> dict[UUID, ProcessorConfig]:
    made = (a_processor(number, **changes) for number in range(count))
    return {config.processor_id: config for config in made}


def a_node(name: str, kind: str = "workload-type=application", **changes: Any) -> Node:
    key, value = kind.split("=")
    said: dict[str, Any] = {
        "ready": True,
        "labels": {key: value},
        "allocatable": Resources(4000, 8192 * MIB, 0),
    }
    return Node(name, **(said | changes))


def an_edge_node(name: str, **changes: Any) -> Node:
    taint = Taint("edge-node", "true", TaintEffect.NO_SCHEDULE)
    return a_node(name, "node-type=edge", **({"taints": (taint,)} | changes))


def an_edge_row(name: str, **changes: Any) -> EdgeNodeRow:
    said: dict[str, Any] = {"organization_id": ORGANIZATION, "status": "online"}
    return EdgeNodeRow(an_id(name), name=name, **(said | changes))


def hash_of(config: ProcessorConfig) -> str:
    """The change hash of what its rows say now."""
    blueprints = Blueprints()
    return blueprints.change_hash(config, blueprints.of(config))


def a_pod(config: ProcessorConfig, epoch: int | None = 1, **changes: Any) -> Pod:
    """A pod of this processor that runs and is ready, made as its rows say now."""
    uid = f"{config.processor_id}-{epoch}"
    said: dict[str, Any] = {
        "uid": uid,
        "namespace": config.namespace or LIMITS.namespace,
        "name": f"pod-{uid}",
        "processor_id": config.processor_id,
        "phase": PodPhase.RUNNING,
        "created_at": START - 86_400.0,
        "fleet_id": FLEET,
        "epoch": epoch,
        "config_hash": hash_of(config) if len(config.versions) == 1 else None,
        "node_name": "cloud-1",
        "ip": "10.0.0.1",
        "ready": True,
        "labels": labels_of(config),
    }
    return Pod(**(said | changes))


def labels_of(config: ProcessorConfig) -> dict[str, str]:
    labels = {"managed-by": MANAGED_BY, "processor-id": str(config.processor_id)}
    if config.template_slug is not None:
        labels["app"] = label_value(config.template_slug)
    if config.organization_id is not None:
        labels["dory.io/organization-id"] = str(config.organization_id)
    return labels


def owned_by(pod: Pod, **changes: Any) -> Ownership:
    """The ownership of the pod as the store has it once it is recorded."""
    said: dict[str, Any] = {
        "epoch": pod.epoch or 1,
        "pod_uid": pod.uid,
        "pod_name": pod.name,
        "pod_ip": pod.ip,
        "namespace": pod.namespace,
        "node_name": pod.node_name,
        "ready": pod.ready,
    }
    return Ownership(**(said | changes))


def a_snapshot(
    configs: Mapping[UUID, ProcessorConfig] | Iterable[ProcessorConfig],
    pods: Iterable[Pod] = (),
    *,
    ownership: Mapping[UUID, Ownership] | None = None,
    nodes: Iterable[Node] = (a_node("cloud-1"),),
    now: float = START,
    edge_nodes: Iterable[EdgeNodeRow] = (),
    links: Mapping[UUID, UUID] | None = None,
    guard: GuardRecord | None = None,
    acting: Iterable[UUID] = (),
    desired_most: Mapping[str, int] | None = None,
    looked_up: Mapping[str, Pod | None] | None = None,
) -> Snapshot:
    """Without `ownership`, each pod owns its processor."""
    pods = list(pods)
    if not isinstance(configs, Mapping):
        configs = {config.processor_id: config for config in configs}
    if ownership is None:
        ownership = {pod.processor_id: owned_by(pod) for pod in pods if pod.processor_id}
    return Snapshot(
        desired=Desired(
            now=now,
            fleet_id=FLEET,
            configs=configs,
            edge_nodes={row.id: row for row in edge_nodes},
            links=links or {},
            ownership=ownership,
            guard=guard or GuardRecord(),
        ),
        observed=Observation({node.name: node for node in nodes}, {pod.uid: pod for pod in pods}),
        acting=frozenset(acting),
        desired_most=desired_most or {},
        looked_up=looked_up,
    )


# The world ---------------------------------------------------------------------------------


@dataclass(eq=False)
class Work:
    """A granted call that a leader makes of the cluster. `acts`: the leader still waits for it."""

    action: Create | Delete
    leader: int
    failures: int
    acts: bool = True


@dataclass
class World:
    """Everything there is. Its parts may be changed at will between the steps."""

    configs: dict[UUID, ProcessorConfig] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    edge_nodes: dict[UUID, EdgeNodeRow] = field(default_factory=dict)
    links: dict[UUID, UUID] = field(default_factory=dict)
    homes: dict[UUID, UUID] = field(default_factory=dict)
    ownership: dict[UUID, Ownership] = field(default_factory=dict)
    moves: dict[UUID, Move] = field(default_factory=dict)
    node_records: dict[str, NodeRecord] = field(default_factory=dict)
    brake: BrakeRecord = field(default_factory=BrakeRecord)
    guard: GuardRecord = field(default_factory=GuardRecord)
    held_counts: dict[str, int] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    specs: dict[str, PodSpec] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)
    broken_images: set[str] = field(default_factory=set)
    """Pods with these images crash instead of becoming ready."""
    limits: Limits = LIMITS
    now: float = START
    leader: int = 1
    most: dict[str, int] = field(default_factory=dict)
    seen: list[Observation] = field(default_factory=list)
    """Former pictures of the cluster, the newest last."""
    created: int = 0
    lost: set[str] = field(default_factory=set)
    """Pods, by uid, that stood on a node when it went away."""

    # What we do

    def snapshot(self, stale: int = 0) -> Snapshot:
        """What is known: the rows as they are, the cluster as it was `stale` pictures ago."""
        observed = self.seen[-stale] if 0 < stale <= len(self.seen) else self.picture()
        return Snapshot(
            desired=Desired(
                now=self.now,
                fleet_id=FLEET,
                configs=dict(self.configs),
                edge_nodes=dict(self.edge_nodes),
                links=dict(self.links),
                homes={k: home for k, home in self.homes.items() if k not in self.links},
                ownership=dict(self.ownership),
                moves=dict(self.moves),
                node_records=dict(self.node_records),
                brake=self.brake,
                guard=self.guard,
            ),
            observed=observed,
            acting=frozenset(self.acting()),
            desired_most=dict(self.most),
            restored=frozenset(uid for uid, pod in self.pods.items() if pod.ready),
        )

    def picture(self) -> Observation:
        return Observation(dict(self.nodes), dict(self.pods))

    def acting(self) -> set[UUID]:
        return {
            work.action.processor_id
            for work in self.work
            if work.acts and work.leader == self.leader
        }

    def take_picture(self) -> None:
        self.seen = [*self.seen[-4:], self.picture()]

    def compute(self, stale: int = 0) -> tuple[Snapshot, Plan]:
        snapshot = self.snapshot(stale)
        plan = compute(snapshot, self.limits)
        self.most = guard.most((self.most, plan.desired_counts))
        return snapshot, plan

    def carry_out(self, plan: Plan, lost: frozenset[int] = frozenset()) -> None:
        """Ask the store for every action; those whose number is in `lost` are not asked for."""
        self.node_records = {key: verdict.record for key, verdict in plan.nodes.items()}
        if plan.brake is not None:
            self.brake = plan.brake.record
        for record in plan.records:
            self.record(record)
        for number, action in enumerate(plan.actions):
            if number not in lost and self.grant(action) and isinstance(action, Create | Delete):
                own = self.ownership.get(action.processor_id)
                self.work.append(Work(action, self.leader, own.failures if own else 0))
        self._hold(plan)

    def _hold(self, plan: Plan) -> None:
        if plan.guard.holds:
            since = self.now if self.guard.held_since is None else self.guard.held_since
            self.guard = replace(self.guard, held_since=since)
            self.held_counts = {group: left for group, (_, left) in plan.guard.tripped.items()}
        else:
            self.guard = replace(self.guard, held_since=None)
            self.held_counts = {}

    def confirm(self) -> None:
        """An operator accepts what the guard holds, beside what was accepted lately."""
        at = self.guard.confirmed_at
        is_valid = at is not None and self.now - at <= self.limits.guard_confirmation_seconds
        before = self.guard.confirmed if is_valid else {}
        if self.held_counts:
            confirmed = {**before, **self.held_counts}
            self.guard = replace(self.guard, confirmed_at=self.now, confirmed=confirmed)

    # What the store does (queries.sql)

    def grant(
        self, action: Create | Delete | Adopt | Failure | Forget | EndMove | CancelMove
    ) -> bool:
        own = self.ownership.get(action.processor_id)
        match action:
            case Create():
                return self._grant_creation(action, own)
            case Delete():
                return self._grant_deletion(action, own)
            case Adopt():
                if own is None:
                    self.ownership[action.processor_id] = Ownership(
                        action.epoch, action.pod.uid, node_name=action.pod.node_name
                    )
                return own is None
            case Failure():
                return self._grant_failure(action, own)
            case Forget():
                if own is None or own.epoch != action.epoch or action.processor_id in self.configs:
                    return False
                self.ownership[action.processor_id] = own.forgotten()
                self.links.pop(action.processor_id, None)
                self.moves.pop(action.processor_id, None)
                return True
            case EndMove():
                if own is None or own.epoch != action.epoch:
                    return False
                return self.moves.pop(action.processor_id, None) is not None
            case CancelMove():
                return self._grant_cancelling(action, own)

    def _grant_cancelling(self, action: CancelMove, own: Ownership | None) -> bool:
        key, pod = action.processor_id, action.pod
        if own is None or own.epoch != action.before_epoch:
            return False
        self.ownership[key] = replace(
            own, epoch=action.epoch, pod_uid=pod.uid, pod_name=pod.name, node_name=pod.node_name
        )
        if action.kind is MoveKind.FAILOVER:
            if key in self.homes:
                self.links.setdefault(key, self.homes.pop(key))
        elif self.links.get(key) == action.edge_node_id:
            self.homes[key] = self.links.pop(key)
        self.moves.pop(key, None)
        return True

    def _begin_move(self, key: UUID, start: MoveStart) -> None:
        before = self.moves.get(key)
        if before is not None and before.kind is MoveKind.FAILBACK:
            home = self.links.pop(key, before.edge_node_id)
            if home is not None:
                self.homes[key] = home
        self.moves[key] = Move(
            kind=start.kind,
            from_node=start.from_node,
            old_uid=start.old_uid,
            edge_node_id=start.edge_node_id,
            began_at=self.now,
            last_alive_at=start.last_alive_at,
            suspect_at=start.suspect_at,
        )
        if start.kind is MoveKind.FAILBACK:
            self.links.setdefault(key, self.homes.pop(key))
        elif start.kind is MoveKind.DEPARTURE and start.edge_node_id is not None:
            self.homes[key] = start.edge_node_id
        elif start.edge_node_id is not None and self.links.get(key) == start.edge_node_id:
            self.homes[key] = self.links.pop(key)

    def _grant_creation(self, action: Create, own: Ownership | None) -> bool:
        before = own.epoch if own is not None else 0
        if action.processor_id not in self.configs or before != action.epoch - 1:
            return False
        self.ownership[action.processor_id] = (own or Ownership(0)).granted(
            action.epoch, action.choice.node_name or action.spec.node_name
        )
        if action.edge_node_id is not None:
            self.links.setdefault(action.processor_id, action.edge_node_id)
        if action.move is not None:
            self._begin_move(action.processor_id, action.move)
        return True

    def _grant_deletion(self, action: Delete, own: Ownership | None) -> bool:
        if action.reason is Reason.NOT_DESIRED and action.processor_id in self.configs:
            return False
        if (own.epoch if own is not None else 0) != action.epoch:
            return False
        if action.move is not None:
            self._begin_move(action.processor_id, action.move)
        if own is not None and own.pod_uid == action.pod.uid:
            own = replace(own, ready=False)
            if action.reason is not Reason.FAILED:
                own = replace(own, exit_code=None, restart_reason=str(action.reason))
            self.ownership[action.processor_id] = own
        return True

    def _grant_failure(self, action: Failure, own: Ownership | None) -> bool:
        if own is None or own.epoch != action.epoch:
            return False
        pod = action.pod
        self.ownership[action.processor_id] = replace(
            own,
            failures=action.failures,
            failed_pod_uid=action.failed_uid,
            ready=False,
            retry_at=self.now + action.retry_seconds,
            exit_code=pod.exit_code if pod else None,
            restart_reason=action.cause,
            changed_at=self.now,
        )
        return True

    def record(self, record: Record) -> None:
        own = self.ownership.get(record.processor_id)
        if own is None or own.epoch != record.epoch:
            return
        if own.pod_uid != record.pod.uid:
            own = replace(own, exit_code=None, restart_reason=None)
        self.ownership[record.processor_id] = replace(
            own,
            pod_uid=record.pod.uid,
            pod_name=record.pod.name,
            pod_ip=record.pod.ip,
            namespace=record.pod.namespace,
            node_name=record.pod.node_name or own.node_name,
            ready=record.pod.ready,
            changed_at=self.now,
        )

    # What becomes of a call of the cluster

    def finish(self, work: Work, how: str = "done") -> None:
        """`done`, `unheard` (done, but the answer is lost), `lost`, `refused`; `late`: nobody
        waits any more, and it is still to come; `twice`: done, and to come once more."""
        if how == "late":
            work.acts = False
            return
        self.work.remove(work)
        if how == "lost":
            return
        if how == "twice":
            self.work.append(replace(work, acts=False))
        if isinstance(work.action, Delete):
            self.end(work.action.pod.uid, force=work.action.force)
            return
        pod = None if how == "refused" else self.place(work.action.spec)
        heard = work.acts and work.leader == self.leader
        if pod is not None and heard and how != "unheard":
            self.record(Record(work.action.processor_id, work.action.epoch, pod))
        elif pod is None and heard:
            self.grant(refused(work.action, "the cluster says no", work.failures, self.limits))

    def place(self, spec: PodSpec) -> Pod | None:
        """Create a pod; None when one of its name is there already."""
        if any((p.namespace, p.name) == (spec.namespace, spec.name) for p in self.pods.values()):
            return None
        self.created += 1
        pod = Pod(
            uid=f"uid-{self.created}",
            namespace=spec.namespace,
            name=spec.name,
            processor_id=spec.processor_id,
            phase=PodPhase.PENDING,
            created_at=self.now,
            fleet_id=spec.annotations[FLEET_ANNOTATION],
            epoch=int(spec.annotations[EPOCH_ANNOTATION]),
            config_hash=spec.annotations[CONFIG_HASH_ANNOTATION],
            requests=spec.requests,
            labels=spec.labels,
        )
        self.pods[pod.uid], self.specs[pod.uid] = pod, spec
        return pod

    # What the cluster does by itself

    def end(self, uid: str, *, force: bool = False) -> None:
        """Somebody asks for the end of a pod."""
        pod = self.pods.get(uid)
        if pod is not None and (force or pod.node_name is None):
            self.vanish(uid)
        elif pod is not None:
            self.pods[uid] = replace(pod, terminating=True, ready=False)

    def vanish(self, uid: str) -> None:
        del self.pods[uid]
        self.specs.pop(uid, None)

    def end_terminating(self) -> None:
        for pod in list(self.pods.values()):
            node = self.nodes.get(pod.node_name or "")
            if pod.terminating and (node is None or node.ready):
                self.vanish(pod.uid)

    def schedule(self) -> None:
        """Give places to pods that have none: the preferred node, else the first that fits."""
        for uid, spec in self.specs.items():
            pod = self.pods[uid]
            if pod.node_name is not None:
                continue
            fitting = [node for node in self.nodes.values() if self._takes(node, spec)]
            fitting.sort(key=lambda node: (node.name != spec.preferred_node_name, node.name))
            if fitting:
                self.pods[uid] = replace(
                    pod, node_name=fitting[0].name, phase=PodPhase.RUNNING, ip=f"10.0.0.{uid[4:]}"
                )

    def _takes(self, node: Node, spec: PodSpec) -> bool:
        if not node.ready or node.unschedulable or spec.node_name not in (None, node.name):
            return False
        if any(node.labels.get(key) != value for key, value in spec.node_selector.items()):
            return False
        if any(not _is_tolerated(taint, spec.tolerations) for taint in node.taints):
            return False
        used, has = asked_of(self.pods.values(), node.name), node.allocatable
        return (
            used["pods"] + 1 <= node.pods_max
            and used["cpu"] + spec.requests.cpu_millicores <= has.cpu_millicores
            and used["memory"] + spec.requests.memory_bytes <= has.memory_bytes
            and used["gpu"] + spec.requests.gpu_count <= has.gpu_count
        )

    def start(self) -> None:
        """Pods that have a place become ready, or crash."""
        for uid, spec in self.specs.items():
            pod = self.pods[uid]
            if pod.node_name is None or pod.terminating or not self._is_up(pod):
                continue
            if spec.image in self.broken_images:
                self.crash(uid)
            elif pod.phase is PodPhase.RUNNING and pod.waiting_reason is None:
                self.pods[uid] = replace(pod, ready=True)

    def _is_up(self, pod: Pod) -> bool:
        node = self.nodes.get(pod.node_name or "")
        return node is not None and node.ready

    def crash(self, uid: str, exit_code: int = 1) -> None:
        self.pods[uid] = replace(
            self.pods[uid],
            ready=False,
            waiting_reason="CrashLoopBackOff",
            exit_code=exit_code,
            exit_reason="Error",
        )

    def evict(self, uid: str) -> None:
        self.pods[uid] = replace(self.pods[uid], ready=False, phase=PodPhase.FAILED)

    def set_node(self, name: str, *, ready: bool) -> None:
        if self.nodes[name].ready != ready:
            self.nodes[name] = replace(self.nodes[name], ready=ready, ready_changed_at=self.now)
        if not ready:
            for uid, pod in self.pods.items():
                if pod.node_name == name:
                    self.lost.add(uid)
                    self.pods[uid] = replace(pod, ready=False)

    # All of it, undisturbed

    def turn(self) -> Plan:
        """One cycle in which everything is carried out, and comes to its end."""
        _, plan = self.compute()
        self.carry_out(plan)
        while self.work:
            self.finish(self.work[0])
        self.schedule()
        self.end_terminating()
        return plan

    def settle(self, turns: int = 200) -> Plan:
        """Go on, and let time pass, until nothing is to be done any more."""
        plan = Plan()
        for _ in range(turns):
            before, busy = dict(self.pods), bool(self.work)
            plan = self.turn()
            self.start()
            if plan.actions or plan.records or busy or self.pods != before:
                self.now += 0.5
            elif plan.wake_at is None:
                return plan
            else:
                self.now = max(self.now, plan.wake_at)
        raise AssertionError(f"no end after {turns} turns: {plan.actions[:3]} {plan.findings}")


def _is_tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """As Kubernetes says it."""
    return taint.effect is TaintEffect.PREFER_NO_SCHEDULE or any(
        (t.effect is None or t.effect is taint.effect)
        and (t.key == taint.key or (t.key == "" and t.operator == "Exists"))
        and (t.operator == "Exists" or t.value == taint.value)
        for t in tolerations
    )


def asked_of(pods: Iterable[Pod], node_name: str) -> Counter[str]:
    """What the pods of a node ask for."""
    used: Counter[str] = Counter()
    for pod in pods:
        if pod.node_name == node_name and pod.phase not in (PodPhase.FAILED, PodPhase.SUCCEEDED):
            used["pods"] += 1
            used["cpu"] += pod.requests.cpu_millicores
            used["memory"] += pod.requests.memory_bytes
            used["gpu"] += pod.requests.gpu_count
    return used

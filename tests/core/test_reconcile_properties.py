"""What must hold whatever happens: scripts of mishaps, played in the model world."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.world import (
    FLEET,
    LIMITS,
    V1,
    V2,
    World,
    a_node,
    a_pod,
    a_processor,
    a_version,
    an_edge_node,
    an_edge_row,
    asked_of,
    hash_of,
)

from dory_orchestrator.core.model import Observation, Pod, ProcessorConfig, Snapshot
from dory_orchestrator.core.plan import Create, Plan, Reason
from dory_orchestrator.core.reconcile import compute

RUNTIME = {"resources": {"cpu_request": "500m", "memory_request": "1Gi"}}
SOUND = [a_version(text, runtime=RUNTIME) for text in ("1", "2", "3")]
BROKEN = [(), (V1, V2), (a_version("torn", runtime="{"),)]
NODES = (a_node("cloud-1"), a_node("cloud-2"), an_edge_node("edge-1"), an_edge_node("edge-2"))
ERRORS = {
    Reason.TEMPLATE_MISSING,
    Reason.NO_ACTIVE_VERSION,
    Reason.SEVERAL_ACTIVE_VERSIONS,
    Reason.CONFIG_UNREADABLE,
}


def strangers() -> dict[str, Pod]:
    config = a_processor("theirs")
    pods = [
        a_pod(config, uid="other-fleet", fleet_id="another", node_name=None),
        a_pod(config, uid="no-fleet", fleet_id=None, node_name=None),
        a_pod(a_processor(0), 7, uid="no-processor", processor_id=None, node_name=None),
    ]
    return {pod.uid: pod for pod in pods}


def a_world(count: int) -> World:
    configs = {}
    for number in range(count):
        config = a_processor(
            number,
            versions=(SOUND[0],),
            template_slug=("camera", "radar")[number % 2],
            node_type="edge" if number % 3 == 0 else "managed",
        )
        configs[config.processor_id] = config
    rows = [an_edge_row("edge-1"), an_edge_row("edge-2")]
    return World(
        configs=configs,
        nodes={node.name: node for node in NODES},
        edge_nodes={row.id: row for row in rows},
        pods=strangers(),
    )


# What may happen ---------------------------------------------------------------------------


def cycle(world: World, _number: int) -> None:
    watched(world)


def stale_cycle(world: World, number: int) -> None:
    watched(world, stale=1 + number % 4)


def lossy_cycle(world: World, number: int) -> None:
    watched(world, lost=frozenset(bit for bit in range(8) if number >> bit & 1))


def everything_done(world: World, _number: int) -> None:
    while world.work:
        world.finish(world.work[0])


def work_ends(how: str):
    def happens(world: World, number: int) -> None:
        if world.work:
            world.finish(world.work[number % len(world.work)], how)

    return happens


def to_a_pod(what):
    def happens(world: World, number: int) -> None:
        pods = [pod for pod in world.pods.values() if pod.fleet_id == FLEET and pod.processor_id]
        if pods:
            what(world, pods[number % len(pods)].uid)

    return happens


def crash(world: World, uid: str) -> None:
    if world.pods[uid].node_name is not None:
        world.crash(uid)


def kubelets(world: World, _number: int) -> None:
    world.schedule()
    world.start()
    world.end_terminating()


def node_down(world: World, number: int) -> None:
    world.set_node(NODES[number % len(NODES)].name, ready=False)


def node_up(world: World, number: int) -> None:
    world.set_node(NODES[number % len(NODES)].name, ready=True)


def another_leads(world: World, _number: int) -> None:
    world.leader += 1
    world.most = {}


def row_gone(world: World, number: int) -> None:
    if world.configs:
        del world.configs[sorted(world.configs)[number % len(world.configs)]]


def half_gone(world: World, _number: int) -> None:
    for processor_id in sorted(world.configs)[::2]:
        del world.configs[processor_id]


def row_added(world: World, number: int) -> None:
    config = a_processor(number % 16, versions=(SOUND[0],), template_slug="camera")
    world.configs.setdefault(config.processor_id, config)


def new_version(world: World, number: int) -> None:
    change_all(world, (SOUND[number % len(SOUND)],))


def template_broken(world: World, number: int) -> None:
    for processor_id in sorted(world.configs)[number % 3 :: 3]:
        config = replace(world.configs[processor_id], versions=BROKEN[number % len(BROKEN)])
        world.configs[processor_id] = config


def bad_image(world: World, number: int) -> None:
    world.broken_images = {SOUND[number % len(SOUND)].image_uri}


def time_passes(world: World, number: int) -> None:
    world.now += (0.5, 5.0, 60.0, 700.0)[number % 4]


def change_all(world: World, versions) -> None:
    world.configs = {k: replace(c, versions=versions) for k, c in world.configs.items()}


HAPPENS = {
    "cycle": cycle,
    "cycle on an old picture": stale_cycle,
    "cycle whose grants are lost": lossy_cycle,
    "everything done": everything_done,
    "done": work_ends("done"),
    "unheard": work_ends("unheard"),
    "lost": work_ends("lost"),
    "late": work_ends("late"),
    "twice": work_ends("twice"),
    "refused": work_ends("refused"),
    "kubelets": kubelets,
    "crash": to_a_pod(crash),
    "eviction": to_a_pod(World.evict),
    "pod vanishes": to_a_pod(World.vanish),
    "somebody deletes a pod": to_a_pod(World.end),
    "node down": node_down,
    "node up": node_up,
    "another leads": another_leads,
    "row gone": row_gone,
    "half gone": half_gone,
    "row added": row_added,
    "new version": new_version,
    "template broken": template_broken,
    "bad image": bad_image,
    "time passes": time_passes,
    "confirmed": lambda world, _number: world.confirm(),
}
# Mishaps count where something goes on between them.
MOSTLY = ["cycle", "kubelets", "everything done"] * 4
BLIND = {"cycle on an old picture", "late", "twice", "another leads"}
"""After these the cluster is not as the leader thinks."""


def scripts(happens: Iterable[str], least: int, most: int):
    one = st.tuples(st.sampled_from(sorted(happens) + MOSTLY), st.integers(0, 255))
    return st.lists(one, min_size=least, max_size=most)


SCRIPTS = scripts(HAPPENS, 0, 30)
LONG_SCRIPTS = scripts(HAPPENS, 30, 80)
EXAMPLES = settings(max_examples=60)


# What must hold ----------------------------------------------------------------------------


def watched(world: World, stale: int = 0, lost: frozenset[int] = frozenset()) -> Plan:
    """A cycle, its plan looked at."""
    snapshot, plan = world.compute(stale)
    check_plan(world, snapshot, plan)
    world.carry_out(plan, lost)
    return plan


def check_plan(world: World, snapshot: Snapshot, plan: Plan) -> None:
    assert all(action.reason and action.detail for action in plan.actions)
    assert compute(turned_around(snapshot), LIMITS) == plan
    assert plan.findings.keys() >= snapshot.desired.configs.keys()
    assert {pod.uid for pod in plan.strangers} == strangers().keys()
    check_who_is_touched(snapshot, plan)
    check_rollout(snapshot, plan)
    check_removals(snapshot, plan)
    check_capacity(world, snapshot, plan)


def turned_around(snapshot: Snapshot) -> Snapshot:
    """The same, in another order."""

    def back(mapping):
        return dict(reversed(mapping.items()))

    desired, observed = snapshot.desired, snapshot.observed
    return replace(
        snapshot,
        desired=replace(
            desired,
            configs=back(desired.configs),
            edge_nodes=back(desired.edge_nodes),
            links=back(desired.links),
            homes=back(desired.homes),
            ownership=back(desired.ownership),
            moves=back(desired.moves),
            node_records=back(desired.node_records),
        ),
        observed=Observation(back(observed.nodes), back(observed.pods)),
    )


def check_who_is_touched(snapshot: Snapshot, plan: Plan) -> None:
    present = {pod.processor_id for pod in snapshot.observed.pods.values() if pod.fleet_id == FLEET}
    placed = Counter(create.processor_id for create in plan.creates)
    assert all(count == 1 for count in placed.values())
    moving = {create.processor_id for create in plan.creates if create.move is not None}
    assert not (placed.keys() - moving) & present
    assert placed.keys() <= snapshot.desired.configs.keys()
    for create in plan.creates:
        own = snapshot.desired.ownership.get(create.processor_id)
        assert create.before_epoch == (own.epoch if own else 0) == create.epoch - 1
        assert create.spec.annotations["dory.io/epoch"] == str(create.epoch)
    for delete in plan.deletes:
        assert delete.pod.fleet_id == FLEET
        assert delete.force or not delete.pod.terminating
        # By force goes only what a dead node would never end, once another has its place.
        if delete.force:
            assert not snapshot.observed.nodes[delete.pod.node_name or ""].ready
            own = snapshot.desired.ownership[delete.processor_id]
            assert any(
                pod.uid != delete.pod.uid and pod.epoch == own.epoch and pod.node_name is not None
                for pod in snapshot.observed.pods.values()
                if pod.processor_id == delete.processor_id
            )
    touched = {action.processor_id for action in plan.actions}
    assert not touched & snapshot.acting
    in_error = {key for key, found in plan.findings.items() if found.reason in ERRORS}
    assert in_error == {
        key
        for key, config in snapshot.desired.configs.items()
        if not is_sound(config) and key not in snapshot.acting
    }
    assert not touched & in_error
    assert Reason.EPOCH_AHEAD not in {found.reason for found in plan.findings.values()}


def check_rollout(snapshot: Snapshot, plan: Plan) -> None:
    configs = snapshot.desired.configs
    sizes = Counter(config.template_slug for config in configs.values())
    changed = Counter(
        configs[delete.processor_id].template_slug
        for delete in plan.deletes
        if delete.reason is Reason.CHANGED
    )
    assert all(count <= max(1, sizes[slug] // 10) for slug, count in changed.items())


def check_removals(snapshot: Snapshot, plan: Plan) -> None:
    configs, record, now = snapshot.desired.configs, snapshot.desired.guard, snapshot.now
    removed = [delete for delete in plan.deletes if delete.reason is Reason.NOT_DESIRED]
    ours = [pod for pod in snapshot.observed.pods.values() if pod.fleet_id == FLEET]
    assert all(delete.processor_id not in configs for delete in removed)
    assert len(removed) <= max(5, len({pod.processor_id for pod in ours}) // 10)

    with_pod = {pod.processor_id for pod in ours} & configs.keys()
    undesired = [
        p for p in ours if p.processor_id not in configs and p.node_name and not p.terminating
    ]
    baseline = max(len(with_pod) + len(undesired), snapshot.desired_most.get("all", 0))
    left = len(configs)
    shrank = left == 0 or (left < baseline / 2 and baseline - left > 5)
    accepted = (
        record.confirmed_at is not None
        and now - record.confirmed_at <= 600
        and left >= record.confirmed.get("all", baseline)
    )
    if shrank and not accepted:
        assert all(delete.pod.node_name is None for delete in removed)


def check_capacity(world: World, snapshot: Snapshot, plan: Plan) -> None:
    """What we chose a node for fits there, beside all that is there or on its way."""
    of_node: dict[str, list[Pod]] = {}
    ownership = snapshot.desired.ownership
    pods = snapshot.observed.pods.values()
    for pod in pods:
        own = ownership.get(pod.processor_id) if pod.processor_id else None
        meant = own.node_name if own is not None and own.epoch == pod.epoch else None
        of_node.setdefault(pod.node_name or meant or "", []).append(pod)
    seen = {(pod.processor_id, pod.epoch) for pod in pods}
    for work in world.work:
        create = work.action
        if isinstance(create, Create) and work.acts and work.leader == world.leader:
            config = snapshot.desired.configs.get(create.processor_id)
            is_seen = (create.processor_id, create.epoch) in seen
            if config is not None and is_sound(config) and not is_seen:
                place = ownership[create.processor_id].node_name
                of_node.setdefault(place or "", []).append(pod_of(create))
    for create in plan.creates:
        of_node.setdefault(create.choice.node_name or "", []).append(pod_of(create))
    for name in {create.choice.node_name for create in plan.creates} - {None}:
        assert name is not None
        node = snapshot.observed.nodes[name]
        assert node.ready
        used = asked_of((replace(pod, node_name=name) for pod in of_node[name]), name)
        assert used["pods"] <= node.pods_max * 0.9
        assert used["cpu"] <= node.allocatable.cpu_millicores * 0.9
        assert used["memory"] <= node.allocatable.memory_bytes * 0.9


def is_sound(config: ProcessorConfig) -> bool:
    return config.versions in [(version,) for version in SOUND]


def pod_of(create: Create) -> Pod:
    return replace(a_pod(a_processor(0)), requests=create.spec.requests)


def check_world(world: World) -> None:
    owners = Counter(
        pod.processor_id
        for pod in world.pods.values()
        if pod.fleet_id == FLEET
        and not pod.terminating
        and pod.processor_id in world.ownership
        and pod.epoch == world.ownership[pod.processor_id].epoch
    )
    assert all(count == 1 for count in owners.values()), "two owners"
    assert strangers().items() <= world.pods.items()


def heal(world: World) -> None:
    world.broken_images = set()
    for name in world.nodes:
        world.set_node(name, ready=True)
    world.configs = {
        key: config if is_sound(config) else replace(config, versions=(SOUND[1],))
        for key, config in world.configs.items()
    }


def check_end(world: World) -> None:
    """Everything desired runs once, as it should; nothing else does; nobody asks for more."""
    ours = [pod for pod in world.pods.values() if pod.fleet_id == FLEET and pod.processor_id]
    assert sorted(pod.processor_id for pod in ours if pod.processor_id) == sorted(world.configs)
    for pod in ours:
        assert pod.processor_id is not None
        own = world.ownership[pod.processor_id]
        # A move that was cancelled leaves the pod its epoch, and the processor a higher one.
        assert (own.epoch >= (pod.epoch or 0), own.pod_uid, own.ready) == (True, pod.uid, True)
        assert pod.config_hash == hash_of(world.configs[pod.processor_id])
        assert pod.ready
    _, plan = world.compute()
    assert not plan.actions
    assert not plan.records
    assert {found.reason for found in plan.findings.values()} <= {Reason.RUNNING}
    check_world(world)


# The properties ----------------------------------------------------------------------------


def play(world: World, script: Iterable[tuple[str, int]]) -> None:
    for what, number in script:
        HAPPENS[what](world, number)
        check_world(world)
        world.take_picture()


def bring_to_its_end(world: World) -> None:
    heal(world)
    if world.settle().guard.holds:
        world.confirm()
        world.settle()


@EXAMPLES
@given(st.integers(0, 25), SCRIPTS)
def test_from_nothing_every_mishap_ends_with_one_pod_for_each(count, script):
    world = a_world(count)
    play(world, script)
    bring_to_its_end(world)
    check_end(world)


@EXAMPLES
@given(st.integers(1, 25), SCRIPTS)
def test_a_fleet_that_runs_comes_back_from_every_mishap(count, script):
    world = a_world(count)
    world.settle()
    check_end(world)
    play(world, script)
    bring_to_its_end(world)
    check_end(world)


@settings(max_examples=30)
@given(LONG_SCRIPTS)
def test_also_after_many_mishaps(script):
    world = a_world(20)
    world.settle()
    play(world, script)
    bring_to_its_end(world)
    check_end(world)


@EXAMPLES
@given(st.integers(1, 12), scripts(HAPPENS.keys() - BLIND, 0, 40))
def test_who_sees_the_cluster_as_it_is_never_runs_two_not_even_while_one_ends(count, script):
    world = a_world(count)
    for what, number in script:
        HAPPENS[what](world, number)
        pods = Counter(
            pod.processor_id
            for pod in world.pods.values()
            # What stood on a node when that went away may be replaced: it may run on unseen.
            if pod.fleet_id == FLEET and pod.uid not in world.lost
        )
        assert all(count == 1 for count in pods.values())


def test_who_was_placed_by_a_leader_before_finds_room_at_home():
    """Linked to an edge node, and its pod still to come when another leads."""
    world = a_world(25)
    play(world, [("template broken", 1), ("cycle", 0), ("another leads", 0)])
    bring_to_its_end(world)
    check_end(world)

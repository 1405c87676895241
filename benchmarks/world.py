"""A fleet as one finds it: templates, sensors, organizations, nodes, and processors on them.

From the same description come the values that `compute` gets and the rows of a database.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from dory_orchestrator.core.model import (
    EdgeNodeRow,
    Node,
    ProcessorConfig,
    Resources,
    Taint,
    TaintEffect,
    TemplateVersion,
)

TEMPLATES = 50
ORGANIZATIONS = 20
_PER_EDGE_NODE = 4
_PER_APPLICATION_NODE = 80
_SEED = 2
_EDGE_TAINT = Taint("edge-node", "true", TaintEffect.NO_SCHEDULE)
_BATCH_TAINT = Taint("batch", "true", TaintEffect.PREFER_NO_SCHEDULE)
_NODE_CREATED_AT = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Template:
    """A template and its one active version. Half of them read a sensor."""

    id: UUID
    slug: str
    version: TemplateVersion
    has_sensor: bool


@dataclass(slots=True)
class World:
    """Half of the processors on edge nodes, four on each; half managed, 80 on a node."""

    size: int
    templates: list[Template] = field(default_factory=list)
    configs: dict[UUID, ProcessorConfig] = field(default_factory=dict)
    template_of: dict[UUID, Template] = field(default_factory=dict)
    edge_nodes: dict[UUID, EdgeNodeRow] = field(default_factory=dict)
    links: dict[UUID, UUID] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)


class _Ids:
    """In no order, as in production, and the same each time."""

    def __init__(self) -> None:
        self._numbers = random.Random(_SEED)

    def new(self) -> UUID:
        return UUID(int=self._numbers.getrandbits(128), version=4)


def make_world(size: int) -> World:
    """The same world each time. `size` processors."""
    ids, world = _Ids(), World(size)
    organizations = [ids.new() for _ in range(ORGANIZATIONS)]
    world.templates = [_template(ids, number) for number in range(TEMPLATES)]
    _make_nodes(world, ids, organizations)
    homes = list(world.edge_nodes.values())
    for number in range(size):
        # In the order of ids edge and managed ones, templates and organizations are mixed.
        is_edge = number % 2 == 0
        home = homes[number // 2 // _PER_EDGE_NODE] if is_edge else None
        organization = organizations[number % ORGANIZATIONS] if home is None else None
        template = world.templates[number // 2 % TEMPLATES]
        config = _config(
            ids, number, template, home.organization_id if home is not None else organization, home
        )
        world.configs[config.processor_id] = config
        world.template_of[config.processor_id] = template
        if home is not None:
            world.links[config.processor_id] = home.id
    return world


def _template(ids: _Ids, number: int) -> Template:
    slug = f"video-analytics-{number:02}"
    version = TemplateVersion(
        id=ids.new(),
        version=f"1.{number}.3",
        image_uri=f"registry.example.com/processors/{slug}:1.{number}.3",
        digest=f"sha256:{number:064x}" if number % 2 else None,
        runtime_config_template=json.dumps(_runtime(number)),
    )
    return Template(ids.new(), slug, version, number % 2 == 0)


def _runtime(number: int) -> dict[str, object]:
    """As a platform's people write it."""
    return {
        "resources": {
            "cpu_request": "100m",
            "cpu_limit": "500m",
            "memory_request": "128Mi",
            "memory_limit": "512Mi",
        },
        "container": {"port": 8080, "command": ["python", "-m", "processor"], "args": ["--serve"]},
        "env_vars": {
            **{f"MODEL_{n}": f"s3://models/{number}/{n}.onnx" for n in range(6)},
            "DORY_SHUTDOWN_TIMEOUT_SEC": 30,
        },
        "health_probes": {"liveness": {"period_seconds": 10, "timeout_seconds": 3}},
        "orchestrator": {"priority": number % 5, "failback": "auto"},
    }


def _make_nodes(world: World, ids: _Ids, organizations: list[UUID]) -> None:
    for number in range(-(-world.size // 2 // _PER_EDGE_NODE)):
        name = f"edge-{number:05}.example.com"
        organization = organizations[number % ORGANIZATIONS]
        row = EdgeNodeRow(ids.new(), organization, name, "online")
        world.edge_nodes[row.id] = row
        world.nodes[name] = _node(name, {"node-type": "edge"}, (_EDGE_TAINT,), 4, 20)
    # A tenth more than what is needed, so that there is room for what comes.
    count = -(-world.size // 2 // _PER_APPLICATION_NODE) * 11 // 10 + 1
    for number in range(count):
        name = f"application-{number:04}.example.com"
        taints = (_BATCH_TAINT,) if number % 10 == 0 else ()
        world.nodes[name] = _node(name, {"workload-type": "application"}, taints, 32, 110)


def _node(
    name: str, role: dict[str, str], taints: tuple[Taint, ...], cores: int, pods_max: int
) -> Node:
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": "eu-central-1",
        "topology.kubernetes.io/zone": "eu-central-1a",
        **role,
    }
    return Node(
        name=name,
        ready=True,
        labels=labels,
        taints=taints,
        ready_changed_at=_NODE_CREATED_AT,
        allocatable=Resources(cores * 1000, cores * 2 * 2**30),
        pods_max=pods_max,
    )


def _config(
    ids: _Ids,
    number: int,
    template: Template,
    organization_id: UUID | None,
    home: EdgeNodeRow | None,
) -> ProcessorConfig:
    sensor_id = ids.new() if template.has_sensor else None
    return ProcessorConfig(
        processor_id=ids.new(),
        organization_id=organization_id,
        name=f"processor {number}",
        node_type="managed" if home is None else "edge",
        namespace="default",
        status="running",
        template_slug=template.slug,
        versions=(template.version,),
        sensor_id=sensor_id,
        sensor_config=None if sensor_id is None else json.dumps(_sensor_config(number)),
        sensor_location=None
        if sensor_id is None
        else f"({number % 360 - 180}.25,{number % 160 - 80}.5)",
    )


def _sensor_config(number: int) -> dict[str, object]:
    return {"rtsp_url": f"rtsp://10.0.0.1/cam/{number}", "fps": 25, "threshold": 0.5, "on": True}


def rows(world: World) -> Iterator[tuple[str, str, list[tuple[object, ...]]]]:
    """Table, columns and rows of everything that the platform would have written."""
    yield (
        "processor_templates",
        "id slug name",
        [(t.id, t.slug, t.slug.replace("-", " ")) for t in world.templates],
    )
    yield (
        "processor_template_versions",
        "id processor_template_id version image_uri digest is_active runtime_config_template",
        [_version_row(template) for template in world.templates],
    )
    yield (
        "edge_nodes",
        "id organization_id name",
        [(row.id, row.organization_id, row.name) for row in world.edge_nodes.values()],
    )
    yield "sensors", "id name location_point config", list(_sensor_rows(world))
    yield (
        "processors",
        "id organization_id name processor_template_id sensor_id node_type k8s_namespace status",
        [processor_row(config, world.template_of[key].id) for key, config in world.configs.items()],
    )
    yield (
        "edge_node_apps",
        "edge_node_id processor_id",
        [(node_id, key) for key, node_id in world.links.items()],
    )


def processor_row(config: ProcessorConfig, template_id: UUID) -> tuple[object, ...]:
    """A row of `processors`."""
    return (
        config.processor_id,
        config.organization_id,
        config.name,
        template_id,
        config.sensor_id,
        config.node_type,
        config.namespace,
        config.status,
    )


def _version_row(template: Template) -> tuple[object, ...]:
    version = template.version
    runtime = version.runtime_config_template
    said = (version.version, version.image_uri, version.digest)
    return (version.id, template.id, *said, True, runtime)


def _sensor_rows(world: World) -> Iterator[tuple[object, ...]]:
    for config in world.configs.values():
        if config.sensor_id is not None:
            assert config.sensor_location is not None
            x, y = config.sensor_location.strip("()").split(",")
            point = asyncpg.Point(float(x), float(y))
            yield config.sensor_id, f"of {config.name}", point, config.sensor_config

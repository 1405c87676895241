"""From what the rows say to a pod: its change hash, labels, environment, name.

Source: platform facts 5.3 (labels), 5.4 (environment), 5.6 (template), 12 (client library).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import msgspec

from dory_orchestrator.core.geohash import geohash
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    CONFIG_HASH_ANNOTATION,
    EDGE_NODE_SELECTOR,
    EPOCH_ANNOTATION,
    FLEET_ANNOTATION,
    MANAGED_BY,
    Ownership,
    PodSpec,
    ProcessorConfig,
    TaintEffect,
    TemplateVersion,
    Toleration,
)
from dory_orchestrator.core.plan import Reason
from dory_orchestrator.core.runtime_config import (
    RuntimeConfig,
    UnreadableConfig,
    canonical,
    digest,
    read,
)

HASH_SCHEME = "v1:"
ORGANIZATION_LABEL = "dory.io/organization-id"
ORIGINAL_NODE_ANNOTATION = "dory.io/original-edge-node"
EDGE = "edge"

_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_POINT = re.compile(r"\(([^,()]+),([^,()]+)\)")
_SENSOR_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_LENGTH_MAX = 63

# What the client library believes of itself by these is for the platform alone to say.
_RESERVED = frozenset(
    {
        "DORY_PROCESSOR_ID",
        "DORY_IS_MIGRATING",
        "DORY_MIGRATED_FROM",
        "DORY_MIGRATED_FROM_EDGE",
        "DORY_ORIGINAL_NODE",
        "PREVIOUS_EXIT_CODE",
        "RESTART_REASON",
    }
)

# We decide when a node is dead, not the taint manager: an edge pod waits for its node.
_NODE_LIFE = tuple(
    Toleration(f"node.kubernetes.io/{condition}", "Exists", "", effect)
    for condition in ("not-ready", "unreachable")
    for effect in (TaintEffect.NO_EXECUTE, TaintEffect.NO_SCHEDULE)
)
_EDGE_TOLERATIONS = (
    Toleration("edge-node", "Equal", "true", TaintEffect.NO_SCHEDULE),
    *_NODE_LIFE,
)


class NotDefined(Exception):
    """The rows do not say which pod is wanted. Concerns one processor alone."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What all pods of one template version share. `digest` is its part of the change hash."""

    version: TemplateVersion
    slug: str
    app: str
    runtime: RuntimeConfig
    digest: str


class Blueprints:
    """Blueprints by version, each made once: a fleet has few templates and many processors."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], tuple[TemplateVersion, Blueprint | NotDefined]] = {}

    def of(self, config: ProcessorConfig) -> Blueprint:
        """The blueprint of a processor. Raises NotDefined."""
        version = _version(config)
        slug = config.template_slug or ""
        # Processors share the object: to hash all that it says for each of them costs more than
        # the rest. It is kept with what was made of it, so that its id stays its own.
        known = self._made.get((slug, id(version)))
        if known is None:
            known = version, _blueprint(slug, version)
            self._made[slug, id(version)] = known
        made = known[1]
        if isinstance(made, NotDefined):
            # A new one each time: a raised one holds on to every place that it was raised at.
            raise NotDefined(made.reason, str(made))
        return made

    def change_hash(self, config: ProcessorConfig, blueprint: Blueprint) -> str:
        """Changes when the rows say something else of the pod: image, digest, version,
        template, sensor; never with our own settings, or where the pod is placed."""
        if config.sensor_id is None:
            return HASH_SCHEME + blueprint.digest
        return HASH_SCHEME + digest(
            blueprint.digest, config.sensor_id.bytes, config.sensor_config, config.sensor_location
        )


def _version(config: ProcessorConfig) -> TemplateVersion:
    if config.template_slug is None:
        raise NotDefined(Reason.TEMPLATE_MISSING, "its template is not in the database")
    if not config.versions:
        raise NotDefined(
            Reason.NO_ACTIVE_VERSION, f"template {config.template_slug!r} has no active version"
        )
    if len(config.versions) > 1:
        raise NotDefined(
            Reason.SEVERAL_ACTIVE_VERSIONS,
            f"template {config.template_slug!r} has {len(config.versions)} active versions: "
            + ", ".join(sorted(repr(version.version) for version in config.versions)),
        )
    return config.versions[0]


def _blueprint(slug: str, version: TemplateVersion) -> Blueprint | NotDefined:
    try:
        runtime = read(version.runtime_config_template)
    except UnreadableConfig as error:
        return NotDefined(
            Reason.CONFIG_UNREADABLE,
            f"runtime_config_template of {slug!r} version {version.version!r}: {error}",
        )
    said = digest(slug, version.image_uri, version.digest, version.version, runtime.canonical)
    return Blueprint(version, slug, label_value(slug), runtime, said)


def is_outdated(config_hash: str | None, wanted: str) -> bool:
    """A hash that is missing, or was made by rules that we do not know, says nothing: such a
    pod is taken as it is, and not restarted."""
    return config_hash is not None and config_hash.startswith(HASH_SCHEME) and config_hash != wanted


def label_value(text: str) -> str:
    """`text` if it may stand in a label, else a readable part of it and a hash."""
    if _LABEL.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40].strip("-")
    return f"{readable or 'x'}-{digest(text)[:12]}"


def namespace_of(config: ProcessorConfig, default: str) -> str:
    """The namespace of a processor's pod. Raises NotDefined when it cannot be one."""
    return checked_namespace(config.namespace or default)


def checked_namespace(name: str) -> str:
    """The name, if it can be one of a namespace. Raises NotDefined."""
    if not _NAMESPACE.fullmatch(name):
        raise NotDefined(Reason.CONFIG_UNREADABLE, f"k8s_namespace {name!r} is no DNS label")
    return name


def pod_name(slug: str, processor_id: UUID, epoch: int) -> str:
    """At most 63 characters, a DNS label, the same for the same epoch: to create it twice is
    refused by the cluster. Of the id both ends: those made in the same moment begin alike."""
    suffix = f"-{processor_id.hex[:8]}-{processor_id.hex[-12:]}-{epoch}"
    readable = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-") or "processor"
    return readable[: _NAME_LENGTH_MAX - len(suffix)].strip("-") + suffix


def specify(
    config: ProcessorConfig,
    blueprint: Blueprint,
    *,
    config_hash: str,
    fleet_id: str,
    namespace: str,
    epoch: int,
    home: str | None,
    preferred: str | None,
    before: Ownership | None,
    moved_from: str | None = None,
) -> PodSpec:
    """The pod of a processor. `home` binds it to a node, `preferred` is the scheduler's choice.

    `moved_from` is the edge node that an edge processor has failed over from: its pod keeps
    the location of the edge, and bears what tells the client library that it is not there
    (platform facts 7.2, 7.4).
    """
    runtime, version = blueprint.runtime, blueprint.version
    is_edge = config.node_type == EDGE and (moved_from is None or home is not None)
    return PodSpec(
        name=pod_name(blueprint.slug, config.processor_id, epoch),
        namespace=namespace,
        processor_id=config.processor_id,
        app=blueprint.app,
        labels=_labels(config, blueprint, moved_from),
        annotations={
            FLEET_ANNOTATION: fleet_id,
            EPOCH_ANNOTATION: str(epoch),
            CONFIG_HASH_ANNOTATION: config_hash,
            # The label cannot hold every name.
            **({} if moved_from is None else {ORIGINAL_NODE_ANNOTATION: moved_from}),
        },
        image=_image(version),
        image_pull_policy=runtime.image_pull_policy,
        command=runtime.command,
        args=runtime.args,
        port=runtime.port,
        environment=_environment(config, blueprint, before, is_edge=is_edge and moved_from is None),
        requests=runtime.requests,
        limits=runtime.limits,
        node_selector={
            **(EDGE_NODE_SELECTOR if is_edge else APPLICATION_NODE_SELECTOR),
            **runtime.node_selector,
        },
        node_name=home,
        preferred_node_name=preferred,
        tolerations=tolerations_of(blueprint, is_edge=is_edge),
        probes=runtime.probes,
        grace_seconds=runtime.grace_seconds,
        security_context=runtime.security_context,
    )


def continuing(spec: PodSpec, previous: Sequence[str]) -> PodSpec:
    """A pod that goes on from the state of another: the client library restores it whatever its
    restart count says (platform facts 12.5). `previous` begins with the pod that it was of."""
    said = {"DORY_IS_MIGRATING": "true"}
    if previous:
        said["DORY_MIGRATED_FROM"] = previous[0]
    return replace(spec, environment={**spec.environment, **said})


def tolerations_of(blueprint: Blueprint, *, is_edge: bool) -> tuple[Toleration, ...]:
    """The template's, and on edge nodes those that keep a pod on its node."""
    own = blueprint.runtime.tolerations
    return (*own, *_EDGE_TOLERATIONS) if is_edge else own


def _labels(
    config: ProcessorConfig, blueprint: Blueprint, moved_from: str | None
) -> dict[str, str]:
    labels = {
        "managed-by": MANAGED_BY,
        "app": blueprint.app,
        "processor-id": str(config.processor_id),
        "workload-location": "edge" if config.node_type == EDGE else "managed",
    }
    if config.organization_id is not None:
        labels[ORGANIZATION_LABEL] = str(config.organization_id)
    if moved_from is not None:
        labels["migrated-from-edge"] = "true"
        labels["original-workload-type"] = "edge"
        labels["original-edge-node"] = label_value(moved_from)
    return labels


def _image(version: TemplateVersion) -> str:
    """By digest when one is given: a tag may be moved."""
    if not version.digest:
        return version.image_uri
    name = version.image_uri.split("@", 1)[0]
    path, _, last = name.rpartition("/")
    return f"{path}{'/' if path else ''}{last.split(':', 1)[0]}@{version.digest}"


def _environment(
    config: ProcessorConfig, blueprint: Blueprint, before: Ownership | None, *, is_edge: bool
) -> dict[str, str]:
    """The template's variables, then the sensor's, then those that are the platform's: a
    template must not make a processor believe that it is another one."""
    said_by_rows = {**blueprint.runtime.environment, **_sensor_environment(config)}
    return {
        **{name: value for name, value in said_by_rows.items() if name not in _RESERVED},
        "PROCESSOR_ID": str(config.processor_id),
        "APP_NAME": blueprint.slug,
        "DORY_APP_VERSION": blueprint.version.version,
        # Of one that has failed over it must not say edge: the client library asks it first.
        "DORY_NODE_TYPE": "edge" if is_edge else "managed",
        # At 3 the client library throws its state away: our back-off is the crash-loop policy.
        "RESTART_COUNT": "0",
        **_previous_end(before),
    }


def _previous_end(before: Ownership | None) -> dict[str, str]:
    said = {}
    if before is not None and before.exit_code is not None:
        said["PREVIOUS_EXIT_CODE"] = str(before.exit_code)
    if before is not None and before.restart_reason is not None:
        said["RESTART_REASON"] = before.restart_reason
    return said


def _sensor_environment(config: ProcessorConfig) -> dict[str, str]:
    if config.sensor_id is None:
        return {}
    said = {"SENSOR_ID": str(config.sensor_id)}
    for key, value in _sensor_config(config).items():
        if not _SENSOR_KEY.fullmatch(key) or not isinstance(value, str | int | float | bool):
            continue
        text = value if isinstance(value, str) else canonical(value).decode()
        if "\0" not in text:
            said[key.upper()] = text
    place = _place(config.sensor_location)
    if place is not None:
        longitude, latitude = place
        said["DORY_LATITUDE"] = repr(latitude)
        said["DORY_LONGITUDE"] = repr(longitude)
        said["DORY_GEOHASH"] = geohash(latitude, longitude)
    return said


def _sensor_config(config: ProcessorConfig) -> Mapping[str, Any]:
    """Scalars at the top of `sensors.config` become variables; what is no object says nothing."""
    try:
        content = msgspec.json.decode(config.sensor_config or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _place(point: str | None) -> tuple[float, float] | None:
    """Longitude and latitude of PostgreSQL's `(x,y)`; None when it is no place on Earth."""
    match = _POINT.fullmatch(point or "")
    if match is None:
        return None
    try:
        longitude, latitude = float(match[1]), float(match[2])
    except ValueError:
        return None
    if not (math.isfinite(longitude) and abs(longitude) <= 180 and abs(latitude) <= 90):
        return None
    return longitude, latitude

"""The nouns that decisions are made of. All frozen."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Directive(StrEnum):
    """What a processor is told in answer to its heartbeat (reference: only these two exist)."""

    CONTINUE = "continue"
    SHUTDOWN = "shutdown"


class HealthStatus(StrEnum):
    """Of one component, and of the whole (reference: GET /healthz)."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """One checker's finding."""

    status: HealthStatus
    message: str


@dataclass(frozen=True, slots=True)
class TemplateVersion:
    """One active row of `processor_template_versions`, as far as it says what is desired."""

    id: UUID
    version: str
    image_uri: str
    digest: str | None
    runtime_config_template: str
    """The JSON text of the column, unparsed: a text that cannot be read concerns one processor only."""


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """One desired processor: its row, outer-joined to template, active versions and sensor.

    `template_slug` is None when the template is missing. `versions` holds the active versions
    in order of id: exactly one in a sound database; none or several is an error of this
    processor alone.
    """

    processor_id: UUID
    organization_id: UUID | None
    name: str | None
    node_type: str
    namespace: str | None
    status: str
    template_slug: str | None
    versions: tuple[TemplateVersion, ...]
    sensor_id: UUID | None
    sensor_config: str | None
    sensor_location: str | None

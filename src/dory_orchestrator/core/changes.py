"""What differs between two readings of the desired configurations."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core.model import ProcessorConfig


@dataclass(frozen=True, slots=True)
class Changes:
    """Processor ids by kind of change."""

    added: frozenset[UUID] = frozenset()
    removed: frozenset[UUID] = frozenset()
    modified: frozenset[UUID] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.modified)


def compare(
    before: Mapping[UUID, ProcessorConfig], after: Mapping[UUID, ProcessorConfig]
) -> Changes:
    """Compare by value. `status` moves with the portal's bookkeeping and is no change of what is desired."""
    common = before.keys() & after.keys()
    return Changes(
        added=frozenset(after.keys() - before.keys()),
        removed=frozenset(before.keys() - after.keys()),
        modified=frozenset(
            key
            for key in common
            # Most are the very same objects.
            if before[key] is not after[key] and _desired(before[key]) != _desired(after[key])
        ),
    )


def _desired(config: ProcessorConfig) -> tuple[object, ...]:
    return (
        config.organization_id,
        config.name,
        config.node_type,
        config.namespace,
        config.template_slug,
        config.versions,
        config.sensor_id,
        config.sensor_config,
        config.sensor_location,
    )

"""Reading the desired configurations."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any
from uuid import UUID

from dory_orchestrator.core.model import ProcessorConfig, TemplateVersion
from dory_orchestrator.store.connections import Connection
from dory_orchestrator.store.kept import Kept
from dory_orchestrator.store.queries import QUERIES


class ConfigReader:
    """Reads configurations; those whose rows have not changed are the same objects again."""

    def __init__(self) -> None:
        self._versions: dict[UUID, list[TemplateVersion]] = {}
        self._configs: Kept[UUID, Any, ProcessorConfig] = Kept()

    async def read(self, connection: Connection) -> Mapping[UUID, ProcessorConfig]:
        """Every desired processor (status other than `terminated` and `failed`), by id.

        To be called in a transaction, so that both statements read one snapshot of the database.
        """
        versions = _versions(await connection.fetch(QUERIES["list_active_versions"]))
        rows = await connection.fetch(QUERIES["list_processor_configs"])
        if versions != self._versions:
            self._versions = versions
            self._configs.forget()
        only = {row[0]: (row,) for row in rows}
        if len(only) == len(rows):
            return self._configs.take(only, self._config)
        of_each: dict[UUID, tuple[Any, ...]] = {}
        for row in rows:
            of_each[row[0]] = (*of_each.get(row[0], ()), row)
        return self._configs.take(of_each, self._config)

    def _config(self, rows: Sequence[Any]) -> ProcessorConfig:
        """One configuration a processor; its rows come in order of version."""
        found = dict.fromkeys(row["version_id"] for row in rows if row["version_id"] is not None)
        versions = chain(*(self._versions[version_id] for version_id in found))
        return _config(rows[-1], tuple(versions))


def _versions(rows: Sequence[Any]) -> dict[UUID, list[TemplateVersion]]:
    """By id. A table of the platform's may hold an id twice; what says the same is one."""
    versions: dict[UUID, list[TemplateVersion]] = {}
    for row in rows:
        of_this = versions.setdefault(row["id"], [])
        version = _version(row)
        if version not in of_this:
            of_this.append(version)
    return versions


def _version(row: Any) -> TemplateVersion:
    return TemplateVersion(
        id=row["id"],
        version=row["version"] or "",
        image_uri=row["image_uri"] or "",
        digest=row["digest"],
        runtime_config_template=row["runtime_config_template"] or "",
    )


def _config(row: Any, versions: tuple[TemplateVersion, ...]) -> ProcessorConfig:
    return ProcessorConfig(
        processor_id=row["id"],
        organization_id=row["organization_id"],
        name=row["name"],
        node_type=row["node_type"] or "",
        namespace=row["namespace"],
        status=row["status"] or "",
        template_slug=row["template_slug"],
        versions=versions,
        sensor_id=row["sensor_id"],
        sensor_config=row["sensor_config"],
        sensor_location=row["sensor_location"],
    )

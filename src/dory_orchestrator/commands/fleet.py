"""`fleet`: writing a fleet file to a database."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.commands.showing import print_data
from dory_orchestrator.core.diagnosis import DATABASE_REMEDY
from dory_orchestrator.core.fleet import Fleet, FleetChanges
from dory_orchestrator.fleet_file import FleetFile, FleetFileError, read, schema
from dory_orchestrator.ports import (
    ClusterError,
    RequestRefused,
    StoreDataError,
    StoreError,
    StoreUnavailable,
)
from dory_orchestrator.settings import SettingsError
from dory_orchestrator.settings import load as load_settings
from dory_orchestrator.store.fleet import apply_fleet, fleet_namespace, plan_fleet

_FAILED, _WRONG_CALL = 1, 2


@dataclass(frozen=True, slots=True)
class Target:
    """Where a fleet is written: a database, and the nodes of its local cluster if it has one."""

    database_url: str
    data_dir: Path | None = None

    @property
    def remedy(self) -> str:
        """What to do when the database cannot be reached."""
        if self.data_dir is None:
            return DATABASE_REMEDY
        return f"look whether `dev` still runs in {self.data_dir}"


@click.group("fleet")
def fleet_group() -> None:
    """Write a fleet file to a database.

    \b
    Examples:
      dory-orchestrator fleet apply fleet.yaml --dry-run
      dory-orchestrator fleet schema
    """


@fleet_group.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
@click.option(
    "--prune", is_flag=True, help="Terminate the organization's processors that are not named."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    help="How the changes are shown.  [text]",
)
@click.option("--config-db", metavar="URL", help="PostgreSQL URL.  [DORY_DATABASE_URL]")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=".dory",
    show_default=True,
    help="Of a running `dev`: its database, when no other is named.",
)
def apply_command(
    file: Path, dry_run: bool, prune: bool, output: str, config_db: str | None, data_dir: Path
) -> None:
    """Write FILE to a database: insert, update, and with --prune terminate.

    \b
    Examples:
      dory-orchestrator fleet apply fleet.yaml --dry-run
      dory-orchestrator fleet apply fleet.yaml --prune
    """
    try:
        fleet_file = read(file)
    except FleetFileError as error:
        _exit(_WRONG_CALL, *error.problems)
    target = _target(config_db, data_dir)
    try:
        changes = asyncio.run(_apply(fleet_file, target, dry_run=dry_run, prune=prune))
    except StoreUnavailable as error:
        _exit(_FAILED, f"database: {error}", f"-> {target.remedy}")
    except (RequestRefused, StoreDataError) as error:
        _exit(_FAILED, f"{file}: cannot be applied: {error}")
    except StoreError as error:
        _exit(_FAILED, f"database: {error}")
    except ClusterError as error:
        _exit(_FAILED, f"local cluster: {error}")
    if output == "text":
        click.echo(str(changes))
    else:
        print_data(output, changes.as_dict())


@fleet_group.command("schema")
def schema_command() -> None:
    """Print the JSON schema of fleet files, for editors.

    \b
    Examples:
      dory-orchestrator fleet schema > fleet.schema.json
    """
    click.echo(json.dumps(schema(), indent=2))


async def _apply(file: FleetFile, target: Target, *, dry_run: bool, prune: bool) -> FleetChanges:
    url = target.database_url
    fleet = file.fleet(await fleet_namespace(url))
    if dry_run:
        return await plan_fleet(url, fleet, prune=prune)
    changes = await apply_fleet(url, fleet, prune=prune)
    if target.data_dir is not None and fleet.nodes_declared:
        await _declare(target.data_dir, fleet)
    return changes


async def _declare(data_dir: Path, fleet: Fleet) -> None:
    cluster = LocalCluster(data_dir)
    try:
        await cluster.declare_nodes(fleet.nodes)
    finally:
        await cluster.close()


def _target(config_db: str | None, data_dir: Path) -> Target:
    """The database that is named, else that of the `dev` that runs in the data directory."""
    try:
        loaded = load_settings({"config_db": config_db}, _database_only(os.environ), None)
    except SettingsError as error:
        _exit(_WRONG_CALL, *error.problems)
    if loaded.settings.config_db is not None:
        return Target(loaded.settings.config_db.get_secret_value())
    endpoints = data_dir / "endpoints.json"
    try:
        return Target(json.loads(endpoints.read_text())["database"], data_dir)
    except (OSError, ValueError, KeyError):
        _exit(
            _WRONG_CALL,
            "no database: set DORY_DATABASE_URL, give --config-db,"
            f" or start `dev` first ({endpoints} is not there)",
        )


def _database_only(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name == "DORY_DATABASE_URL"}


def _exit(code: int, *problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"dory-orchestrator: {problem}", err=True)
    sys.exit(code)

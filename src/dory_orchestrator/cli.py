"""The command line. It joins settings to rooms and decides nothing.

Exit codes: 0 fine, 1 the work failed, 2 the call or a setting is wrong.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from dory_orchestrator import __version__, logs
from dory_orchestrator.ports import StoreError
from dory_orchestrator.settings import (
    Loaded,
    Settings,
    SettingsError,
    choices,
    environment_name,
    flag_name,
    load,
    printed,
    shown,
)

_PROGRAM = "dory-orchestrator"
_FAILED, _WRONG_CALL = 1, 2

# What `dev` settles itself: it must never touch a cluster or a database that the environment
# names for production, and nobody else's machine may reach it.
_FIXED_IN_DEV: Mapping[str, object] = {
    "config_db": None,
    "kubeconfig": None,
    "metrics_address": "127.0.0.1",
    "cluster": "local",
    "role": "all",
}
_SETTLED_IN_DEV = {*_FIXED_IN_DEV, "metrics_port"}
_OF_MIGRATIONS = ("config_db", "log_level", "log_format")

_Command = TypeVar("_Command", bound=Callable[..., Any])

_version_option = click.version_option(
    __version__, prog_name=_PROGRAM, message="%(prog)s %(version)s"
)
_config_option = click.option(
    "--config", "config", metavar="FILE", default=None, help="YAML file of settings."
)


def _setting_options(names: Iterable[str]) -> Callable[[_Command], _Command]:
    """An option for each of these settings. Not given is None; `settings` validates the rest."""
    options = [_setting_option(name) for name in names]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _setting_option(name: str) -> Callable[[_Command], _Command]:
    field = Settings.model_fields[name]
    text = f"{field.description}  [{environment_name(name)}; {shown(name, field.default)}]"
    if field.annotation is bool:
        flags = f"{flag_name(name)}/{flag_name(name, False)}"
        return click.option(flags, name, default=None, help=text)
    return click.option(flag_name(name), name, default=None, metavar=_metavar(name), help=text)


def _metavar(name: str) -> str:
    words: dict[object, str] = {float: "DURATION", int: "NUMBER"}
    return "|".join(choices(name)) or words.get(Settings.model_fields[name].annotation, "TEXT")


@click.group()
@_version_option
def main() -> None:
    """Keeps stateful processors alive across edge and cloud."""


@main.command("run")
@_version_option
@_config_option
@click.option("--print-config", is_flag=True, help="Print settings and their sources, and exit.")
@_setting_options(Settings.model_fields)
def run_command(config: str | None, print_config: bool, **flags: object) -> None:
    """Run in production, with your PostgreSQL and Kubernetes.

    A setting comes from the environment variable in brackets, else from its flag, else from the
    file, else it is the default in brackets. Only --kubeconfig beats its variable.
    """
    loaded = _load(flags, os.environ, config)
    if print_config:
        click.echo(printed(loaded))
        return
    _database_url(loaded.settings)
    _configure_logs(loaded.settings)
    # Imported late: --version and --help stay quick.
    from dory_orchestrator.app.run import run

    sys.exit(run(loaded.settings))


@main.command("dev")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=".dory",
    show_default=True,
    help="Folder of the database and everything else that is kept.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port on 127.0.0.1. 0: any free port.",
)
@click.option(
    "--fleet",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Fleet to load. An empty file: an empty fleet.",
)
@_setting_options(name for name in Settings.model_fields if name not in _SETTLED_IN_DEV)
def dev_command(data_dir: Path, port: int, fleet: Path | None, **flags: object) -> None:
    """Run everything on this machine, with a database of its own."""
    if fleet is not None and not _is_empty(fleet):
        _exit(_WRONG_CALL, f"loading a fleet is not supported yet: {fleet} is not empty")
    variables = {environment_name(name) for name in _SETTLED_IN_DEV}
    environ = {name: value for name, value in os.environ.items() if name not in variables}
    settings = _load({**flags, **_FIXED_IN_DEV, "metrics_port": port}, environ, None).settings
    _configure_logs(settings)
    from dory_orchestrator.app.dev import dev

    sys.exit(dev(settings, data_dir, port))


@main.group("db")
def db_group() -> None:
    """Migrations of the database."""


@db_group.command("upgrade")
@_config_option
@_setting_options(_OF_MIGRATIONS)
def upgrade_command(config: str | None, **flags: object) -> None:
    """Bring the database to what this version needs. Nothing is dropped."""
    settings = _load(flags, os.environ, config).settings
    url = _database_url(settings)
    _configure_logs(settings)
    from dory_orchestrator.store.migrate import upgrade

    try:
        upgrade(url)
    except StoreError as error:
        _exit(_FAILED, str(error))


@db_group.command("current")
@_config_option
@_setting_options(_OF_MIGRATIONS)
def current_command(config: str | None, **flags: object) -> None:
    """Say which migration the database is at."""
    settings = _load(flags, os.environ, config).settings
    url = _database_url(settings)
    _configure_logs(settings)
    from dory_orchestrator.store.migrate import current

    try:
        click.echo(revision_text(*current(url)))
    except StoreError as error:
        _exit(_FAILED, str(error))


def revision_text(present: str | None, needed: str) -> str:
    """What `db current` says of the revision in the database and the one that is needed."""
    if present == needed:
        return f"{present} (up to date)"
    return f'{present or "none"} (needs {needed}: run "{_PROGRAM} db upgrade")'


def _load(flags: Mapping[str, object], environ: Mapping[str, str], config: str | None) -> Loaded:
    try:
        return load(flags, environ, Path(config) if config else None)
    except SettingsError as error:
        _exit(_WRONG_CALL, *error.problems)


def _database_url(settings: Settings) -> str:
    if settings.config_db is None:
        _exit(_WRONG_CALL, "no database: set DORY_DATABASE_URL, or give --config-db")
    return settings.config_db.get_secret_value()


def _configure_logs(settings: Settings) -> None:
    logs.configure(settings.log_level, settings.log_format)


def _is_empty(file: Path) -> bool:
    """Whether a YAML file says nothing: blank lines and comments."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        _exit(_WRONG_CALL, f"{file}: cannot be read: {error.strerror}")
    return all(not line.strip() or line.lstrip().startswith(b"#") for line in lines)


def _exit(code: int, *problems: str) -> NoReturn:
    for problem in problems:
        for line in problem.splitlines():
            click.echo(f"{_PROGRAM}: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""The command line. It joins settings to rooms and decides nothing.

Exit codes: 0 fine, 1 the work failed, 2 the call or a setting is wrong.
"""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from dory_orchestrator import __version__, logs, tracing
from dory_orchestrator.commands.setting_options import config_option, setting_options
from dory_orchestrator.ports import StoreError
from dory_orchestrator.settings import (
    Loaded,
    Settings,
    SettingsError,
    environment_name,
    load,
    printed,
)

_PROGRAM = "dory-orchestrator"
_FAILED, _WRONG_CALL, _INTERRUPTED = 1, 2, 130

# What `dev` settles itself: it must never touch a cluster or a database that the environment
# names for production, and nobody else's machine may reach it.
_FIXED_IN_DEV: Mapping[str, object] = {
    "config_db": None,
    "kubeconfig": None,
    "metrics_address": "127.0.0.1",
    "cluster": "local",
    "local_dir": None,
    "role": "all",
}
_SETTLED_IN_DEV = {*_FIXED_IN_DEV, "metrics_port"}
_OF_MIGRATIONS = ("config_db", "log_level", "log_format")

_LATE: Mapping[str, str] = {
    "brake": "dory_orchestrator.commands.deciding:brake_group",
    "completion": "dory_orchestrator.commands.completion:completion_command",
    "cordon": "dory_orchestrator.commands.deciding:cordon_command",
    "decommission-node": "dory_orchestrator.commands.registering:decommission_node_command",
    "doctor": "dory_orchestrator.commands.doctor:doctor_command",
    "drill": "dory_orchestrator.commands.drilling:drill_group",
    "events": "dory_orchestrator.commands.events:events_command",
    "explain": "dory_orchestrator.commands.explaining:explain_command",
    "failback": "dory_orchestrator.commands.ordering:failback_command",
    "failover": "dory_orchestrator.commands.ordering:failover_command",
    "events-export": "dory_orchestrator.commands.export:export_command",
    "fleet": "dory_orchestrator.commands.fleet:fleet_group",
    "guard": "dory_orchestrator.commands.deciding:guard_group",
    "local": "dory_orchestrator.commands.local:local_group",
    "moves": "dory_orchestrator.commands.listing:moves_command",
    "node": "dory_orchestrator.commands.listing:node_command",
    "nodes": "dory_orchestrator.commands.listing:nodes_command",
    "pause": "dory_orchestrator.commands.ordering:pause_command",
    "plan": "dory_orchestrator.commands.explaining:plan_command",
    "processor": "dory_orchestrator.commands.listing:processor_command",
    "processors": "dory_orchestrator.commands.listing:processors_command",
    "register-node": "dory_orchestrator.commands.registering:register_node_command",
    "resume": "dory_orchestrator.commands.ordering:resume_command",
    "retry": "dory_orchestrator.commands.ordering:retry_command",
    "simulate": "dory_orchestrator.commands.simulate:simulate_command",
    "summary": "dory_orchestrator.commands.listing:summary_command",
    "top": "dory_orchestrator.commands.top:top_command",
    "uncordon": "dory_orchestrator.commands.deciding:uncordon_command",
    "what-if": "dory_orchestrator.commands.explaining:what_if_command",
    "webhooks": "dory_orchestrator.commands.webhooks:webhooks_group",
}

_version_option = click.version_option(
    __version__, prog_name=_PROGRAM, message="%(prog)s %(version)s"
)


class _Late(click.Group):
    """A group whose larger commands are imported when they are called: --version stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LATE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LATE:
            return super().get_command(ctx, cmd_name)
        module, name = _LATE[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Late)
@_version_option
def main() -> None:
    """Keeps stateful processors alive across edge and cloud.

    Operators' commands ask a running orchestrator: the one that --url or DORY_URL names, else the
    `dev` of this folder, else http://127.0.0.1:8080. Those that decide take their token from
    DORY_OPERATOR_TOKEN, those of the edge API from DORY_STATE_TOKEN.

    \b
    Examples:
      dory-orchestrator demo                # see it work, in a minute
      dory-orchestrator dev                 # everything on this machine
      dory-orchestrator top                 # watch a fleet
      dory-orchestrator doctor              # what is wrong, and how to mend it

    \b
    Exit codes:
      0    fine
      1    the work failed, it cannot be reached or says no, or nothing was found
      2    the call, a setting or a token is wrong
      3    what-if: not every processor would move
      130  ended with Ctrl-C
    """


@main.command("run")
@_version_option
@config_option
@click.option("--print-config", is_flag=True, help="Print settings and their sources, and exit.")
@setting_options(Settings.model_fields)
def run_command(config: str | None, print_config: bool, **flags: object) -> None:
    """Run in production, with your PostgreSQL and Kubernetes.

    A setting comes from the environment variable in brackets, else from its flag, else from the
    file, else it is the default in brackets. Only --kubeconfig beats its variable.

    \b
    Examples:
      dory-orchestrator run --config settings.yaml
      dory-orchestrator run --print-config --poll-interval 10s
    """
    loaded = _load(flags, os.environ, config)
    if print_config:
        click.echo(printed(loaded))
        return
    _database_url(loaded.settings)
    _check_tracing(loaded)
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
    help="Fleet to load. An empty file: an empty fleet. Without it: an example, the first time.",
)
@click.option("--watch", is_flag=True, help="Restart a pod when its source is saved.")
@setting_options(name for name in Settings.model_fields if name not in _SETTLED_IN_DEV)
def dev_command(
    data_dir: Path, port: int, fleet: Path | None, watch: bool, **flags: object
) -> None:
    """Run everything on this machine, with a database and a cluster of its own.

    \b
    Examples:
      dory-orchestrator dev
      dory-orchestrator dev --fleet fleet.yaml --watch
    """
    variables = {environment_name(name) for name in _SETTLED_IN_DEV}
    environ = {name: value for name, value in os.environ.items() if name not in variables}
    loaded = _load({**flags, **_FIXED_IN_DEV, "metrics_port": port}, environ, None)
    settings = loaded.settings
    _check_tracing(loaded)
    _configure_logs(settings)
    from dory_orchestrator.app.dev import Wishes, dev

    sys.exit(dev(settings, Wishes(data_dir, port, fleet, watch)))


@main.command("demo")
@click.option("--edge-node", metavar="NAME", help="Node to kill.  [the first with a counter]")
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option("--plain", is_flag=True, help="Plain lines, also on a terminal.")
def demo_command(edge_node: str | None, keep: bool, plain: bool) -> None:
    """Kill an edge node of an example fleet, and watch its processors move and come home.

    Takes about a minute, touches nothing of yours, and leaves nothing behind. Exit code 0 only if
    the state was carried over and back; 130 after Ctrl-C.

    \b
    Examples:
      dory-orchestrator demo
      dory-orchestrator demo --edge-node edge-1 --keep
    """
    try:
        logs.configure("error", "auto")
        from dory_orchestrator.app.demo import DemoWishes, demo

        sys.exit(demo(DemoWishes(edge_node, keep, plain)))
    except KeyboardInterrupt:  # before anything was started
        sys.exit(_INTERRUPTED)


@main.group("db")
def db_group() -> None:
    """Migrations of the database.

    \b
    Examples:
      dory-orchestrator db current
      dory-orchestrator db upgrade
    """


@db_group.command("upgrade")
@config_option
@setting_options(_OF_MIGRATIONS)
def upgrade_command(config: str | None, **flags: object) -> None:
    """Bring the database to what this version needs. Nothing is dropped.

    \b
    Examples:
      dory-orchestrator db upgrade --config-db postgresql://dory_migrate@db.example/platform
    """
    settings = _load(flags, os.environ, config).settings
    url = _database_url(settings)
    _configure_logs(settings)
    from dory_orchestrator.store.migrate import upgrade

    try:
        upgrade(url)
    except StoreError as error:
        _exit(_FAILED, str(error))


@db_group.command("current")
@config_option
@setting_options(_OF_MIGRATIONS)
def current_command(config: str | None, **flags: object) -> None:
    """Say which migration the database is at.

    \b
    Examples:
      dory-orchestrator db current --config settings.yaml
    """
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


def _check_tracing(loaded: Loaded) -> None:
    """What is missing is told before anything is started."""
    if loaded.settings.tracing_endpoint is not None and not tracing.is_installed():
        problem = (
            f"tracing_endpoint (from {loaded.origins['tracing_endpoint']}): traces need a package"
            f" that is not installed: pip install '{tracing.EXTRA}'"
        )
        _exit(_WRONG_CALL, problem)


def _configure_logs(settings: Settings) -> None:
    logs.configure(settings.log_level, settings.log_format)


def _exit(code: int, *problems: str) -> NoReturn:
    for problem in problems:
        for line in problem.splitlines():
            click.echo(f"{_PROGRAM}: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""`doctor`: what is wrong with an installation, and how it is mended.

Exit codes: 0 nothing failed, 1 a check failed, 2 the call or the settings are wrong.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from dory_orchestrator import logs
from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import FAILED, INTERRUPTED, OUTPUTS, WRONG_CALL, one_line
from dory_orchestrator.commands.setting_options import config_option, setting_options
from dory_orchestrator.commands.showing import print_data
from dory_orchestrator.core.diagnosis import Finding, Verdict, failed, ok, skipped
from dory_orchestrator.settings import Settings, SettingsError, environment_name, load

_STYLES = {
    Verdict.OK: "green",
    Verdict.WARNING: "bold yellow",
    Verdict.FAILED: "bold red",
    Verdict.SKIPPED: "dim",
}
_REST = ("tokens", "open files", "database", "cluster", "orchestrator address")
# What `dev` settles itself, whatever the environment names for production.
_SETTLED_IN_DEV = ("config_db", "kubeconfig", "orchestrator_url", "cluster", "local_dir")


@click.command("doctor")
@config_option
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Look at the `dev` of this folder.  [.dory, when no database is named]",
)
@click.option(
    "-o", "--output", type=click.Choice(OUTPUTS), default="table", help="How it is shown.  [table]"
)
@setting_options(Settings.model_fields)
def doctor_command(config: str | None, data_dir: Path | None, output: str, **flags: object) -> None:
    """Check settings, database, cluster and network, and say how to mend what is wrong.

    It takes settings as `run` does, asks each thing for five seconds at most, and changes nothing.
    Exit code 1 if a check failed, 2 if `run` would refuse the settings; a warning is no failure.

    \b
    Examples:
      dory-orchestrator doctor
      dory-orchestrator doctor --config settings.yaml -o json
      dory-orchestrator doctor --data-dir .dory
    """
    logs.configure("error", "auto")
    try:
        code = asyncio.run(_report(flags, config, data_dir, output))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code)


async def _report(
    flags: Mapping[str, object], config: str | None, data_dir: Path | None, output: str
) -> int:
    """Print all findings; returns the exit code.

    Here, as a name that nobody resolves may hold up the end of the loop.
    """
    try:
        findings, code = await _examine(flags, config, data_dir), FAILED
    except SettingsError as error:
        findings, code = _of_wrong_settings(error), WRONG_CALL
    is_well = not any(one.verdict is Verdict.FAILED for one in findings)
    if output in ("json", "yaml"):
        rows = [{**asdict(one), "verdict": str(one.verdict)} for one in findings]
        print_data(output, {"well": is_well, "findings": rows})
    else:
        click.echo(tables.render(findings_table(findings), wide=output == "wide"))
        click.echo(f"\n{_counted(findings)}")
    return 0 if is_well else code


async def _examine(
    flags: Mapping[str, object], config: str | None, data_dir: Path | None
) -> list[Finding]:
    """Raises SettingsError."""
    try:
        settings = load(flags, os.environ, Path(config) if config else None).settings
        dev_url = None
        if data_dir is not None or (settings.config_db is None and _endpoints(Path(".dory"))):
            settings, dev_url = _of_dev(flags, data_dir or Path(".dory"))
    except _NoDev as error:
        missing = failed("settings", str(error), "start it: dory-orchestrator dev")
        return [missing, *(skipped(check, "no `dev` runs there") for check in _REST)]
    # Imported late: help and completion stay quick.
    from dory_orchestrator.app.doctor import diagnose

    which = "of `dev`" if dev_url else 'as "run --print-config" shows them'
    return [ok("settings", which), *await diagnose(settings, dev_url=dev_url)]


def _of_wrong_settings(error: SettingsError) -> list[Finding]:
    remedy = "docs/configuration.md lists them all"
    wrong = [failed("settings", problem, remedy) for problem in error.problems]
    return [*wrong, *(skipped(check, "the settings are wrong") for check in _REST)]


class _NoDev(Exception):
    """No `dev` runs in this folder."""


def _endpoints(data_dir: Path) -> Path | None:
    file = data_dir / "endpoints.json"
    return file if file.exists() else None


def _of_dev(flags: Mapping[str, object], data_dir: Path) -> tuple[Settings, str]:
    """The settings of a running `dev`, and its URL."""
    file = _endpoints(data_dir)
    if file is None:
        raise _NoDev(f"no `dev` runs in {data_dir}: there is no endpoints.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        url, database = str(found["http"]), str(found["database"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _NoDev(f"{file}: cannot be read: {one_line(error)}") from error
    settled = dict.fromkeys(_SETTLED_IN_DEV)
    fixed = {**settled, "config_db": database, "cluster": "local", "local_dir": str(data_dir)}
    variables = {environment_name(name) for name in _SETTLED_IN_DEV}
    environ = {name: value for name, value in os.environ.items() if name not in variables}
    return load({**flags, **fixed}, environ, None).settings, url


def findings_table(findings: Sequence[Finding]) -> Table:
    """A line each, and below it how it is mended."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        detail = Text(tables.clean(one.detail))
        if one.remedy:
            detail.append(f"\n-> {tables.clean(one.remedy)}", style="dim")
        verdict = Text(one.verdict, style=_STYLES[one.verdict])
        table.add_row(verdict, Text(tables.clean(one.check)), detail)
    return table


def _counted(findings: Sequence[Finding]) -> str:
    counts = Counter(one.verdict for one in findings)
    order = (Verdict.FAILED, Verdict.WARNING, Verdict.SKIPPED, Verdict.OK)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])

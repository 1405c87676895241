"""Fire drills: an edge node is treated as dead, and a report says what that has cost."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    FAILED,
    WRONG_CALL,
    Api,
    Failure,
    Target,
    complain,
    end,
    run,
    target_options,
    whoami,
)
from dory_orchestrator.commands.completing import node_names
from dory_orchestrator.commands.deciding import (
    by_option,
    confirm,
    reason_option,
    seconds_of,
    yes_option,
)
from dory_orchestrator.commands.showing import (
    Answer,
    Parts,
    Single,
    print_answer,
    print_data,
    print_parts,
    show,
    watch_option,
)

_SECONDS_MAX = 3_600
_LOOK_SECONDS = 1.0
_SILENT_SECONDS_MAX = 300.0
"""Much longer than another leader, or a restart, takes."""


@click.group("drill")
def drill_group() -> None:
    """Fire drills: does failover really work, and what does it cost?

    \b
    Examples:
      dory-orchestrator drill start --node edge-berlin-1 --for 5m --reason "monthly drill"
      dory-orchestrator drill status
    """


@drill_group.command("start")
@click.option("--node", required=True, shell_complete=node_names, help="Which edge node.")
@click.option(
    "--for", "duration", default="5m", metavar="DURATION", help="At most so long: 10s to 1h.  [5m]"
)
@click.option("--organization", type=click.UUID, help="Of a node whose name two have.")
@click.option("--wait", is_flag=True, help="Wait for its end, and show the report.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Wait for its end, and write the report as JSON.",
)
@reason_option
@yes_option
@by_option
@target_options
def start_command(
    target: Target,
    node: str,
    duration: str,
    organization: UUID | None,
    wait: bool,
    report: Path | None,
    reason: str,
    yes: bool,
    by: str | None,
) -> None:
    """Treat an edge node as dead, for real: its processors move, and come home afterwards.

    What their pods have done since their last checkpoint is lost, as when the node dies. One node
    at a time, and only if all of its processors would find a place. It ends by itself as soon as
    one does not become ready. Exit code with --wait: 0 only if all moved and came home.

    \b
    Examples:
      dory-orchestrator drill start --node edge-berlin-1 --for 5m --reason "monthly drill"
      dory-orchestrator drill start --node edge-1 --reason audit -y --report drill.json
    """
    body: dict[str, Any] = {
        "node": node,
        "for_seconds": seconds_of(duration, 10, _SECONDS_MAX, "10s to 1h"),
        "reason": reason,
    }
    body |= {"by": by or whoami()}
    if organization is not None:
        body["organization"] = str(organization)
    if report is not None and not report.absolute().parent.is_dir():
        end(WRONG_CALL, f"--report: {report.parent}: there is no such folder")
    confirm(yes, f"Treat {tables.clean(node)} as dead for up to {duration}, for real?")
    answer = run(target, lambda api: api.post("/drills/start", body))
    if not wait and report is None:
        print_answer(target, answer, tables.clean(f"{node}: {answer['message']}"))
        return
    click.echo(tables.clean(f"{node}: {answer['message']}"), err=True)
    ended = run(target, lambda api: _wait(api, answer["drill"]["id"]))
    if target.as_data:
        print_data(target.output, ended)
    else:
        print_parts(_drill_parts(ended))
    if report is not None:
        _write(report, ended)
    if ended["outcome"] != "done":
        raise SystemExit(FAILED)


@drill_group.command("status")
@watch_option
@target_options
def status_command(target: Target, watch: bool) -> None:
    """Show the last drills, and what came of each.

    \b
    Examples:
      dory-orchestrator drill status -w
    """
    show(target, Single(_ask, _parts), watch=watch)


@drill_group.command("stop")
@by_option
@target_options
def stop_command(target: Target, by: str | None) -> None:
    """End the drill now: its processors go home.

    \b
    Examples:
      dory-orchestrator drill stop
    """
    answer = run(target, lambda api: api.post("/drills/stop", {"by": by or whoami()}))
    said = f"{answer['drill']['node_name']}: {answer['message']}"
    print_answer(target, answer, tables.clean(said))


def _write(report: Path, drill: Mapping[str, Any]) -> None:
    try:
        report.write_text(json.dumps(drill, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        end(FAILED, f"{report}: cannot be written: {error.strerror or error}")


async def _ask(api: Api) -> Answer:
    return await api.get("/drills", {"limit": 5})


async def _wait(api: Api, number: int) -> Mapping[str, Any]:
    """The drill, once it has ended. Raises Failure, also when nothing is heard of it for long."""
    silent_since: float | None = None
    while True:
        try:
            drills = (await api.get("/drills", {"limit": 5}))["drills"]
        except Failure as error:
            # It goes on, whether we see it or not.
            if error.lasting:
                raise
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                complain(str(error), "it is tried again")
            if now - silent_since > _SILENT_SECONDS_MAX:
                raise
        else:
            silent_since = None
            found = next((drill for drill in drills if drill["id"] == number), None)
            if found is None:
                raise Failure(f"drill {number} is not among the last ones any more")
            if found["phase"] == "ended":
                return dict(found)
        await asyncio.sleep(_LOOK_SECONDS)


def _parts(answer: Answer, _wide: bool) -> Parts:
    if not answer["drills"]:
        return ["no drill was held yet"]
    parts: list[Any] = []
    for drill in answer["drills"][::-1]:
        parts += [*_drill_parts(drill), ""]
    return parts[:-1]


def _drill_parts(drill: Answer) -> Parts:
    """A sentence, and its moves."""
    how = drill["outcome"] if drill["phase"] == "ended" else drill["phase"]
    said = f"drill of {drill['node_name']} by {drill['by']} ({drill['reason']}): {how}"
    costs = [move for move in drill["moves"] if move["rto_seconds"] is not None]
    parts: list[Any] = [
        tables.clean(f"{said}; began {tables.ago(drill['began_at'])}"),
        *([tables.clean(drill["detail"])] if drill["detail"] else []),
    ]
    if costs:
        rto = max(move["rto_seconds"] for move in costs)
        rpos = [move["rpo_seconds"] for move in costs if move["rpo_seconds"] is not None]
        lost = f", RPO at most {max(rpos):.1f} s" if rpos else ""
        parts.append(f"{len(costs)} moves: RTO at most {rto:.1f} s after the grant{lost}")
    if drill["moves"]:
        parts.append(tables.drill_moves(drill["moves"]))
    return parts

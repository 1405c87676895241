"""`events`: what was done and why, and what happens from now on."""

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    PAGE,
    WRONG_CALL,
    Api,
    Failure,
    Target,
    complain,
    end,
    identify,
    run,
    target_options,
)
from dory_orchestrator.commands.completing import node_names, processor_names
from dory_orchestrator.commands.showing import (
    Answer,
    Rows,
    print_data,
    print_document,
    print_rows,
)
from dory_orchestrator.settings import duration_seconds

_FOLLOW_SECONDS = 1.0
_RETRY_SECONDS_MAX = 5.0
_SHOWN_EVENTS = 10_000


@click.command("events")
@click.option(
    *("-f", "--follow", "-w", "--watch"),
    "follow",
    is_flag=True,
    help="Go on with what happens from now on.",
)
@click.option(
    "--processor", help="An id, or how a name or an id begins.", shell_complete=processor_names
)
@click.option("--node", help="On this node.", shell_complete=node_names)
@click.option("--kind", help="create, delete, guard, ...")
@click.option("--reason", help="For this reason, in one word.")
@click.option("--since", metavar="TIME", help="RFC 3339, or how long ago: 10m, 2h.")
@click.option(
    "--limit", type=click.IntRange(0), default=50, metavar="NUMBER", help="How many.  [50]"
)
@target_options
def events_command(
    target: Target,
    follow: bool,
    processor: str | None,
    since: str | None,
    limit: int,
    **filters: Any,
) -> None:
    """Show what was done and why, the newest last.

    \b
    Examples:
      dory-orchestrator events -f
      dory-orchestrator events --processor camera-1 --since 2h
    """
    query = {**filters, "since": since_of(since)}

    async def work(api: Api) -> None:
        if processor is not None:
            query["processor"] = await identify(api, processor)
        await _tell_events(api, target, query, limit, follow=follow)

    run(target, work)


async def _tell_events(
    api: Api, target: Target, query: Mapping[str, Any], limit: int, *, follow: bool
) -> None:
    none: Answer = {"events": [], "next_cursor": None}
    found = await api.all("/events", "events", query, limit) if limit else none
    # Where to go on is told by the first page: what happens meanwhile comes after it.
    start = await api.get("/events", {"limit": 1}) if follow else {"follow": 0}
    rows = found["events"]
    if not follow:
        _show_events(target, found)
        return
    newest = rows[0]["id"] if rows else start["follow"]
    for row in reversed(rows):
        _show_event(target, row)
    await _follow(api, target, query, min(newest, start["follow"]), {row["id"] for row in rows})


async def _follow(
    api: Api, target: Target, query: Mapping[str, Any], after: int, shown: set[int]
) -> None:
    """For ever; an orchestrator that restarts is waited for."""
    recent: deque[int] = deque(sorted(shown), maxlen=_SHOWN_EVENTS)
    lost, pause_seconds = False, _FOLLOW_SECONDS
    while True:
        try:
            page = await api.get("/events", {**query, "after": after, "limit": PAGE})
        except Failure as error:
            if error.lasting:
                raise
            if not lost:
                complain(str(error), "it is tried again")
            lost, pause_seconds = True, min(pause_seconds * 2, _RETRY_SECONDS_MAX)
        else:
            if lost:
                complain("reached again")
            lost, pause_seconds = False, _FOLLOW_SECONDS
            for row in page["events"]:
                # While writers take long, the same event may be told twice.
                if row["id"] not in recent:
                    _show_event(target, row)
                    recent.append(row["id"])
            after = page["follow"]
            if len(page["events"]) == PAGE:
                continue
        await asyncio.sleep(pause_seconds)


def _show_event(target: Target, row: Answer) -> None:
    if target.as_data:
        print_document(target, row)
    else:
        click.echo(tables.event_line(row, wide=target.wide))


def _show_events(target: Target, found: Answer) -> None:
    if target.as_data:
        print_data(target.output, found)
        return

    async def given(_api: Api) -> Answer:
        return found

    view = Rows("events", given, tables.events, lambda row: str(row["id"]), newest_first=True)
    print_rows(target, view, found)


def since_of(text: str | None) -> str | None:
    """A moment as the API takes it: RFC 3339, or how long ago."""
    if text is None:
        return None
    try:
        ago = timedelta(seconds=duration_seconds(text))
        return (datetime.now(UTC) - ago).isoformat()
    except ValueError:
        return text  # a moment; the orchestrator says if it is none
    except OverflowError:
        end(WRONG_CALL, f"--since: {text}: is longer ago than anything")

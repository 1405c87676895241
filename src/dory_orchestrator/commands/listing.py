"""Commands that show the fleet: nodes, processors, moves, and all of it in a few numbers."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import click

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    WRONG_CALL,
    Api,
    Target,
    end,
    find_node,
    identify,
    target_options,
)
from dory_orchestrator.commands.completing import node_names, processor_names
from dory_orchestrator.commands.sentence import sentence
from dory_orchestrator.commands.showing import Answer, Parts, Rows, Single, show, watch_option

_EVENTS_OF_A_NODE = 20
_AGES = ("heartbeat_age_seconds", "last_heartbeat_at")
_CHECKS = ("last_health_check_at",)
limit_option = click.option(
    "--limit", type=click.IntRange(1), metavar="NUMBER", help="How many at most."
)
_last = click.option(
    "--limit", type=click.IntRange(1), default=50, metavar="NUMBER", help="How many.  [50]"
)


@click.command("nodes")
@click.option("--kind", type=click.Choice(["edge", "application", "other"]), help="Of this kind.")
@click.option("--ready/--not-ready", default=None, help="Not ready: also not in the cluster.")
@click.option("--status", help="Of edge nodes: online, decommissioned, ...")
@click.option("--organization", type=click.UUID, help="Edge nodes of this organization.")
@click.option("-q", "--name", "prefix", metavar="TEXT", help="How the name begins.")
@click.option("--sort", type=click.Choice(["name", "kind", "utilisation"]), help="By what.")
@limit_option
@watch_option
@target_options
def nodes_command(
    target: Target,
    limit: int | None,
    ready: bool | None,
    prefix: str | None,
    watch: bool,
    **filters: Any,
) -> None:
    """List nodes: those of the cluster, and edge nodes that are not in it.

    \b
    Examples:
      dory-orchestrator nodes --not-ready -w
      dory-orchestrator nodes --kind edge -o wide
    """
    word = None if ready is None else str(ready).lower()
    query = {**filters, "ready": word, "q": prefix}
    show(target, nodes_view(query, limit), watch=watch)


def nodes_view(query: Mapping[str, Any], limit: int | None) -> Rows:
    """A list of nodes."""

    async def fetch(api: Api) -> Answer:
        return await api.all("/nodes", "nodes", query, limit)

    return Rows("nodes", fetch, tables.nodes, _node_key, restless=_AGES)


def _node_key(row: tables.Row) -> str:
    return f"{row['name']} {row['organization_id'] or ''}".rstrip()


@click.command("node")
@click.argument("node", metavar="NAME", shell_complete=node_names)
@click.option(
    "--organization",
    type=click.UUID,
    metavar="ID",
    help="Where two organizations have a node of this name.",
)
@watch_option
@target_options
def node_command(target: Target, node: str, organization: UUID | None, watch: bool) -> None:
    """Show a node with its processors and last events. NAME: its name, or how that begins.

    \b
    Examples:
      dory-orchestrator node edge-berlin-1
      dory-orchestrator node edge-b -w
    """

    async def fetch(api: Api) -> Answer:
        return await _ask_node(api, node, organization)

    show(target, Single(fetch, node_parts, restless=(*_AGES, *_CHECKS)), watch=watch)


async def _ask_node(api: Api, text: str, organization: UUID | None) -> Answer:
    found = await find_node(api, text, organization)
    query = {"node": found["name"]}
    processors, events = await asyncio.gather(
        api.all("/processors", "processors", query, None),
        api.get("/events", {**query, "limit": _EVENTS_OF_A_NODE}),
    )
    return {
        "node": found,
        "processors": processors["processors"],
        "events": events["events"],
    }


def node_parts(answer: Answer, wide: bool) -> Parts:
    """All that is known of it, then what runs there, then what happened."""
    parts: list[Any] = [tables.node(answer["node"])]
    if answer["processors"]:
        parts += ["", tables.processors(answer["processors"], wide=wide)]
    return [*parts, *_event_parts(answer, wide)]


@click.command("processors")
@click.argument("processor", required=False, shell_complete=processor_names)
@click.option("--state", help="One, or several with commas: running,held,error,...")
@click.option("--node", help="On this node.", shell_complete=node_names)
@click.option("--template", help="Of the template with this slug.")
@click.option("--organization", type=click.UUID, help="Of this organization.")
@click.option("--namespace", help="In this namespace of the cluster.")
@click.option(
    "--health", type=click.Choice(["unknown", "healthy", "unhealthy"]), help="Of this health."
)
@click.option("-q", "--name", "prefix", metavar="TEXT", help="How the name or the id begins.")
@click.option("--sort", type=click.Choice(["name", "state", "node", "since"]), help="By what.")
@limit_option
@watch_option
@target_options
def processors_command(
    target: Target,
    processor: str | None,
    limit: int | None,
    prefix: str | None,
    watch: bool,
    **filters: Any,
) -> None:
    """List processors; with PROCESSOR the same as `processor`.

    \b
    Examples:
      dory-orchestrator processors --state error,held
      dory-orchestrator processors --node edge-berlin-1 -w
    """
    if processor is not None:
        if limit or prefix or any(value is not None for value in filters.values()):
            end(WRONG_CALL, "give either a processor or filters")
        show(target, processor_view(processor), watch=watch)
        return
    show(target, processors_view({**filters, "q": prefix}, limit), watch=watch)


def processors_view(query: Mapping[str, Any], limit: int | None) -> Rows:
    """A list of processors."""

    async def fetch(api: Api) -> Answer:
        return await api.all("/processors", "processors", query, limit)

    return Rows("processors", fetch, tables.processors, _processor_key, restless=_CHECKS)


def _processor_key(row: tables.Row) -> str:
    return " ".join(filter(None, (row["name"], row["id"])))


@click.command("processor")
@click.argument("processor", metavar="NAME|ID", shell_complete=processor_names)
@watch_option
@target_options
def processor_command(target: Target, processor: str, watch: bool) -> None:
    """Show a processor with its last events. NAME|ID: also how a name or an id begins.

    \b
    Examples:
      dory-orchestrator processor camera-1
      dory-orchestrator processor 63e05b90 -o yaml
    """
    show(target, processor_view(processor), watch=watch)


def processor_view(text: str) -> Single:
    """One processor."""

    async def fetch(api: Api) -> Answer:
        return await api.get(f"/processors/{await identify(api, text)}")

    return Single(fetch, processor_parts, restless=_CHECKS)


def processor_parts(answer: Answer, wide: bool) -> Parts:
    """All that is known of it, then what happened."""
    return [tables.processor(answer["processor"]), *_event_parts(answer, wide)]


def _event_parts(answer: Answer, wide: bool) -> Parts:
    if not answer["events"]:
        return []
    return ["", tables.events(answer["events"][::-1], wide=wide)]


@click.command("moves")
@click.option("--open", "is_open", is_flag=True, help="Only those that are under way.")
@click.option(
    "--processor", help="An id, or how a name or an id begins.", shell_complete=processor_names
)
@click.option("--node", help="From or to this node.", shell_complete=node_names)
@_last
@watch_option
@target_options
def moves_command(
    target: Target,
    is_open: bool,
    processor: str | None,
    node: str | None,
    limit: int,
    watch: bool,
) -> None:
    """Show which processors were moved between nodes, the newest last.

    \b
    Examples:
      dory-orchestrator moves --open -w
      dory-orchestrator moves --processor camera-1 -o wide
    """

    async def fetch(api: Api) -> Answer:
        key = None if processor is None else await identify(api, processor)
        query = {"open": "true" if is_open else None, "processor_id": key, "node": node}
        return await api.all("/moves", "moves", query, limit)

    view = Rows("moves", fetch, tables.moves, lambda row: str(row["id"]), newest_first=True)
    show(target, view, watch=watch)


@click.command("summary")
@watch_option
@target_options
def summary_command(target: Target, watch: bool) -> None:
    """Say how the fleet is: one sentence, and few numbers.

    \b
    Examples:
      dory-orchestrator summary
      dory-orchestrator summary -o json
    """

    async def fetch(api: Api) -> Answer:
        return await api.get("/summary")

    view = Single(fetch, summary_parts, restless=("at", "lease_seconds"))
    show(target, view, watch=watch)


def summary_parts(answer: Answer, _wide: bool) -> Parts:
    """The sentence, and the numbers."""
    return [sentence(answer), "", tables.summary(answer)]

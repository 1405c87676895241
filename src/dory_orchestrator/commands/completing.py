"""Names of the running fleet, for a shell that completes them.

Whoever presses the tab key waits a second at most, and is never told an error.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from dory_orchestrator.commands.asking import Api, Failure, ask, find_url

_TIMEOUT_SECONDS = 1.0
_ITEMS_MAX = 200
_HARMLESS = re.compile(r"[\w.:@%+=][\w.:@%+=,/-]*").fullmatch
"""Nothing that a shell takes for more than letters, or a command for an option."""


def node_names(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Nodes whose name begins so."""

    async def find(api: Api) -> Sequence[CompletionItem]:
        page = await api.get("/nodes", {"q": incomplete or None, "limit": _ITEMS_MAX})
        return [CompletionItem(row["name"], help=row["kind"]) for row in page["nodes"]]

    return _complete(ctx, incomplete, find)


def processor_names(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Processors whose name begins so; their id where they have none."""

    async def find(api: Api) -> Sequence[CompletionItem]:
        page = await api.get("/processors", {"q": incomplete or None, "limit": _ITEMS_MAX})
        rows = page["processors"]
        return [CompletionItem(row["name"] or row["id"], help=row["state"]) for row in rows]

    return _complete(ctx, incomplete, find)


def _complete(
    ctx: click.Context,
    incomplete: str,
    find: Callable[[Api], Awaitable[Sequence[CompletionItem]]],
) -> list[CompletionItem]:
    async def bounded(api: Api) -> Sequence[CompletionItem]:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await find(api)

    try:
        data_dir = Path(ctx.params.get("data_dir") or ".dory")
        url = find_url(ctx.params.get("url"), data_dir)
        found = asyncio.run(ask(url, bounded, timeout_seconds=_TIMEOUT_SECONDS))
    except (Failure, TimeoutError, KeyError, TypeError):
        return []
    # A shell completes what was typed, letter by letter, and obeys what it puts on its line.
    return [one for one in found if one.value.startswith(incomplete) and _HARMLESS(one.value)]

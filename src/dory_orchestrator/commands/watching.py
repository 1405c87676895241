"""`-w`: what is shown is asked for again and again.

On a terminal it is drawn anew in its place. Elsewhere what changed is printed as it comes.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import Api, Failure, Target, complain
from dory_orchestrator.commands.showing import (
    Answer,
    Parts,
    Rows,
    Single,
    print_document,
    print_parts,
)

_WATCH_SECONDS = 1.0
_RETRY_SECONDS_MAX = 5.0
_SHARE = 4
"""An answer that takes long is asked for less often: we do not fill the orchestrator's time."""


async def watch_view(api: Api, target: Target, view: Single | Rows) -> None:
    """For ever; an orchestrator that restarts is waited for. Raises Failure at the first look."""
    if sys.stdout.isatty() and not target.as_data:
        await _redraw(api, target, view)
    printer = _RowPrinter(target, view) if isinstance(view, Rows) else _Printer(target, view)
    asker = Asker(api, view, tell=complain)
    while True:
        if (answer := await asker.ask()) is not None:
            printer.tell(answer)
        await asyncio.sleep(asker.pause_seconds)


class Asker:
    """Asks again and again, and tells once that nobody answers."""

    def __init__(self, api: Api, view: Single | Rows, *, tell: Callable[..., None]) -> None:
        self._api, self._view, self._tell = api, view, tell
        self._is_first, self._is_lost = True, False
        self.pause_seconds = _WATCH_SECONDS

    async def ask(self) -> Answer | None:
        """The answer; None: there is none now. Raises Failure where to ask again will not help."""
        began = time.monotonic()
        try:
            answer = await self._view.fetch(self._api)
        except Failure as error:
            if error.lasting or self._is_first:
                raise
            if not self._is_lost:
                self._tell(str(error), "it is tried again")
            self._is_lost = True
            self.pause_seconds = min(self.pause_seconds * 2, _RETRY_SECONDS_MAX)
            return None
        if self._is_lost:
            self._tell("reached again")
        self._is_first = self._is_lost = False
        self.pause_seconds = max(_WATCH_SECONDS, _SHARE * (time.monotonic() - began))
        return answer


async def _redraw(api: Api, target: Target, view: Single | Rows) -> None:
    notices: list[str] = []
    asker = Asker(api, view, tell=lambda *said: notices.append("; ".join(said)))
    shown: RenderableType = ""
    with Live(console=tables.terminal(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            if (answer := await asker.ask()) is not None:
                notices.clear()
                shown = Group(*map(_renderable, _parts(view, answer, target)))
            below = [Text(notice, style="bold yellow") for notice in notices]
            live.update(Group(shown, *below), refresh=True)
            await asyncio.sleep(asker.pause_seconds)


def _parts(view: Single | Rows, answer: Answer, target: Target) -> Parts:
    if isinstance(view, Single):
        return view.parts(answer, target.wide)
    rows = view.rows(answer)
    return [view.table(rows, wide=target.wide) if rows else f"no {view.name}"]


def _renderable(part: Table | str) -> RenderableType:
    return Text(part) if isinstance(part, str) else part


class _Printer:
    """Prints one thing whole, when it has changed."""

    def __init__(self, target: Target, view: Single) -> None:
        self._target, self._view = target, view
        self._known: object = None

    def tell(self, answer: Answer) -> None:
        lasting = _lasting(answer, self._view.restless)
        if lasting == self._known:
            return
        if self._target.as_data:
            print_document(self._target, answer)
        else:
            between: Parts = () if self._known is None else ("",)
            shown = self._view.parts(answer, self._target.wide)
            print_parts([*between, *shown], wide=self._target.wide)
        self._known = lasting


class _RowPrinter:
    """Prints rows that are new or have changed, and says which are gone."""

    def __init__(self, target: Target, view: Rows) -> None:
        self._target, self._view = target, view
        self._known: dict[str, object] | None = None
        self._widths: list[int] = []

    def tell(self, answer: Answer) -> None:
        rows = {self._view.key(row): row for row in self._view.rows(answer)}
        lasting = {key: _lasting(row, self._view.restless) for key, row in rows.items()}
        known = self._known or {}
        changed = [row for key, row in rows.items() if known.get(key) != lasting[key]]
        # A list that ends before its end says nothing of those that it does not name.
        gone = [key for key in known if key not in rows] if answer["next_cursor"] is None else []
        if self._target.as_data:
            self._print_documents(changed, gone)
        else:
            self._print_lines(changed, gone)
        self._known = lasting

    def _print_documents(self, changed: list[tables.Row], gone: list[str]) -> None:
        for row in changed:
            print_document(self._target, row)
        for key in gone:
            print_document(self._target, {"gone": key})

    def _print_lines(self, changed: list[tables.Row], gone: list[str]) -> None:
        if changed:
            table = self._view.table(changed, wide=self._target.wide)
            self._align(table)
            print_parts([table], wide=True)
        for key in gone:
            click.echo(f"{tables.clean(key)}  is no longer listed")

    def _align(self, table: Table) -> None:
        """The first lines say how wide the columns are, and have the headings."""
        if self._widths:
            table.show_header = False
        else:
            self._widths = tables.widths(table)
        for column, width in zip(table.columns, self._widths, strict=True):
            column.min_width = width


def _lasting(content: Mapping[str, Any], restless: Sequence[str]) -> object:
    """Without what changes all the time, however deep it stands."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: strip(v) for name, v in value.items() if name not in restless}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(dict(content))

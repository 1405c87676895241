"""`top`: the fleet, drawn again each second."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
from rich.console import RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.text import Text

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import Api, Failure, Target, run, target_options
from dory_orchestrator.commands.frame import Seen, frame
from dory_orchestrator.commands.showing import print_data

_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 3.0
_NODES_MAX, _PROCESSORS_MAX, _ROWS_MAX = 200, 500, 50
_FOOT = "q: end"


@click.command("top")
@click.option("--once", is_flag=True, help="Print one frame, and end. Also where no terminal is.")
@target_options
def top_command(target: Target, once: bool) -> None:
    """Watch the fleet: how it is, its nodes and processors, moves and events. `q` ends it.

    \b
    Examples:
      dory-orchestrator top
      dory-orchestrator top --once
    """
    if target.as_data:
        print_data(target.output, run(target, look))
    elif once or not sys.stdout.isatty():
        size = shutil.get_terminal_size()
        seen = run(target, look)
        drawn = frame(seen, url=target.url, rows=size.lines)
        click.echo(tables.render(drawn, columns=size.columns))
    else:
        run(target, lambda api: _Screen(api, target.url).run())


async def look(api: Api) -> dict[str, Any]:
    """All that is drawn, as `Seen`. Raises Failure."""
    newest = {"limit": _ROWS_MAX}
    calls = {
        "summary": api.get("/summary"),
        "brake": api.get("/brake"),
        "guard": api.get("/guard"),
        "health": api.health(),
        "nodes": api.get("/nodes", {"limit": _NODES_MAX}),
        "unready": api.get("/nodes", {"ready": "false", **newest}),
        "processors": api.get("/processors", {"limit": _PROCESSORS_MAX, "sort": "node"}),
        "moves": api.get("/moves", newest),
        "open": api.get("/moves", {"open": "true", **newest}),
        "events": api.get("/events", newest),
    }
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            answers = await asyncio.gather(*calls.values(), return_exceptions=True)
    except TimeoutError as error:
        raise Failure(f"no answer within {_ANSWER_SECONDS:g} s") from error
    return joined(dict(zip(calls, answers, strict=True)))


def joined(answers: Mapping[str, Any]) -> dict[str, Any]:
    """What `look` asked for, each node and each move once. Raises what stands for an answer."""
    for answer in answers.values():
        if isinstance(answer, BaseException):
            raise answer
    # Of two answers about the same the second is the newer one, or as good.
    nodes = {_node_key(row): row for name in ("unready", "nodes") for row in answers[name]["nodes"]}
    moves = {row["id"]: row for name in ("open", "moves") for row in answers[name]["moves"]}
    return {
        **{name: answers[name] for name in ("summary", "brake", "guard", "health")},
        "nodes": list(nodes.values()),
        "processors": answers["processors"]["processors"],
        "moves": sorted(moves.values(), key=_move_order),
        "events": answers["events"]["events"],
    }


def _node_key(row: tables.Row) -> tuple[str, str | None]:
    return row["name"], row["organization_id"]


def _move_order(row: tables.Row) -> tuple[bool, int]:
    """Those under way first, then the newest."""
    return row["ended_at"] is not None, -row["id"]


class _Screen:
    """Looks and draws, each at its own pace: a slow answer does not freeze what is drawn."""

    def __init__(self, api: Api, url: str) -> None:
        self._api, self._url = api, url
        self._seen: Seen | None = None
        self._notice: str | None = "asking ..."
        self._changed, self._ended = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Until `q` is pressed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
        with _keys(loop, self._press), Live(screen=True, auto_refresh=False) as live:
            looking = asyncio.create_task(self._look())
            drawing = asyncio.create_task(self._draw(live))
            ended = asyncio.create_task(self._ended.wait())
            tasks: tuple[asyncio.Task[Any], ...] = (looking, drawing, ended)
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _press(self, key: bytes) -> None:
        if key[:1] in (b"q", b"Q", b"\x1b") and len(key) == 1:
            self._ended.set()

    async def _look(self) -> None:
        answered_at = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                self._seen, self._notice = await look(self._api), None
                answered_at = time.monotonic()
            except Failure as error:
                silent = time.monotonic() - answered_at
                self._notice = f"no answer for {silent:.0f}s, it is tried again: {error}"
            self._changed.set()
            # An orchestrator that takes long is asked less often.
            took = time.monotonic() - began
            await asyncio.sleep(max(_LOOK_SECONDS - took, took))

    async def _draw(self, live: Live) -> None:
        while True:
            self._changed.clear()
            rows = live.console.size.height
            drawn = frame(self._seen, url=self._url, rows=rows, notice=self._notice)
            live.update(_with_foot(drawn), refresh=True)
            # Not by wait_for, which before Python 3.12 may swallow that it is cancelled.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._changed.wait()


def _with_foot(drawn: RenderableType) -> Layout:
    layout = Layout()
    layout.split_column(Layout(drawn), Layout(Text(_FOOT, style="dim"), size=1))
    return layout


@contextlib.contextmanager
def _keys(loop: asyncio.AbstractEventLoop, press: Callable[[bytes], None]) -> Iterator[None]:
    """Keys come at once and are not shown; the terminal is put back."""
    if not sys.stdin.isatty():
        yield
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    tty.setcbreak(file)
    loop.add_reader(file, lambda: press(os.read(file, 1024)))
    try:
        yield
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)

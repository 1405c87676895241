"""How the demonstration speaks: with rich on a terminal, else in plain lines."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

_ENDLESS = 10_000
_NAME_WIDTH = 10


class _Console(Console):
    """When nobody reads any more it says so once, and is silent from then on: there is still
    something to clear away."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise BrokenPipeError


class Words:
    """Writes to standard output, line by line, as things happen."""

    def __init__(self, *, plain: bool) -> None:
        console = _Console(highlight=False, emoji=False, markup=False)
        self._plain = plain or not console.is_terminal
        if self._plain:
            console = _Console(
                highlight=False, emoji=False, markup=False, color_system=None, width=_ENDLESS
            )
        self._console = console
        self._status: Status | None = None

    def heading(self, text: str) -> None:
        """Begin a part."""
        self._console.print()
        self._console.print(Text(text, style="bold cyan"))

    def line(self, text: str = "", style: str = "") -> None:
        """Say something."""
        self._console.print(Text(f"  {text}" if text else "", style=style), soft_wrap=True)

    def step(self, seconds: float, name: str, text: str, style: str = "") -> None:
        """Say what happened so long after the kill."""
        line = Text.assemble(
            (f"  {seconds:+6.1f} s  ", "dim"), (f"{name:<{_NAME_WIDTH}} ", style or "bold"), text
        )
        self._console.print(line, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows below their columns."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        with self._console.capture() as captured:
            self._console.print(table)
        for text in captured.get().splitlines():
            self._console.print(Text.from_ansi(f"  {text.rstrip()}"), soft_wrap=True)

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """On a terminal, say what is waited for, below the lines, for as long as that takes."""
        if self._plain:
            yield
            return
        with self._console.status(Text(text, style="dim")) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def meanwhile(self, text: str) -> None:
        """Change what is said to be waited for."""
        if self._status is not None:
            self._status.update(Text(text, style="dim"))

"""A command on a terminal of its own."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence

from tests.patience import patient

_LIMIT_SECONDS = patient(15.0)
_NOT_INHERITED = ("NO_COLOR", "COLUMNS", "LINES")
"""Whoever runs the tests may have a terminal of another size."""
_SHOWN_CHARACTERS = 4_000
# Ctrl-C goes to whom the terminal belongs.
_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class OnTerminal:
    """Runs `command` on a terminal of this size, and collects all that it draws as `shown`."""

    def __init__(self, command: Sequence[str], *, columns: int = 80, rows: int = 24) -> None:
        self._command = command
        self._size = (columns, rows)
        self.shown = ""
        self.code: int | None = None

    def __enter__(self) -> "OnTerminal":
        self._primary, secondary = pty.openpty()
        self.resize(*self._size)
        variables = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, *self._command],
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env={**variables, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(secondary)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # that is how its end is told
            end = time.monotonic() + _LIMIT_SECONDS
            while time.monotonic() < end:
                self._read()
        self._process.kill()
        self.code = self._process.wait(timeout=patient(10))
        os.close(self._primary)

    def resize(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._primary, termios.TIOCSWINSZ, size)

    def send(self, keys: str) -> None:
        os.write(self._primary, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until it is drawn, counted from what was waited for last."""
        start, end = len(self.shown), time.monotonic() + _LIMIT_SECONDS
        while text not in self.shown[start:]:
            assert time.monotonic() < end, (
                f"{text!r} is not in {self.shown[start:][-_SHOWN_CHARACTERS:]!r}"
            )
            self._read()

    def _read(self) -> None:
        readable, _, _ = select.select([self._primary], [], [], 0.2)
        if readable:
            piece = os.read(self._primary, 65_536)
            if not piece:
                raise OSError("its end")
            self.shown += piece.decode(errors="replace")

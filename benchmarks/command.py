"""What the commands of all benchmarks share: how they end, and a database of their own."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dory_orchestrator.store.embedded import EmbeddedPostgres


def run(bench: Callable[[], int], *expected: type[Exception]) -> int:
    """Run a benchmark to its exit code; what is `expected` to go wrong is told in one line.

    An interruption counts once only: what follows is cleaning up, which is bounded and must not
    be cut short.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    failures: tuple[type[Exception], ...] = (*expected, TimeoutError)
    try:
        return bench()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except failures as error:
        print(f"the benchmark failed: {error or type(error).__name__}", file=sys.stderr)
        return 1


def _interrupt(_number: int, _frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def postgres(data_dir: Path) -> Iterator[str]:
    """The URL of a server of our own; its data are deleted in the end."""
    server = EmbeddedPostgres(data_dir)
    try:
        yield server.start()
    finally:
        server.destroy()

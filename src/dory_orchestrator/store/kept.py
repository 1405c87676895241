"""Values made of rows, kept from one reading to the next."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")
V = TypeVar("V")


class Kept(Generic[R, V]):
    """Where a row is as it was, so is its value: the very same object. Most rows are, and to
    compare one costs a fifth of making its value, which the collector then looks at, too.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[R, V]] = {}

    def take(self, rows: Mapping[K, R], make: Callable[[R], V]) -> dict[K, V]:
        """The value of each row; what has no row any more is forgotten."""
        known = self._known
        now: dict[K, tuple[R, V]] = {}
        for key, row in rows.items():
            before = known.get(key)
            now[key] = before if before is not None and before[0] == row else (row, make(row))
        self._known = now
        return {key: value for key, (_, value) in now.items()}

    def forget(self) -> None:
        """Make everything anew next time."""
        self._known = {}

"""Values made of rows, kept from one reading to the next."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")
V = TypeVar("V")


class Kept(Generic[K, R, V]):
    """Where a row is as it was, so is its value: the very same object. Most rows are, and to
    compare one costs a tenth of making its value, which the collector then looks at, too.
    """

    def __init__(self) -> None:
        self._rows: Mapping[K, R] = {}
        self._values: dict[K, V] = {}

    def take(self, rows: Mapping[K, R], make: Callable[[R], V]) -> Mapping[K, V]:
        """The value of each row; what has no row any more is forgotten. A later call does not
        change what an earlier one has returned."""
        known, values = self._rows, self._values
        changed = {key: make(row) for key, row in rows.items() if known.get(key) != row}
        if changed or len(rows) != len(known):
            values = values | changed
            if len(rows) != len(values):
                values = {key: values[key] for key in rows}
        # Only now: had making a value failed, the rest would pass for made.
        self._rows, self._values = rows, values
        return values

    def forget(self) -> None:
        """Make everything anew next time."""
        self._rows, self._values = {}, {}

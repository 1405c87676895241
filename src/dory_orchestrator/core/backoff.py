"""How long to wait before trying again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubles from `first_seconds` up to `most_seconds`.

    Failures are forgotten once a try lasted `forgotten_after_seconds`.
    """

    first_seconds: float
    most_seconds: float
    forgotten_after_seconds: float

    def count(self, failures: int, lasted_seconds: float) -> int:
        """Failures in a row, with the one that just happened after `lasted_seconds`."""
        return 1 if lasted_seconds >= self.forgotten_after_seconds else failures + 1

    def delay_seconds(self, failures: int) -> float:
        """The wait after so many failures in a row, at least one."""
        # Bounded exponent: the power would else grow with the failures.
        doublings = min(max(failures, 1) - 1, 32)
        return float(min(self.most_seconds, self.first_seconds * 2**doublings))

"""The servers side by side: they take turns, and each keeps what was measured of it."""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import servers
from benchmarks.load import Load, Measured

BATCH_SIZE = "dory_heartbeat_batch_size"
_MEMORY = "process_resident_memory_bytes"
_WARM_UP_SECONDS = 2
_POOL_SIZES = (10, 20)
_LEAN_POOL_SIZE = 20


@dataclass(slots=True)
class Variant:
    """One of the servers. `runs` begins with the warm-up; so do the means of batches and the
    memory, which only our own servers tell of.
    """

    server: servers.Server
    runs: list[Measured] = field(default_factory=list)
    batch_means: list[float] = field(default_factory=list)
    memory_bytes: list[float] = field(default_factory=list)

    def run(self, load: Load, seconds: int) -> None:
        """Measure once more. The mean size of batches is that of this run alone."""
        before = self.server.samples()
        self.runs.append(load.run(self.server.url, seconds))
        after = self.server.samples()
        if after:
            size, count = (after[name] - before[name] for name in _parts(BATCH_SIZE))
            self.batch_means.append(size / max(1.0, count))
            self.memory_bytes.append(after[_MEMORY])

    @property
    def rounds(self) -> list[Measured]:
        return self.runs[1:]

    @property
    def rates(self) -> list[float]:
        """Acknowledged beats a second, by round."""
        return [measured.beats_per_second for measured in self.rounds]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def ratios_to(self, other: "Variant") -> list[float]:
        """By round: what slows down a round of the machine slows down both."""
        return [own / others for own, others in zip(self.rates, other.rates, strict=True)]


@dataclass(frozen=True, slots=True)
class Compared:
    """All of them. `real` is the command as shipped, `lean` plain without its framework."""

    real: Variant
    no_database: Variant
    plain: Sequence[Variant]
    lean: Variant

    @property
    def all(self) -> list[Variant]:
        return [self.real, self.no_database, *self.plain, self.lean]

    @property
    def best_plain(self) -> Variant:
        return max(self.plain, key=lambda variant: variant.rate)

    def take_turns(self, load: Load, rounds: int, seconds: int) -> None:
        """Every other round in the opposite order, so that nobody always comes first."""
        for variant in self.all:
            variant.run(load, _WARM_UP_SECONDS)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for variant in self.all if number % 2 == 0 else reversed(self.all):
                variant.run(load, seconds)


@contextmanager
def started(folder: Path, url: str, plain_url: str, token: str) -> Iterator[Compared]:
    """All of them run all the time: an idle one costs a canary beat a second."""
    with ExitStack() as stack:

        def start(name: str, command: Callable[[int], list[str]]) -> Variant:
            server = servers.Server(name, servers.free_port(), folder / f"{name}.log")
            variables = {"DORY_STATE_TOKEN": token}
            stack.enter_context(servers.running(server, command(server.port), variables))
            return Variant(server)

        def start_plain(size: int, app: str = "fastapi") -> Variant:
            name = "lean" if app == "lean" else "plain"
            return start(
                f"{name}, pool of {size}", lambda p: servers.plain(plain_url, p, size, app)
            )

        yield Compared(
            start("recorded", lambda port: servers.real(url, port)),
            start("no database", lambda port: servers.no_database(url, port)),
            [start_plain(size) for size in _POOL_SIZES],
            start_plain(_LEAN_POOL_SIZE, "lean"),
        )


def _parts(histogram: str) -> tuple[str, str]:
    return f"{histogram}_sum", f"{histogram}_count"

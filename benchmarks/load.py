"""Load: `wrk` over kept-alive connections, with counts and latencies of the client's side."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

_SCRIPT = Path(__file__).with_name("load.lua")
_ANSWER_SECONDS = 5
_GRACE_SECONDS = 30.0
_MARK = "RESULT "


class LoadError(Exception):
    """wrk did not do its work."""


class Measured(msgspec.Struct, frozen=True):
    """One run of wrk. `broken` counts connections and requests without any answer."""

    duration_us: int
    acknowledged: int
    unacknowledged: int
    refused: int
    broken: int
    p50_us: int
    p99_us: int

    @property
    def beats_per_second(self) -> float:
        """Acknowledged beats a second: an answer alone does not count."""
        return self.acknowledged / (self.duration_us / 1e6)

    @property
    def not_acknowledged(self) -> int:
        return self.unacknowledged + self.refused + self.broken


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: bodies from a file, one a line, over so many connections."""

    bodies: Path
    token: str
    connections: int

    def run(self, url: str, seconds: int) -> Measured:
        """Send for so many seconds. Raises LoadError."""
        try:
            done = subprocess.run(
                self._command(url, seconds),
                capture_output=True,
                text=True,
                timeout=seconds + _GRACE_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError("wrk does not end") from error
        results = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
        if done.returncode != 0 or not results:
            raise LoadError(f"wrk failed: {done.stdout}{done.stderr}")
        return msgspec.json.decode(results[0].removeprefix(_MARK), type=Measured)

    def _command(self, url: str, seconds: int) -> list[str]:
        """One thread: it is far from busy, and keeps the order of the bodies."""
        options = ["-t", "1", "-c", str(self.connections), "-d", f"{seconds}s"]
        options += ["--timeout", f"{_ANSWER_SECONDS}s", "--latency", "-s", str(_SCRIPT)]
        target = f"{url}/api/v1/edge/heartbeat"
        return ["wrk", *options, target, "--", str(self.bodies), self.token]


def is_there() -> bool:
    """Is wrk installed?"""
    return shutil.which("wrk") is not None

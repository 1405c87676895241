"""Heartbeats at a fixed rate, whatever the server does (open loop), from a process of its own.

A beat is due at its moment; its latency counts from then, not from when it could be sent, so
that a server that stalls is charged for every beat that it held up (coordinated omission).
Each processor keeps to one connection, as in life. How late the generator itself was is told
beside: a late generator would be taken for a slow server.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import uvloop

_WARM_UP_SECONDS = 1.0
_ANSWERS_SECONDS = 10.0
_TICK_SECONDS = 0.001
_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


class Beaten(msgspec.Struct, frozen=True):
    """One run; latencies and lateness in seconds, of each beat.

    `lateness` is that of the generator. `unanswered` were sent or due, and had no answer in
    the end. `cpu_share` is how much of a core the generator used.
    """

    latencies: list[float]
    lateness: list[float]
    unacknowledged: int
    refused: int
    unanswered: int
    broken: int
    cpu_share: float

    @property
    def lost(self) -> int:
        return self.unacknowledged + self.refused + self.unanswered + self.broken


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(len(ordered) * share * 1e6) // 10**6) - 1))]


@dataclass(frozen=True, slots=True)
class Beating:
    """What is sent: for these processors in turn, over so many connections."""

    url: str
    token: str
    members: Path
    result: Path
    connections: int
    rate: int
    seconds: int

    def command(self) -> list[str]:
        """This process."""
        options = ["--url", self.url, "--token", self.token, "--members", str(self.members)]
        options += ["--result", str(self.result), "--connections", str(self.connections)]
        options += ["--rate", str(self.rate), "--seconds", str(self.seconds)]
        return [sys.executable, "-m", "benchmarks.beats", *options]


def write_members(path: Path, members: Sequence[tuple[UUID, str]]) -> None:
    """Processors and the names of their nodes."""
    path.write_text("".join(f"{key} {node}\n" for key, node in members))


def _requests(beating: Beating) -> list[bytes]:
    """A whole request for each processor."""
    host = urlsplit(beating.url).netloc
    requests = []
    for line in beating.members.read_text().splitlines():
        key, node = line.split(" ")
        body = json.dumps(
            {
                "processor_id": key,
                "node_id": node,
                "role": "primary",
                "epoch": 1,
                "timestamp": time.time(),
                "status": "healthy",
                "last_state_sync": None,
                "state_size_bytes": None,
                "uptime_sec": 3600.123456,
            }
        )
        requests.append(
            (
                "POST /api/v1/edge/heartbeat HTTP/1.1\r\n"
                f"Host: {host}\r\nAuthorization: Bearer {beating.token}\r\n"
                "Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: beats\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )
    return requests


class _Tally:
    """What came back."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.unacknowledged = self.refused = self.broken = 0

    def answer(self, due_at: float, answer: bytes) -> None:
        """Count one answer."""
        self.latencies.append(time.perf_counter() - due_at)
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.refused += 1
        elif b'"acknowledged":true' not in answer:
            self.unacknowledged += 1


class _Client(asyncio.Protocol):
    """One connection, one request at a time; what is due meanwhile waits, and ages."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._due_at: float | None = None
        self._received = b""

    @property
    def pending(self) -> int:
        """Beats without an answer."""
        return len(self._waiting) + (self._due_at is not None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not its subclass

    def connection_lost(self, _error: Exception | None) -> None:
        self._tally.broken += 1

    def beat(self, due_at: float, request: bytes) -> None:
        """Send it now, or when the one before was answered."""
        if self._due_at is None:
            self._send(due_at, request)
        else:
            self._waiting.append((due_at, request))

    def _send(self, due_at: float, request: bytes) -> None:
        assert self._transport is not None
        self._due_at = due_at
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_END)
        if end < 0:
            return
        head = self._received[:end].lower() + b"\r\n"
        at = head.find(_LENGTH) + len(_LENGTH)
        whole = end + len(_END) + int(head[at : head.find(b"\r", at)])
        if len(self._received) < whole:
            return
        answer, self._received = self._received[:whole], self._received[whole:]
        due_at, self._due_at = self._due_at, None
        assert due_at is not None
        self._tally.answer(due_at, answer)
        if self._waiting:
            self._send(*self._waiting.popleft())


async def _beat(beating: Beating) -> Beaten:
    requests, tally = _requests(beating), _Tally()
    parts = urlsplit(beating.url)
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(beating.connections):
        _, client = await loop.create_connection(
            lambda: _Client(tally), parts.hostname or "", parts.port or 80
        )
        clients.append(client)
    await _send_all(beating, requests, clients, warm_up=_WARM_UP_SECONDS)
    await _answered(clients)
    tally.latencies.clear()
    cpu_at, began_at = time.process_time(), time.perf_counter()
    lateness = await _send_all(beating, requests, clients, warm_up=0.0)
    unanswered = await _answered(clients)
    cpu_share = (time.process_time() - cpu_at) / (time.perf_counter() - began_at)
    return Beaten(
        latencies=tally.latencies,
        lateness=lateness,
        unacknowledged=tally.unacknowledged,
        refused=tally.refused,
        unanswered=unanswered,
        broken=tally.broken,
        cpu_share=cpu_share,
    )


async def _send_all(
    beating: Beating, requests: Sequence[bytes], clients: Sequence[_Client], warm_up: float
) -> list[float]:
    """Each beat at its moment, or as soon after it as we get to run: how late that was."""
    count = int(beating.rate * (warm_up or beating.seconds))
    began_at, lateness = time.perf_counter(), []
    number = 0
    while number < count:
        now = time.perf_counter()
        while number < count and (due_at := began_at + number / beating.rate) <= now:
            member = number % len(requests)
            clients[member % len(clients)].beat(due_at, requests[member])
            lateness.append(now - due_at)
            number += 1
        # A shorter sleep would be none at all for uvloop, whose clock counts milliseconds.
        await asyncio.sleep(_TICK_SECONDS)
    return lateness


async def _answered(clients: Sequence[_Client]) -> int:
    """Wait for the answers; how many are still missing in the end."""
    deadline = time.perf_counter() + _ANSWERS_SECONDS
    while time.perf_counter() < deadline:
        if not any(client.pending for client in clients):
            return 0
        await asyncio.sleep(0.01)
    return sum(client.pending for client in clients)


def main() -> None:
    """Beat, and write what came of it into a file, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    for name in ("members", "result"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("connections", "rate", "seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    beating = Beating(**vars(parser.parse_args()))
    # Its own pauses would be taken for the server's.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        beaten = runner.run(_beat(beating))
    beating.result.write_bytes(msgspec.json.encode(beaten))


if __name__ == "__main__":
    main()

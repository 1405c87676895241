"""What the control process tells the one that serves HTTP: a page of memory, written over.

The supervisor opens the file before either process starts, and it has no name. Either
process may die and come back: the reader sees how old the last report is, and the writer
waits for nobody.
"""

import asyncio
import os
import time
import zlib
from collections.abc import Callable, Mapping
from struct import Struct as Packing

import msgspec

from dory_orchestrator.core.model import ComponentHealth, HealthStatus
from dory_orchestrator.metrics import Family

_HEADER = Packing("<QI")  # length and CRC-32 of what follows
_WRITE_SECONDS = 0.5


class WatcherProgress(msgspec.Struct, frozen=True):
    """How the watcher gets on; moments are on the monotonic clock."""

    succeeded_at: float | None
    error: str | None


class ComponentReport(msgspec.Struct, frozen=True):
    """What a checker of the control process found."""

    status: HealthStatus
    message: str


class Report(msgspec.Struct):
    """`written_at` is on the monotonic clock, which all processes of a machine share.

    `components` lacks those of which nothing is known yet.
    """

    written_at: float
    watcher: WatcherProgress
    components: dict[str, ComponentReport]
    families: list[Family]


class Blackboard:
    """The shared file, by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = msgspec.msgpack.Decoder(Report)

    def write(self, report: Report) -> None:
        """Replace what stands there."""
        content = msgspec.msgpack.encode(report)
        os.pwrite(self._fd, _HEADER.pack(len(content), zlib.crc32(content)) + content, 0)

    def read(self) -> Report | None:
        """The last report; None before the first, and in the moment of a half-written one."""
        header = os.pread(self._fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return None
        length, checksum = _HEADER.unpack(header)
        content = os.pread(self._fd, length, _HEADER.size)
        if zlib.crc32(content) != checksum:
            return None
        return self._decoder.decode(content)


async def keep_reporting(
    board: Blackboard,
    watcher: Callable[[], WatcherProgress],
    components: Callable[[], Mapping[str, ComponentHealth]],
    families: Callable[[], list[Family]],
) -> None:
    """Write a report twice a second until cancelled."""
    while True:
        found = {
            name: ComponentReport(health.status, health.message)
            for name, health in components().items()
        }
        board.write(Report(time.monotonic(), watcher(), found, families()))
        await asyncio.sleep(_WRITE_SECONDS)

"""Loopback addresses in front of pods and of the orchestrator, which can be cut off."""

import asyncio
import contextlib
import errno
import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path

from dory_orchestrator.logs import get_logger

_log = get_logger(__name__)

_SLOTS = 6_000
_REAL_PORT_FIRST = 20_000
_FRONT_PORT_FIRST = 26_000
"""Both ranges lie below the ports that Linux (32768 on) and macOS (49152 on) hand out to
connections, one of which could else take a port between our look and the pod's bind."""
_POD_PORT = 8080
_TAKEN_IN_A_ROW_MAX = 50
_CONNECTIONS_MAX = 256
_CONNECT_SECONDS = 5.0
_CHUNK_BYTES = 65_536

Target = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Slot:
    """An address with a listening socket, and the port of the process behind it.

    Each address belongs to one port for all local clusters of a machine: who listens on the
    address owns the port, so that two of them never give the same one to two pods.
    """

    number: int
    ip: str
    port: int
    real_port: int
    sock: socket.socket

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.ip}:{self.port}"


class Slots:
    """Hands out slots, the one released last being the last to be used again."""

    def __init__(self, data_dir: Path) -> None:
        digest = hashlib.sha256(str(data_dir).encode()).digest()
        self._next = int.from_bytes(digest[:4], "big") % _SLOTS
        self._aliases = True

    def take(self) -> Slot:
        """A free slot. Raises OSError when there is none.

        Where no address but 127.0.0.1 exists (macOS), or something listens on port 8080 of
        all addresses, a port of 127.0.0.1 stands for the pod.
        """
        taken, last = 0, OSError(errno.EADDRINUSE, "no free address")
        for _ in range(_SLOTS):
            number, self._next = self._next, (self._next + 1) % _SLOTS
            try:
                return self._slot(number)
            except OSError as error:
                taken += 1
                if error.errno == errno.EADDRNOTAVAIL or taken >= _TAKEN_IN_A_ROW_MAX:
                    self._aliases = False
                last = error
        raise last

    def _slot(self, number: int) -> Slot:
        ip = f"127.77.{number // 250}.{number % 250 + 1}" if self._aliases else "127.0.0.1"
        port = _POD_PORT if self._aliases else _FRONT_PORT_FIRST + number
        real_port = _REAL_PORT_FIRST + number
        sock = _bound(ip, port)
        try:
            sock.listen(128)
            # The SDK binds it on all addresses.
            _bound("0.0.0.0", real_port).close()  # noqa: S104
        except OSError:
            sock.close()
            raise
        return Slot(number, ip, port, real_port, sock)


def _bound(ip: str, port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
    except OSError:
        sock.close()
        raise
    return sock


class Front:
    """Carries connections from a slot to a target.

    While it is dark nothing comes through, as behind a dropped network: connections hang.
    When it is lit again they die, and new ones get through.
    """

    def __init__(self, slot: Slot, target: Target | None) -> None:
        self.slot = slot
        self.target = target
        self._lit = asyncio.Event()
        self._lit.set()
        self._connections: dict[asyncio.StreamWriter, asyncio.StreamWriter | None] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begin to take connections."""
        self._server = await asyncio.start_server(
            self._carry, sock=self.slot.sock, limit=_CHUNK_BYTES
        )

    def close(self) -> None:
        """Drop everything, and give the address back."""
        if self._server is not None:
            self._server.close()
        self.slot.sock.close()
        self._abort(len(self._connections))
        self._lit.set()

    def darken(self) -> None:
        """From now on nothing comes through."""
        self._lit.clear()

    def lighten(self) -> None:
        """The end of `darken`."""
        if not self._lit.is_set():
            self._abort(len(self._connections))
            self._lit.set()

    def _abort(self, oldest: int) -> None:
        for near in list(self._connections)[:oldest]:
            for writer in (near, self._connections.pop(near)):
                if writer is not None:
                    writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._abort(len(self._connections) - _CONNECTIONS_MAX + 1)
        self._connections[writer] = None
        try:
            await self._lit.wait()
            if writer in self._connections:
                await self._connect(reader, writer)
        except (OSError, TimeoutError):
            pass  # to the caller it looks like what it is: a connection that broke
        finally:
            far = self._connections.pop(writer, None)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.target is None:
            return
        async with asyncio.timeout(_CONNECT_SECONDS):
            far_reader, far = await asyncio.open_connection(*self.target, limit=_CHUNK_BYTES)
        if writer not in self._connections:
            far.transport.abort()
            return
        self._connections[writer] = far
        await asyncio.gather(self._pump(reader, far), self._pump(far_reader, writer))
        # What was written last must get out before the connection is dropped.
        for end in (writer, far):
            end.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await end.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._lit.wait()
            writer.write(data)
            await writer.drain()
        await self._lit.wait()
        if writer.can_write_eof():
            writer.write_eof()

"""A TCP proxy in front of a PostgreSQL: what moves, fails over and forgets between two ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, quote, urlsplit


class Proxy:
    """Passes bytes on to one server. New connections go where it points; those that are open
    stay with their server until they are cut or forgotten."""

    def __init__(self, url: str) -> None:
        self._target = _socket_of(url)
        self._names = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """The URL of the same database through the proxy."""
        user = quote(self._names.username or "", safe="")
        return f"postgresql://{user}@127.0.0.1:{self.port}{self._names.path}"

    async def start(self) -> None:
        """Listen; after `stop` at the same address again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse what comes, and cut what is open."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def point_at(self, url: str) -> None:
        """From now on new connections go to another server."""
        self._target = _socket_of(url)

    def cut(self) -> None:
        """End every open connection, so that both ends see it."""
        for link in self._links:
            link.cut()

    def forget(self) -> None:
        """As a firewall that lost its table: no byte of an open connection gets through any
        more, and neither end hears of it."""
        for link in self._links:
            link.is_forgotten = True

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, there[1])
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(link.pass_on(reader, there[1]))
                group.create_task(link.pass_on(there[0], writer))
        finally:
            self._links.discard(link)
            link.cut()


class _Link:
    """One connection, with its two ends."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.is_forgotten = False

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self.is_forgotten:
                    writer.write(data)
                    await writer.drain()
        if not self.is_forgotten:
            writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


def _socket_of(url: str) -> str:
    folder = parse_qs(urlsplit(url).query)["host"][0]
    return f"{folder}/.s.PGSQL.5432"


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of a server of the tests."""
    proxy = Proxy(url)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()

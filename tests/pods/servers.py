"""Small servers that play pods: well-behaved ones, and ones that send whatever they like."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawPod:
    """A server whose every byte is chosen; `requests` are the heads that it got."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.address = ""
        self.requests: list[str] = []
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while head := await _head(reader):
                self.requests.append(head)
                await self._talk(reader, writer)
        except OSError:
            pass  # the client went away, as it may
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


@asynccontextmanager
async def raw_pod(talk: Talk | bytes) -> AsyncIterator[RawPod]:
    """A pod that answers each request with these bytes, or as `talk` does."""
    pod = RawPod(_say(talk) if isinstance(talk, bytes) else talk)
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await pod.serve(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    pod.address = "{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield pod
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def _say(content: bytes) -> Talk:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return talk


def reply(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    """A whole answer over HTTP/1.1; underscores in names of headers stand for hyphens."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

"""The socket on which a local cluster answers."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from dory_orchestrator import __version__
from dory_orchestrator.cluster.local import messages
from dory_orchestrator.cluster.local.control_plane import ControlPlane
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import ClusterRefused, Refusal

_log = get_logger(__name__)

_BODY_BYTES_MAX = 4 * 1024 * 1024
_WATCHERS_MAX = 64
_WRITE_SECONDS = 10.0

Call = Callable[[Any], Awaitable[Any]]


class Server:
    """Answers calls one by one, and keeps watchers up to date."""

    def __init__(self, plane: ControlPlane, stop: Callable[[bool], None]) -> None:
        self.ending = False
        self._plane = plane
        self._stop = stop
        self._watchers = 0
        self._calls: dict[str, tuple[type, Call]] = {
            "declare_nodes": (messages.DeclareNodes, plane.declare_nodes),
            "configure": (messages.Configure, plane.configure),
            "create_pod": (messages.CreatePod, plane.create_pod),
            "delete_pod": (messages.DeletePod, plane.delete_pod),
            "crash_node": (messages.Named, plane.crash_node),
            "find_pod": (messages.FindPod, plane.find_pod),
            "cut_node": (messages.Named, plane.cut_node),
            "restore_node": (messages.Named, plane.restore_node),
            "crash_pod": (messages.Named, plane.crash_pod),
            "stop_pod": (messages.Named, plane.stop_pod),
            "log_path": (messages.Named, plane.log_path),
            "stop": (messages.Stop, self._end),
        }

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_get("/version", self._version)
        app.router.add_get("/watch", self._watch)
        app.router.add_post("/call/{name}", self._call)
        return app

    async def _end(self, message: messages.Stop) -> None:
        self._stop(message.immediate)

    async def _version(self, _request: web.Request) -> web.Response:
        if self.ending:
            return _ended()
        return web.Response(text=f"local cluster {__version__}, process {os.getpid()}")

    async def _call(self, request: web.Request) -> web.Response:
        kind, call = self._calls.get(request.match_info["name"], (None, None))
        if kind is None or call is None:
            return _refused(Refusal.INVALID, "this local cluster has no such call")
        if self.ending and kind is not messages.Stop:
            return _ended()
        try:
            result = await call(messages.decode(await request.read(), kind))
        except msgspec.DecodeError as error:
            return _refused(Refusal.INVALID, str(error))
        except ClusterRefused as error:
            return _refused(error.reason, str(error))
        except OSError as error:  # of a disk that is full, say
            _log.error("a call failed", call=request.match_info["name"], error=str(error))
            return web.Response(status=500, text=str(error))
        answer = messages.Answer(self._plane.books.revision, result)
        return web.Response(body=messages.encode(answer))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self._watchers >= _WATCHERS_MAX:
            return web.Response(status=503, text=f"there are {_WATCHERS_MAX} watchers already")
        self._watchers += 1
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            await self._stream(response)
        except (OSError, TimeoutError):
            pass  # the watcher is gone, or asleep: it will notice
        finally:
            self._watchers -= 1
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        with self._plane.books.watch() as watch:
            while True:
                frame = await watch.next(messages.KEEPALIVE_SECONDS)
                async with asyncio.timeout(_WRITE_SECONDS):
                    await response.write(messages.encode(frame) + b"\n")
                await asyncio.sleep(0.01)  # several changes in a row go out as one


def _ended() -> web.Response:
    return web.Response(status=messages.ENDING_STATUS, text="it is ending")


def _refused(reason: Refusal, message: str) -> web.Response:
    body = messages.encode(messages.RefusedAnswer(reason, message))
    return web.Response(status=messages.REFUSED_STATUS, body=body)

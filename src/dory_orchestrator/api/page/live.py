"""One look at the fleet for all who look: read once, rendered once, told to each.

While nobody looks nothing is read. Whoever reads slowly gets the latest, never what was before.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.types import Message, Receive, Scope, Send

from dory_orchestrator.api.asgi import error_response
from dory_orchestrator.api.health import Checked, Health
from dory_orchestrator.api.page.rendering import Renderer
from dory_orchestrator.api.page.words import Sentence, sentence_of, without_database
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    FleetPicture,
    FleetViews,
    PictureQuery,
    StoreError,
    StoreTimeout,
)

_log = get_logger(__name__)
VIEWERS_MAX = 50
LOOK_SECONDS = 1.0
_READ_SECONDS_MAX = 2.5
_REFRESH_SECONDS = 5.0
_ALIVE_SECONDS = 10.0
_RETRY_MILLISECONDS = 2000
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    # Proxies that collect answers would keep it all.
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown at one moment. `sections` are HTML; `events` are they as events."""

    number: int
    is_broken: bool
    sentence: Sentence
    sections: Mapping[str, str]
    events: Mapping[str, bytes] = field(repr=False)


class Pictures:
    """The latest frame, and who waits for the next."""

    def __init__(
        self, views: FleetViews, health: Health, renderer: Renderer, look_seconds: float
    ) -> None:
        self._views = views
        self._health = health
        self._renderer = renderer
        self._look_seconds = look_seconds
        self._picture: FleetPicture | None = None
        self._mark: str | None = None
        self._read_at = -_REFRESH_SECONDS
        self._looked_at = -look_seconds
        self._sections = {"map": "", "moves": ""}
        self._frame: Frame | None = None
        self._number = 0
        self._looking: asyncio.Task[Frame] | None = None
        self._changed = asyncio.Event()
        self._viewers = 0
        self._watching: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def viewers(self) -> int:
        """How many look now."""
        return self._viewers

    def close(self) -> None:
        """End every stream at once, and take no more."""
        self._closed.set()
        self._changed.set()

    async def latest(self) -> Frame:
        """A frame that is at most as old as the time between two looks. All who ask at the same
        time share one look."""
        if (
            self._frame is not None
            and asyncio.get_running_loop().time() - self._looked_at < self._look_seconds
        ):
            return self._frame
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    @contextlib.asynccontextmanager
    async def viewer(self) -> AsyncIterator[bool]:
        """Look along. Yields False where there are too many, or the end has begun."""
        if self._viewers >= VIEWERS_MAX or self._closed.is_set():
            yield False
            return
        self._viewers += 1
        if self._watching is None:
            self._begin()
        try:
            yield True
        finally:
            self._viewers -= 1
            if not self._viewers and self._watching is not None:
                self._watching.cancel()
                self._watching = None

    def _begin(self) -> None:
        """What was seen when somebody looked last is told to nobody as what is now."""
        if asyncio.get_running_loop().time() - self._looked_at > 2 * self._look_seconds:
            self._frame = None
        self._watching = asyncio.create_task(self._watch())
        self._watching.add_done_callback(self._ended)

    def _ended(self, watching: "asyncio.Task[None]") -> None:
        """By a defect of ours, mostly: viewers are let go, and come again."""
        if watching.cancelled() or (error := watching.exception()) is None:
            return
        _log.error("unexpected error of the page", exc_info=error)
        self._watching = None
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer(self, than: int) -> Frame | None:
        """The latest frame once there is one behind this number; None at the end."""
        while not self._closed.is_set() and self._watching is not None:
            if self._frame is not None and self._frame.number > than:
                return self._frame
            await self._changed.wait()
        return None

    async def _watch(self) -> None:
        while True:
            await self.latest()
            await asyncio.sleep(self._look_seconds)

    async def _look(self) -> Frame:
        checking = asyncio.create_task(self._health.check())
        try:
            is_broken = not await self._could_read()
            self._show(await checking, is_broken=is_broken)
            assert self._frame is not None  # noqa: S101 - it is there from the first look on
            return self._frame
        finally:
            self._looking = None
            self._looked_at = asyncio.get_running_loop().time()

    async def _could_read(self) -> bool:
        try:
            await self._read()
        except StoreError as error:
            if self._frame is None or not self._frame.is_broken:
                _log.warning("the page cannot read the fleet", error=str(error))
            return False
        return True

    async def _read(self) -> None:
        """Read and render what has changed. What is only older now can wait for a while."""
        try:
            async with asyncio.timeout(_READ_SECONDS_MAX):
                mark = await self._views.picture_mark()
                is_fresh = asyncio.get_running_loop().time() - self._read_at < _REFRESH_SECONDS
                if mark == self._mark and is_fresh:
                    return
                picture = await self._views.picture(PictureQuery())
        except TimeoutError as error:
            raise StoreTimeout("no answer in time") from error
        step = PictureQuery().nodes
        drawn = await self._renderer.map(picture, 0, step)
        moves = self._renderer.moves(
            picture.moves, picture.summary.at, more=picture.more_moves, filters={}
        )
        self._sections = {"map": drawn, "moves": moves}
        self._picture, self._mark, self._read_at = picture, mark, asyncio.get_running_loop().time()

    def _show(self, health: Mapping[str, Checked], *, is_broken: bool) -> None:
        """Make it the frame, if it differs from the one before."""
        picture, now = self._picture, datetime.now(UTC)
        if is_broken or picture is None:
            sentence = without_database(None if picture is None else picture.summary.at, now)
        else:
            sentence = sentence_of(picture)
        sections = {
            "sentence": self._renderer.render("sentence.html", sentence=sentence),
            "strip": self._renderer.render(
                "strip.html", picture=picture, health=health, is_broken=is_broken
            ),
            **self._sections,
        }
        before = self._frame
        if before is not None and before.sections == sections:
            return
        self._number += 1
        events = {name: event(name, text, self._number) for name, text in sections.items()}
        self._frame = Frame(self._number, is_broken, sentence, sections, events)
        self._changed.set()
        self._changed = asyncio.Event()


class Stream:
    """`GET /live` as a bare ASGI application: an answer without an end."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._pictures.viewer() as is_admitted:
            if not is_admitted:
                words = f"viewers: {VIEWERS_MAX} look already, or the service is ending"
                refusal = error_response(503, words, {"retry-after": "5"})
                await refusal(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await send(_piece(f"retry: {_RETRY_MILLISECONDS}\n\n".encode()))
            gone = asyncio.create_task(_until_gone(receive))
            try:
                await self._tell(send, gone)
            finally:
                gone.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send, gone: "asyncio.Task[None]") -> None:
        """Each section that differs from what this viewer has, until the end."""
        told: Mapping[str, str] = {}
        number = 0
        while not gone.done():
            newer = asyncio.create_task(self._pictures.newer(number))
            await asyncio.wait(
                {newer, gone}, timeout=_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not newer.done():
                newer.cancel()
                if not gone.done():
                    await send(_piece(alive()))
                continue
            frame = newer.result()
            if frame is None:
                return
            changed = [n for n, text in frame.sections.items() if told.get(n) != text]
            await send(_piece(alive() + b"".join(frame.events[name] for name in changed)))
            told, number = frame.sections, frame.number


def event(name: str, text: str, number: int) -> bytes:
    """An event of the stream; a carriage return would end a line there."""
    lines = text.replace("\r", "").split("\n")
    data = "".join(f"data: {line}\n" for line in lines)
    return f"id: {number}\nevent: {name}\n{data}\n".encode(errors="replace")


def alive() -> bytes:
    """Says that we are there, and what time it is with us: to who reads the stream, and, as a
    comment, to what stands between."""
    return f": alive\nevent: alive\ndata: {time.time():.1f}\n\n".encode()


def _piece(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

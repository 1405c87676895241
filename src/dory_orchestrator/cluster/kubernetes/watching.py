"""List, then watch: one kind of object of one place, kept up to date.

Each picture of a cluster is put together from several of these (design, section 7).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec

from dory_orchestrator.cluster.kubernetes.connection import Call, Connection, Expired, Stream
from dory_orchestrator.cluster.kubernetes.objects import (
    Bookmark,
    Metadata,
    ObjectList,
    Status,
    WatchEvent,
)
from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import ClusterUnavailable

_log = get_logger(__name__)
K = TypeVar("K")
V = TypeVar("V")

_LIST_SECONDS = 30.0
_HEAD_SECONDS = 10.0
_WATCH_SECONDS = 240
_LINE_BYTES_MAX = 64 * 1024 * 1024
_GONE = 410
_BACKOFF = Backoff(first_seconds=0.1, most_seconds=2.0, forgotten_after_seconds=10.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """How lists and watches are read.

    A server tells how far it is about once a minute, also when nothing happens: a stream that is
    silent for `silence_seconds` is opened anew. `patience_seconds` is for how long streams may
    fail before the picture is given up.
    """

    page: int = 500
    silence_seconds: float = 75.0
    patience_seconds: float = 10.0


USUAL_PACE = Pace()


def pace_of(poll_interval_seconds: float) -> Pace:
    """Such that no stream is silent for the two intervals after which a picture is no longer fresh."""
    silence = min(USUAL_PACE.silence_seconds, max(5.0, 1.5 * poll_interval_seconds))
    return replace(USUAL_PACE, silence_seconds=silence)


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class Source(Generic[K, V]):
    """What to list and to watch, and what becomes of it.

    `call(apis, **query)` makes the request; `model` is the struct of one object; `key` and
    `value` say what it is here, by its metadata and whole.
    """

    def __init__(
        self,
        name: str,
        call: Callable[..., Any],
        model: type[Any],
        key: Callable[[Metadata], K],
        value: Callable[[Any], V],
    ) -> None:
        self.name = name
        self.call = call
        self.key, self.value = key, value
        self.pages: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ObjectList[model])  # type: ignore[valid-type]
        self.objects: msgspec.json.Decoder[Any] = msgspec.json.Decoder(model)


class Reflection(Generic[K, V]):
    """The objects of one source as they are now.

    `version` is how far it has come, `heard_at` when something was heard last, by the loop's
    clock. `on_change` is called after each step.
    """

    def __init__(
        self,
        connection: Connection,
        source: Source[K, V],
        on_change: Callable[[], None],
        pace: Pace,
    ) -> None:
        self._connection = connection
        self._pace = pace
        self._source = source
        self._on_change = on_change
        self.objects: dict[K, V] = {}
        self.version = ""
        self.heard_at = _now()

    @property
    def name(self) -> str:
        """Of its source."""
        return self._source.name

    async def keep_up(self) -> None:
        """Follow the changes until cancelled. Raises ClusterUnavailable when that fails for too
        long, ClusterRefused."""
        while True:
            try:
                await self._keep_watching()
            except Expired:
                _log.info("a watch is too old: listed again", what=self._source.name)
                await self.read_all()

    async def read_all(self) -> None:
        """Have everything anew, page by page; a list whose next page has expired begins again,
        without pages. Raises ClusterUnavailable, ClusterRefused."""
        asked_at = _now()
        try:
            found, version = await self._read_pages(self._pace.page)
        except Expired:
            asked_at = _now()
            found, version = await self._read_pages(None)
        self.objects, self.version, self.heard_at = found, version, asked_at
        self._on_change()

    async def _read_pages(self, limit: int | None) -> tuple[dict[K, V], str]:
        found: dict[K, V] = {}
        following: str | None = None
        while True:
            query = {"limit": limit, "_continue": following}
            body = await self._connection.send(
                self._call({key: value for key, value in query.items() if value is not None}),
                timeout_seconds=_LIST_SECONDS,
            )
            try:
                page = self._source.pages.decode(body)
            except msgspec.DecodeError as error:
                raise ClusterUnavailable(f"a list of {self._source.name}: {error}") from error
            for item in page.items or ():
                found[self._source.key(item.metadata)] = self._source.value(item)
            following = page.metadata.continue_
            if not following:
                return found, page.metadata.resource_version

    async def _keep_watching(self) -> None:
        """Open one stream after the other, each where the one before has ended."""
        loop = asyncio.get_running_loop()
        failures, worked_at = 0, loop.time()
        while True:
            began_at = loop.time()
            try:
                await self._watch()
                failures, worked_at = 0, loop.time()
            except Expired:
                raise
            except ClusterUnavailable as error:
                now = loop.time()
                # A stream that lasted was one that worked.
                if now - began_at > self._pace.patience_seconds:
                    failures, worked_at = 0, now
                if now - worked_at > self._pace.patience_seconds:
                    raise
                failures += 1
                _log.debug("a watch broke", what=self._source.name, error=str(error))
                await asyncio.sleep(_BACKOFF.delay_seconds(failures))

    async def _watch(self) -> None:
        query = {
            "watch": True,
            "allow_watch_bookmarks": True,
            "resource_version": self.version,
            # Not all at once: they would all be opened anew in the same moment, too.
            "timeout_seconds": int(_WATCH_SECONDS * random.uniform(1.0, 1.5)),  # noqa: S311
        }
        opened = self._connection.stream(self._call(query), timeout_seconds=_HEAD_SECONDS)
        async with opened as stream:
            # A quiet cluster says something about once a minute; that it takes up a stream anew where
            # the last one ended says as much.
            self.heard_at = _now()
            self._on_change()
            async for lines in self._read(stream):
                for line in lines:
                    self._take(line)
                self.heard_at = _now()
                self._on_change()

    async def _read(self, stream: Stream) -> AsyncIterator[list[bytes]]:
        """The whole lines that have come. Raises ClusterUnavailable when it breaks, or is silent
        for too long."""
        rest = b""
        while True:
            try:
                async with asyncio.timeout(self._pace.silence_seconds):
                    chunk = await stream.read()
            except TimeoutError as error:
                raise ClusterUnavailable(f"a silent watch of {self._source.name}") from error
            except (aiohttp.ClientError, OSError) as error:
                raise ClusterUnavailable(f"a watch of {self._source.name}: {error}") from error
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_BYTES_MAX:
                raise ClusterUnavailable(f"a watch of {self._source.name}: a line without end")
            if lines := [line for line in lines if line]:
                yield lines

    def _take(self, line: bytes) -> None:
        """Raises Expired, ClusterUnavailable."""
        try:
            event = msgspec.json.decode(line, type=WatchEvent)
            if event.type == "ERROR":
                self._fail(msgspec.json.decode(event.object, type=Status))
            if event.type == "BOOKMARK":
                self.version = msgspec.json.decode(
                    event.object, type=Bookmark
                ).metadata.resource_version
                return
            item = self._source.objects.decode(event.object)
        except msgspec.DecodeError as error:
            raise ClusterUnavailable(f"a watch of {self._source.name}: {error}") from error
        key = self._source.key(item.metadata)
        if event.type == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = self._source.value(item)
        self.version = item.metadata.resource_version

    def _fail(self, said: Status) -> None:
        message = said.message or said.reason or "an error without words"
        if said.code == _GONE or said.reason in ("Expired", "Gone"):
            raise Expired(message)
        raise ClusterUnavailable(f"a watch of {self._source.name}: {message}")

    def _call(self, query: dict[str, Any]) -> Call:
        return lambda apis: self._source.call(apis, **query)

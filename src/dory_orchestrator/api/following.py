"""Events as they happen, for many viewers: one of us reads, each of them has a bounded queue."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from dory_orchestrator.api.asgi import encode
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import EventQuery, EventView, FleetViews, StoreBusy, StoreError

_log = get_logger(__name__)
VIEWERS_MAX = 50
QUEUE_MAX = 1_000
"""Events that may wait for a viewer."""
_SECONDS = 1.0
_PAGE = 100
_WINDOW = 20_000
"""A statement looks at no more ids than these, however few events it finds."""
_SETTLE_TRIES = 5
_BREATH_SECONDS = 0.005
"""After each page: heartbeats need the process, and operators the database."""


class TooManyViewers(Exception):
    """No other is taken. The message says why."""


def frame_of(event: EventView) -> bytes:
    """The event as one message of a stream of server-sent events."""
    kind = event.kind if event.kind.isidentifier() else "event"
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.id, kind.encode(), encode(event))


def overrun_frame(event_id: int) -> bytes:
    """The last message to a viewer that was too slow: it goes on behind `event_id`."""
    return b'id: %d\nevent: overrun\ndata: {"after":%d}\n\n' % (event_id, event_id)


class Viewer:
    """Who follows. `wanted` holds filters; `position` is the event behind which its queue
    begins."""

    def __init__(self, wanted: EventQuery, queue_max: int = QUEUE_MAX) -> None:
        self.wanted = wanted
        self._queue_max = queue_max
        self.position = 0
        self.is_ended = False
        self.overrun_id: int | None = None
        """It was too slow: all up to this event is in the queue, and nothing behind it."""
        self._queue: deque[tuple[int, bytes]] = deque()
        self._news = asyncio.Event()

    def offer(self, event: EventView, frame: bytes) -> None:
        """Put it into the queue, if it is wanted and there is room."""
        if self.overrun_id is not None or not _is_wanted(event, self.wanted):
            return
        if len(self._queue) >= self._queue_max:
            self.overrun_id = self._queue[-1][0]
        else:
            self._queue.append((event.id, frame))
        self._news.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self.is_ended = True
        self._news.set()

    async def take(self, limit: int, *, wait_seconds: float) -> Sequence[tuple[int, bytes]]:
        """Up to `limit` events, as (id, frame); none after the wait, at the end, and when all
        before an overrun was taken."""
        if not self._queue and not self.is_ended and self.overrun_id is None:
            self._news.clear()
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._news.wait()
            except TimeoutError:
                return []
        count = min(limit, len(self._queue))
        return [self._queue.popleft() for _ in itertools.repeat(None, count)]


class Follower:
    """Reads what is new, once for all viewers, and only while there are any: each
    `look_seconds`, for queues of `queue_max` events."""

    def __init__(self, views: FleetViews) -> None:
        self.look_seconds, self.queue_max = _SECONDS, QUEUE_MAX
        self._views = views
        self._viewers: set[Viewer] = set()
        self._count = 0
        self._position = 0
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._is_blind = False

    async def join(self, wanted: EventQuery) -> Viewer:
        """A viewer from now on, until it leaves. Raises TooManyViewers, StoreError."""
        if self._closed:
            raise TooManyViewers("events: the orchestrator is shutting down")
        if self._count >= VIEWERS_MAX:
            raise TooManyViewers(f"events: {VIEWERS_MAX} follow them already")
        self._count += 1
        viewer = Viewer(wanted, self.queue_max)
        try:
            async with self._starting:
                if self._task is None:
                    self._position = await settled(self._views)
                    self._task = asyncio.create_task(self._follow())
                    self._task.add_done_callback(_tell_defect)
        except BaseException:
            self._count -= 1
            raise
        viewer.position, viewer.is_ended = self._position, self._closed
        self._viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """It needs nothing any more."""
        self._viewers.discard(viewer)
        self._count -= 1

    def close(self) -> None:
        """End all viewers, at once and for good."""
        self._closed = True
        for viewer in self._viewers:
            viewer.end()

    async def _follow(self) -> None:
        try:
            while self._count and not self._closed:
                if not await self._read():
                    await asyncio.sleep(self.look_seconds)
        finally:
            self._task = None
            for viewer in self._viewers:
                viewer.end()

    async def _read(self) -> bool:
        """A page for everyone; whether there is more."""
        query = EventQuery(limit=_PAGE, after_id=self._position)
        try:
            page = await self._views.list_events(query)
        except StoreError as error:
            if not self._is_blind:
                _log.warning("events are not read: who follows them waits", error=str(error))
            self._is_blind = True
            return False
        self._is_blind = False
        for event in page.events:
            frame = frame_of(event)
            for viewer in self._viewers:
                viewer.offer(event, frame)
        self._position = page.follow_id
        return page.more


def _tell_defect(task: asyncio.Task[None]) -> None:
    """Nobody awaits it. Its viewers come again, and begin where they were."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("events are not followed any more", exc_info=error)


async def settled(views: FleetViews) -> int:
    """The newest event below which no other will appear. Raises StoreError."""
    for _ in range(_SETTLE_TRIES):
        found = await views.settled_event()
        if found is not None:
            return found
    raise StoreBusy("writers of events take too long")


async def history(
    views: FleetViews, query: EventQuery, until_id: int, turn: asyncio.Lock
) -> AsyncIterator[Sequence[EventView]]:
    """Pages of events above `query.after_id`, up to a settled one. Whoever shares `turn` reads
    one after the other: operators' requests find a free connection. Raises StoreError."""
    after_id = query.after_id or 0
    while after_id < until_id:
        window = replace(query, after_id=after_id, until_id=min(until_id, after_id + _WINDOW))
        async with turn:
            page = await views.list_events(window)
            await asyncio.sleep(_BREATH_SECONDS)
        yield page.events
        after_id = page.follow_id


def _is_wanted(event: EventView, wanted: EventQuery) -> bool:
    return (
        wanted.processor_id in (None, event.processor_id)
        and wanted.node in (None, event.node_name)
        and wanted.kind in (None, event.kind)
        and wanted.reason in (None, event.reason)
    )

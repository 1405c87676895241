"""Events as streams: those that happen, as server-sent events, and all of a time, as lines.

The process that serves them hears the heartbeats: each step takes milliseconds, and what waits
for a reader is bounded.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dory_orchestrator.api.asgi import error_response
from dory_orchestrator.api.fleet_bodies import ExportQuery, StreamQuery
from dory_orchestrator.api.following import (
    Follower,
    TooManyViewers,
    Viewer,
    frame_of,
    history,
    overrun_frame,
    settled,
)
from dory_orchestrator.api.parameters import ParameterError, given, moment, query_of
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import EventQuery, FleetViews, StoreError, StoreUnavailable

_log = get_logger(__name__)
EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"
EXPORTS_MAX = 4
_EXPORT_PAGE = 1_000
_CATCH_UP_PAGE = 200
_BATCH = 100
_QUIET_SECONDS = 10.0
"""A comment is sent after so long without an event: proxies end what is silent."""
_BEGINNING = b"retry: 2000\n\n"
_COMMENT = b": nothing new\n\n"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_RETRY = {"retry-after": "5"}
_encoder = msgspec.json.Encoder()


class EventStreams:
    """The handlers of both, and all that they share."""

    def __init__(self, views: FleetViews) -> None:
        self._views = views
        self.follower = Follower(views)
        self.quiet_seconds = _QUIET_SECONDS
        self._turn = asyncio.Lock()
        self._exports = 0
        self._closed = False

    def close(self) -> None:
        """End what is being followed, and cut what is being exported."""
        self._closed = True
        self.follower.close()

    async def stream(self, request: Request) -> Response:
        """200 with server-sent events, without an end; 409 behind an id that is yet to come; 503
        when too many follow."""
        query = query_of(StreamQuery, request.scope["query_string"])
        after_id = _last_event_id(request, given(query.after))
        if request.method == "HEAD":
            return Response(media_type=EVENT_STREAM, headers=_HEADERS)
        wanted = EventQuery(
            limit=_CATCH_UP_PAGE,
            processor_id=given(query.processor),
            node=given(query.node),
            kind=given(query.kind),
            reason=given(query.reason),
        )
        try:
            viewer = await self.follower.join(wanted)
        except TooManyViewers as error:
            return error_response(503, str(error), _RETRY)
        try:
            refused = await self._refusal(viewer, after_id)
        except BaseException:
            self.follower.leave(viewer)
            raise
        if refused is not None:
            self.follower.leave(viewer)
            return refused
        return _Stream(
            self._frames(viewer, after_id),
            media_type=EVENT_STREAM,
            on_end=lambda: self.follower.leave(viewer),
        )

    async def _refusal(self, viewer: Viewer, after_id: int | None) -> Response | None:
        """Of another database, or of this one before it was restored: to wait until ids are as
        high again would be a hole."""
        if after_id is None or after_id <= viewer.position:
            return None
        newest = await settled(self._views)
        if after_id <= newest:
            return None
        return error_response(409, f"after: the newest event is {newest}: {after_id} is none yet")

    async def _frames(self, viewer: Viewer, after_id: int | None) -> AsyncIterator[bytes]:
        yield _BEGINNING
        sent_id = viewer.position if after_id is None else after_id
        if sent_id < viewer.position:
            async for frames in self._missed(viewer, sent_id):
                yield frames
            sent_id = viewer.position
        while not viewer.is_ended:
            taken = await viewer.take(_BATCH, wait_seconds=self.quiet_seconds)
            if taken:
                yield b"".join(frame for event_id, frame in taken if event_id > sent_id)
            elif viewer.overrun_id is not None:
                _log.info("a viewer of events is too slow", after=viewer.overrun_id)
                yield overrun_frame(viewer.overrun_id)
                return
            elif not viewer.is_ended:
                yield _COMMENT

    async def _missed(self, viewer: Viewer, after_id: int) -> AsyncIterator[bytes]:
        """What happened before it came. Raises StoreError: the viewer comes again."""
        query = replace(viewer.wanted, after_id=after_id)
        async for events in history(self._views, query, viewer.position, self._turn):
            if viewer.is_ended:
                return
            if events:
                yield b"".join(map(frame_of, events))

    async def export(self, request: Request) -> Response:
        """200 with a JSON object on each line; 503 when too many export at once.

        The end of the body is sent only when all was: one that is cut is not complete.
        """
        query = query_of(ExportQuery, request.scope["query_string"])
        since, until = moment(query.since, "since"), moment(query.until, "until")
        if request.method == "HEAD":
            return Response(media_type=JSON_LINES, headers=_HEADERS)
        if self._exports >= EXPORTS_MAX:
            return error_response(503, f"events: {EXPORTS_MAX} exports are under way", _RETRY)
        self._exports += 1
        try:
            bounds = await self._views.event_bounds(since, until)
            newest = await settled(self._views)
        except BaseException:
            self._end_export()
            raise
        wanted = EventQuery(
            limit=_EXPORT_PAGE,
            processor_id=given(query.processor),
            node=given(query.node),
            kind=given(query.kind),
            since=since,
            until=until,
            explained=query.explained == "true",
        )
        until_id = newest if bounds.until_id is None else min(newest, bounds.until_id)
        return _Stream(
            self._lines(wanted, bounds.after_id, until_id),
            media_type=JSON_LINES,
            on_end=self._end_export,
        )

    def _end_export(self) -> None:
        self._exports -= 1

    async def _lines(
        self, wanted: EventQuery, after_id: int, until_id: int
    ) -> AsyncIterator[bytes]:
        """Raises StoreError."""
        query = replace(wanted, after_id=after_id)
        async for events in history(self._views, query, until_id, self._turn):
            if self._closed:
                raise StoreUnavailable("the orchestrator is shutting down")
            if events:
                yield _encoder.encode_lines(events)


class _Stream(StreamingResponse):
    """A body in chunks. One that cannot be completed is cut, so that nobody takes it for
    complete."""

    def __init__(
        self, content: AsyncIterator[bytes], *, media_type: str, on_end: Callable[[], None]
    ) -> None:
        super().__init__(content, media_type=media_type, headers=_HEADERS)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """However it ends, it is told."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()

    async def stream_response(self, send: Send) -> None:
        """As of Starlette, but for what the store does not do: then the server, which has not
        heard of an end, closes the connection."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            async for chunk in self.body_iterator:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except StoreError as error:
            _log.warning("a stream of events is cut", error=str(error))
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _last_event_id(request: Request, after: int | None) -> int | None:
    """What a browser that comes again says counts more than what it was first told."""
    text = request.headers.get("last-event-id")
    if not text:
        return after
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ParameterError("last-event-id: is no id of an event")
    return int(text)

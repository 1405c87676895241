"""Each `shutdown` that is answered stands in the events, with the facts and rules behind it.

An instance that is told to end beats on until it has: it is told of once in ten minutes. Whoever
sends heartbeats of processors that nobody knows gets `shutdown`, too: so few are told of in a second,
and so many remembered, that nobody can fill the database or this process with them.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from dory_orchestrator.core.answering import explanation
from dory_orchestrator.core.directive import BeatFacts, DirectiveReason, explain
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import Beat, Event, StoreError, TellingStore

_log = get_logger(__name__)
_WRITE_SECONDS = 1.0
_A_SECOND_MAX = 20
_ONCE_IN_SECONDS = 600.0
_REMEMBERED_MAX = 10_000
_NAME_MAX = 253


class _Told(NamedTuple):
    processor_id: UUID
    sender_node_name: str
    reason: DirectiveReason


class Shutdowns:
    """Takes them in at any time, and writes them beside the heartbeats."""

    def __init__(self, store: TellingStore, now: Callable[[], float] | None = None) -> None:
        """`now` gives seconds; without it the event loop's clock does."""
        self._store = store
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._told: dict[_Told, float] = {}
        self._waiting: list[Event] = []

    def tell(self, beat: Beat, facts: BeatFacts, reason: DirectiveReason) -> None:
        """Have it written soon, unless it was lately, or too many are."""
        # What is longer is the name of no node.
        node_name = beat.node_name[:_NAME_MAX]
        told, now = _Told(beat.processor_id, node_name, reason), self._now()
        at = self._told.get(told)
        if at is not None and now - at < _ONCE_IN_SECONDS:
            return
        if len(self._waiting) >= _A_SECOND_MAX:
            return
        if len(self._told) >= _REMEMBERED_MAX:
            # The oldest first: they were put in in the order of time.
            del self._told[next(iter(self._told))]
        self._told.pop(told, None)
        self._told[told] = now
        self._waiting.append(_event(told, facts))

    async def run(self) -> None:
        """Write once a second, until cancelled. What cannot be written is not told: the log and the
        metrics have it as well."""
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            events, self._waiting = self._waiting, []
            if not events:
                continue
            try:
                await self._store.tell(events)
            except StoreError as error:
                _log.info("shutdowns are not told", events=len(events), error=str(error))


def _event(told: _Told, facts: BeatFacts) -> Event:
    node = told.sender_node_name
    detail = f"a heartbeat of it from {node or 'no node'} was answered shutdown"
    why = explain(facts, node)
    said = ("shutdown", str(told.reason), detail)
    return Event(
        *said, told.processor_id, node_name=node or None, explanation=explanation(*said, why)
    )

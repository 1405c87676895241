"""Answers to what operators ask: by who leads, from the snapshot and the plan of its cycle."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from dory_orchestrator.core.answering import Question, QuestionKind, answer, json_text
from dory_orchestrator.core.model import Limits, Snapshot
from dory_orchestrator.core.plan import Plan
from dory_orchestrator.core.supposing import Experience
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import Lease, LeaseLost, StoreError

_log = get_logger(__name__)
_AT_ONCE = 8
"""A question asks for no more than another computation: so many do not hold up the next cycle."""


def _bearable(questions: Sequence[Question]) -> Sequence[Question]:
    """One that supposes costs up to a second in a large fleet: one in a cycle, the others wait."""
    supposing = [one for one in questions if one.kind == QuestionKind.WHAT_IF]
    later = {one.id for one in supposing[1:]}
    return [one for one in questions if one.id not in later]


class Asked(Protocol):
    """Where questions come from, and what answers rest on besides a snapshot."""

    async def open_questions(self, limit: int) -> Sequence[Question]:
        """See QuestionStore."""
        ...

    async def answer_questions(self, lease: Lease, answers: Mapping[int, str]) -> None:
        """See QuestionStore."""
        ...

    async def failover_seconds(self) -> float | None:
        """See QuestionStore."""
        ...

    async def checkpoint_ages(self) -> Mapping[UUID, float]:
        """See CheckpointStore."""
        ...


class Answerer:
    """Gives each question its answer at the end of a cycle."""

    def __init__(self, store: Asked, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def answer(self, lease: Lease, snapshot: Snapshot, plan: Plan) -> None:
        """Answer what was asked, from the plan of this cycle. Raises LeaseLost. Whoever asks what
        cannot be read or written now waits for the next cycle, or in vain: nothing else does.
        """
        try:
            questions = await self._store.open_questions(_AT_ONCE)
            if not questions:
                return
            questions = _bearable(questions)
            experience = await self._experience(questions)
            answers = {}
            for question in questions:
                answers[question.id] = self._answered(question, snapshot, plan, experience)
                # The lease is renewed by this event loop, too.
                await asyncio.sleep(0)
            await self._store.answer_questions(lease, answers)
        except LeaseLost:
            raise
        except StoreError as error:
            _log.info("questions wait for the store", error=str(error))

    def _answered(
        self, question: Question, snapshot: Snapshot, plan: Plan, experience: Experience
    ) -> str:
        try:
            return json_text(answer(question, snapshot, plan, self._limits, experience))
        except Exception:  # noqa: BLE001 - it is logged, and the fleet goes on
            # A question stays until it is answered: one that cannot be would end every cycle.
            _log.exception("a question is not answered", kind=question.kind)
            return json_text({"unknown": "question: the leader failed at it; its log says why"})

    async def _experience(self, questions: Sequence[Question]) -> Experience:
        if all(question.kind != QuestionKind.WHAT_IF for question in questions):
            return Experience({})
        ages = await self._store.checkpoint_ages()
        return Experience(ages, await self._store.failover_seconds())

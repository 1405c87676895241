"""While an operator has paused everything: nothing is created, ended or moved."""

from dataclasses import replace
from uuid import UUID

from dory_orchestrator.core.model import Pause, Snapshot
from dory_orchestrator.core.plan import CancelMove, Create, Delete, Finding, Plan, Reason
from dory_orchestrator.core.why import Answer, Rule

Paused = Create | Delete | CancelMove


def paused(snapshot: Snapshot, plan: Plan) -> Plan:
    """The plan without what touches the cluster, while a pause lasts. What is only written down
    goes on: who owns, what failed, which move has arrived.
    """
    pause = snapshot.desired.pause
    if pause is None or pause.until <= snapshot.now:
        return plan
    cancels = tuple(end for end in plan.ends if isinstance(end, CancelMove))
    held: tuple[Paused, ...] = (*plan.creates, *plan.deletes, *cancels)
    wake_at = pause.until if plan.wake_at is None else min(plan.wake_at, pause.until)
    findings = {one.processor_id: _finding(plan, one, pause) for one in held}
    return replace(
        plan,
        creates=(),
        deletes=(),
        ends=tuple(end for end in plan.ends if not isinstance(end, CancelMove)),
        findings={**plan.findings, **findings},
        answers={**plan.answers, **{key: _asked(snapshot, plan, key, pause) for key in findings}},
        pause=pause,
        paused=held,
        wake_at=wake_at,
    )


def _finding(plan: Plan, action: Paused, pause: Pause) -> Finding:
    before = plan.findings.get(action.processor_id)
    verb = {Create: "create", Delete: "end", CancelMove: "take back"}[type(action)]
    detail = f"{pause.by} paused everything ({pause.reason}); else: {verb}, {action.detail}"
    return Finding(Reason.PAUSED, detail, None if before is None else before.pod)


def _asked(snapshot: Snapshot, plan: Plan, processor_id: UUID, pause: Pause) -> list[Answer]:
    asked = (Rule.PAUSED, True, (pause.until - snapshot.now, pause.by, pause.reason))
    return [*plan.answers.get(processor_id, ()), asked]

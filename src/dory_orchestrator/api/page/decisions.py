"""What operators may decide on the page, in one table.

A decision is a request of the fleet API with a form: the fields that are asked for, those that the
link to it has filled in, and what is done. To add one is to add a row.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from dory_orchestrator.api.asking import start_drill
from dory_orchestrator.api.asking_bodies import (
    DrillStartRequest,
    DrillStopRequest,
    OrderRequest,
    PauseRequest,
    ResumeRequest,
)
from dory_orchestrator.api.bodies import BodyError, named
from dory_orchestrator.api.fleet_bodies import (
    ClearRequest,
    ConfirmRequest,
    CordonRequest,
    OverrideRequest,
    UncordonRequest,
)
from dory_orchestrator.api.parameters import given
from dory_orchestrator.core.model import OrderKind
from dory_orchestrator.ports import FleetViews


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form. Hidden ones come from the link, and are shown as `label: value`."""

    name: str
    label: str
    kind: Literal["text", "choice", "hidden", "counts"] = "text"
    choices: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """`does` says in a sentence what follows, before it is decided; `decide` does it and returns
    what has come of it."""

    name: str
    title: str
    does: str
    request: type[msgspec.Struct]
    decide: Callable[[FleetViews, Any], Awaitable[str]]
    fields: Sequence[Field] = ()
    fill_in: Callable[[FleetViews], Awaitable[Mapping[str, str]]] | None = None
    """What is shown, and sent back, beside what the link says: the decision is about that."""

    def request_of(self, form: Mapping[str, str]) -> Any:
        """What the form asks for. Raises BodyError, naming the field."""
        values: dict[str, object] = {"by": form.get("by", "").strip()}
        for field in self.fields:
            given = form.get(field.name, "").strip()
            if field.kind == "counts" and not given:
                raise BodyError(f"{field.name}: required")
            if given:
                values[field.name] = _counts(field, given) if field.kind == "counts" else given
        if "\0" in "".join(map(str, values.values())):
            raise BodyError("a NUL character is not allowed")
        try:
            return msgspec.convert(values, self.request, strict=False)
        except msgspec.ValidationError as error:
            raise BodyError(named(str(error))) from error


def _counts(field: Field, given: str) -> object:
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"{field.name}: is no counts") from error


_REASON = Field("reason", "Why")
_NODE = (Field("node", "Node", "hidden"), Field("organization", "Organization", "hidden"))
_FOR = Field(
    "for_seconds",
    "For how long",
    "choice",
    [("600", "10 minutes"), ("1800", "30 minutes"), ("3600", "1 hour"), ("14400", "4 hours")],
)


async def _override(views: FleetViews, body: OverrideRequest) -> str:
    status = await views.override_brake(body.for_seconds, body.reason, body.by)
    if status.engaged_at is None:
        return "The brake was not engaged: until then it does not engage."
    return "The brake does not hold until then: dead nodes are moved away from."


async def _clear(views: FleetViews, body: ClearRequest) -> str:
    status = await views.clear_brake_override(body.by)
    if status.engaged_at is None:
        return "The brake is not engaged; from now on it may engage."
    return "The brake holds again, unless its cause is gone."


async def _held_groups(views: FleetViews) -> Mapping[str, str]:
    groups = (await views.guard_status()).groups
    return {"groups": json.dumps(dict(sorted(groups.items())))}


async def _confirm(views: FleetViews, body: ConfirmRequest) -> str:
    await views.confirm_guard(body.by, given(body.groups))
    return "What was held is deleted now."


async def _cordon(views: FleetViews, body: CordonRequest) -> str:
    organization = given(body.organization)
    if not await views.cordon(body.node, organization, body.reason, body.by):
        return f"{body.node} was cordoned already."
    return f"{body.node} gets no new work, and nothing comes home to it; what runs there stays."


async def _uncordon(views: FleetViews, body: UncordonRequest) -> str:
    organization = given(body.organization)
    if not await views.uncordon(body.node, organization, body.by):
        return f"{body.node} was not cordoned."
    return f"{body.node} gets work again; what is away from home comes back once it is well."


_PROCESSOR = Field("processor", "Processor", "hidden")


async def _pause(views: FleetViews, body: PauseRequest) -> str:
    await views.pause(body.for_seconds, body.reason, body.by)
    return (
        "Until then nothing is created, ended or moved. Heartbeats go on, and what was begun is"
        " carried out within half a minute."
    )


async def _resume(views: FleetViews, body: ResumeRequest) -> str:
    await views.resume(body.by)
    return "The pause has ended: what waited is done now, if it is still right."


_DRILL_FOR = Field(
    "for_seconds",
    "At most for",
    "choice",
    [("60", "1 minute"), ("300", "5 minutes"), ("900", "15 minutes")],
)


async def _start_drill(views: FleetViews, body: DrillStartRequest) -> str:
    organization = given(body.organization)
    await start_drill(views, body.node, organization, body.for_seconds, body.reason, body.by)
    return f"{body.node} counts as dead now: its processors move."


async def _stop_drill(views: FleetViews, body: DrillStopRequest) -> str:
    drill = await views.stop_drill(body.by)
    return f"The processors of {drill.node_name} go home now."


def _order(kind: OrderKind) -> Callable[[FleetViews, OrderRequest], Awaitable[str]]:
    async def decide(views: FleetViews, body: OrderRequest) -> str:
        return _sentence(await views.order(body.processor, kind, body.reason, body.by))

    return decide


async def _retry(views: FleetViews, body: OrderRequest) -> str:
    return _sentence(await views.retry(body.processor, body.reason, body.by))


def _sentence(said: str) -> str:
    return f"{said[:1].upper()}{said[1:]}."


DECISIONS: Mapping[str, Decision] = {
    decision.name: decision
    for decision in (
        Decision(
            "pause",
            "Pause everything",
            "Nothing is created, ended or moved until then. Pods run on, and heartbeats go on.",
            PauseRequest,
            _pause,
            (_FOR, _REASON),
        ),
        Decision(
            "pause-end",
            "End the pause",
            "What waited is done now, if it is still right.",
            ResumeRequest,
            _resume,
        ),
        Decision(
            "drill",
            "Start a fire drill",
            "The node is treated as dead, for real: its processors move to the cloud with their"
            " last saved state, and come home afterwards. It ends by itself when one does not"
            " become ready.",
            DrillStartRequest,
            _start_drill,
            (*_NODE, _DRILL_FOR, _REASON),
        ),
        Decision(
            "drill-stop",
            "Stop the fire drill",
            "Its processors go home now.",
            DrillStopRequest,
            _stop_drill,
        ),
        Decision(
            "failover",
            "Move the processor away",
            "It leaves its home for the cloud with its state, and stays there until it is sent"
            " home.",
            OrderRequest,
            _order(OrderKind.FAILOVER),
            (_PROCESSOR, _REASON),
        ),
        Decision(
            "failback",
            "Send the processor home",
            "It goes home with its state, without waiting for its home to be well for long.",
            OrderRequest,
            _order(OrderKind.FAILBACK),
            (_PROCESSOR, _REASON),
        ),
        Decision(
            "retry",
            "Try the processor again",
            "The next try of what failed is due now.",
            OrderRequest,
            _retry,
            (_PROCESSOR, _REASON),
        ),
        Decision(
            "brake-override",
            "Override the brake",
            "Dead nodes are moved away from until then, however many they are.",
            OverrideRequest,
            _override,
            (_FOR, _REASON),
        ),
        Decision(
            "brake-clear",
            "End the override of the brake",
            "From now on the brake holds again, if it has cause to.",
            ClearRequest,
            _clear,
        ),
        Decision(
            "guard-confirm",
            "Confirm the deletion guard",
            "What the guard holds is deleted: so many processors of each group are left.",
            ConfirmRequest,
            _confirm,
            (Field("groups", "Still desired", "counts"),),
            _held_groups,
        ),
        Decision(
            "cordon",
            "Cordon the node",
            "It gets no new work, and nothing comes home to it; what runs there stays.",
            CordonRequest,
            _cordon,
            (*_NODE, _REASON),
        ),
        Decision(
            "uncordon",
            "Uncordon the node",
            "It gets work again, and what is away from home comes back once it is well.",
            UncordonRequest,
            _uncordon,
            _NODE,
        ),
    )
}

"""Commands that decide: the deletion guard, the brake, and nodes that get no work."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import click

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    FAILED,
    PROGRAM,
    WRONG_CALL,
    Api,
    Command,
    Target,
    end,
    run,
    target_options,
    whoami,
)
from dory_orchestrator.commands.completing import node_names
from dory_orchestrator.commands.showing import (
    Answer,
    Parts,
    Single,
    print_answer,
    print_data,
    print_parts,
    show,
    watch_option,
)
from dory_orchestrator.settings import duration_seconds

_OVERRIDE_SECONDS_MAX = 86_400

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
by_option = click.option("--by", metavar="NAME", help="Who decides, for the record.")
reason_option = click.option("--reason", required=True, metavar="TEXT", help="Why, for the record.")


def confirm(yes: bool, question: str) -> None:
    """Ask on stderr; no ends the command."""
    if not yes and not click.confirm(question, default=False, err=True):
        end(FAILED, "nothing was done")


# The deletion guard ------------------------------------------------------------------------


@click.group("guard", invoke_without_command=True)
@click.pass_context
def guard_group(ctx: click.Context) -> None:
    """What waits for an operator's word; without a command its status.

    \b
    Examples:
      dory-orchestrator guard status
      dory-orchestrator guard confirm
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(guard_status_command)


@guard_group.command("status")
@watch_option
@target_options
def guard_status_command(target: Target, watch: bool) -> None:
    """Show what is held back, and why.

    \b
    Examples:
      dory-orchestrator guard status
      dory-orchestrator guard status -o json
    """
    show(target, Single(_ask_guard, guard_status_parts), watch=watch)


async def _ask_guard(api: Api) -> Answer:
    return await api.get("/guard")


def guard_status_parts(status: Answer, wide: bool) -> Parts:
    """What is held, and the commands that accept it."""
    parts = [*guard_parts(status, wide)]
    if status["held"]:
        parts.append(
            "\nnot meant: put the rows back; the pods run on, and the guard lets go by itself"
        )
        parts.append(f'to accept what is held: "{PROGRAM} guard confirm"')
    if status["frozen_count"]:
        parts.append(f'\nto accept the pods of frozen ones: "{PROGRAM} guard adopt --all"')
    return parts


def guard_parts(status: Answer, wide: bool = False) -> Parts:
    """What is held, what was accepted last, what is not ours, and what is frozen."""
    parts = [
        *(held_parts(status, wide) if status["held"] else ["the deletion guard holds nothing"])
    ]
    if status["confirmed_at"] is not None:
        by = tables.clean(str(status["confirmed_by"]))
        accepted = tables.clean(tables.counts(status["confirmed"]))
        parts.append(f"last confirmed by {by}, {tables.ago(status['confirmed_at'])}: {accepted}")
    if count := status["strangers_count"]:
        parts.append(f"\npods of other fleets, which are not touched: {count}")
        parts.append(tables.strangers(status["strangers"]))
    if count := status["frozen_count"]:
        parts.append(f"\nfrozen, as their pods are of a later epoch: {count}")
        parts.append(tables.frozen(status["frozen"], wide))
    return parts


def held_parts(status: Answer, wide: bool = False) -> Parts:
    """What the guard holds, and why."""
    values = {
        "deletion guard": f"HOLDS since {tables.ago(status['held_since'])}",
        "why": status["detail"],
        "still desired": tables.counts(status["groups"]),
        "would be deleted": f"pods of {_counted(status['processors_count'])}, which run on",
    }
    parts: list[Any] = [tables.pairs(values)]
    if status["processors"]:
        parts.append(tables.held(status["processors"], wide))
    return [*parts, *_more(status["processors_count"], status["processors"])]


def _more(count: int, named: Any) -> Parts:
    return [f"and {count - len(named)} more"] if count > len(named) else []


def _counted(count: int) -> str:
    return "1 processor" if count == 1 else f"{count} processors"


@guard_group.command("confirm")
@yes_option
@by_option
@target_options
def confirm_command(target: Target, yes: bool, by: str | None) -> None:
    """Accept the present counts of processors: what is held is deleted then.

    \b
    Examples:
      dory-orchestrator guard confirm
      dory-orchestrator guard confirm --yes --by eva
    """
    status = run(target, _ask_guard)
    if not status["held"]:
        end(FAILED, "nothing is held: there is nothing to confirm")
    if not target.as_data:
        print_parts(held_parts(status))
    confirm(yes, f"Delete the pods of {_counted(status['processors_count'])}?")
    body = {"by": by or whoami(), "groups": status["groups"]}
    answer = run(target, lambda api: api.post("/guard/confirm", body))
    print_answer(target, answer, "confirmed")


@guard_group.command("adopt")
@click.argument("processors", nargs=-1, type=click.UUID)
@click.option("--all", "everyone", is_flag=True, help="All that are frozen.")
@yes_option
@by_option
@target_options
def adopt_command(
    target: Target, processors: tuple[UUID, ...], everyone: bool, yes: bool, by: str | None
) -> None:
    """Take the word of frozen processors' pods for their epoch.

    For after the database was restored from a backup: the pods that run are newer than it.

    \b
    Examples:
      dory-orchestrator guard adopt --all
      dory-orchestrator guard adopt 63e05b90-3f08-4668-ac3a-dcc4db126494
    """
    if everyone is bool(processors):
        end(WRONG_CALL, "give the ids of processors, or --all")
    wanted = "all" if everyone else [str(key) for key in processors]
    if not yes:
        print_parts(guard_parts(run(target, _ask_guard)), err=True)
    confirm(yes, "Let the pods that run own these processors?")
    body = {"by": by or whoami(), "processors": wanted}
    answer = run(target, lambda api: api.post("/guard/adopt", body))
    print_answer(target, answer, f"adopted {len(answer['adopted'])}")


# Nodes -------------------------------------------------------------------------------------


_organization = click.option(
    "--organization",
    type=click.UUID,
    metavar="ID",
    help="Where two organizations have a node of this name.",
)


def _node_command(command: Command) -> Command:
    """What `cordon` and `uncordon` take."""
    for option in (by_option, _organization):
        command = option(command)
    return click.argument("node", shell_complete=node_names)(command)


@click.command("cordon")
@_node_command
@reason_option
@target_options
def cordon_command(
    target: Target, node: str, reason: str, organization: UUID | None, by: str | None
) -> None:
    """Give an edge node no new work, and let nothing come home to it; what runs there stays.

    \b
    Examples:
      dory-orchestrator cordon edge-berlin-1 --reason "a new disk"
    """
    body = {"node": node, "reason": reason, "by": by or whoami()}
    _decide_node(target, "/nodes/cordon", body, organization)


@click.command("uncordon")
@_node_command
@target_options
def uncordon_command(target: Target, node: str, organization: UUID | None, by: str | None) -> None:
    """Give an edge node work again: what is away from home comes back once it is well.

    \b
    Examples:
      dory-orchestrator uncordon edge-berlin-1
    """
    _decide_node(target, "/nodes/uncordon", {"node": node, "by": by or whoami()}, organization)


def _decide_node(
    target: Target, path: str, body: Mapping[str, Any], organization: UUID | None
) -> None:
    chosen = {} if organization is None else {"organization": str(organization)}
    answer = run(target, lambda api: api.post(path, {**body, **chosen}))
    print_answer(target, answer, tables.clean(f"{answer['node']}: {answer['message']}"))


# The brake ---------------------------------------------------------------------------------


@click.group("brake", invoke_without_command=True)
@click.pass_context
def brake_group(ctx: click.Context) -> None:
    """What keeps processors in place when many nodes look dead at once; without a command its status.

    \b
    Examples:
      dory-orchestrator brake status
      dory-orchestrator brake override --for 10m --reason "the site burnt down"
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(brake_status_command)


@brake_group.command("status")
@watch_option
@target_options
def brake_status_command(target: Target, watch: bool) -> None:
    """Show whether the brake holds, why, and which nodes look dead.

    \b
    Examples:
      dory-orchestrator brake status -w
    """
    show(target, Single(_ask_brake, brake_status_parts), watch=watch)


async def _ask_brake(api: Api) -> Answer:
    return await api.get("/brake")


def brake_status_parts(status: Answer, _wide: bool) -> Parts:
    """The brake, and the command that overrides it."""
    if not status["engaged"]:
        return brake_parts(status)
    hint = f'\nto move all the same: "{PROGRAM} brake override --for 10m --reason ..."'
    return [*brake_parts(status), hint]


def brake_parts(status: Answer) -> Parts:
    """Whether it holds, why, and which nodes look dead."""
    values: dict[str, object] = {"brake": tables.brake_state(status)}
    if status["engaged_at"] is not None:
        values |= {"engaged": tables.ago(status["engaged_at"]), "reason": status["reason"]}
        values |= {"counted": f"{status['population_count']} edge nodes"}
    if status["detail"]:
        values["why"] = status["detail"]
    if status["override_until"] is not None:
        values["overridden until"] = tables.until(status["override_until"])
        values |= {"by": status["override_by"], "because": status["override_reason"]}
    parts: list[Any] = [tables.pairs(values)]
    if count := status["nodes_count"]:
        parts.append(f"\nedge nodes that are suspect or offline: {count}")
        parts += [tables.suspects(status["nodes"]), *_more(count, status["nodes"])]
    return parts


@brake_group.command("override")
@click.option(
    "--for",
    "duration",
    required=True,
    metavar="DURATION",
    help="For how long: 10m, 1h; at most 24h.",
)
@reason_option
@yes_option
@by_option
@target_options
def override_command(target: Target, duration: str, reason: str, yes: bool, by: str | None) -> None:
    """Move away from dead nodes, however many they are.

    Also ahead of time: a brake that is not engaged does not engage until then.

    \b
    Examples:
      dory-orchestrator brake override --for 10m --reason "the site burnt down"
    """
    seconds = seconds_of(duration, 1, _OVERRIDE_SECONDS_MAX, "1s to 24h")
    if not yes:
        print_parts(brake_parts(run(target, _ask_brake)), err=True)
    confirm(yes, f"Move away from nodes that look dead, for {duration} from now on?")
    body = {"for_seconds": seconds, "reason": reason, "by": by or whoami()}
    _decide_brake(target, "/brake/override", body)


@brake_group.command("clear")
@by_option
@target_options
def clear_command(target: Target, by: str | None) -> None:
    """End an override: the brake holds again, if it has cause to.

    \b
    Examples:
      dory-orchestrator brake clear
    """
    _decide_brake(target, "/brake/clear", {"by": by or whoami()})


def _decide_brake(target: Target, path: str, body: Mapping[str, Any]) -> None:
    answer = run(target, lambda api: api.post(path, body))
    if target.as_data:
        print_data(target.output, answer)
        return
    if (until := answer["override_until"]) is not None:
        click.echo(f"overridden until {tables.clean(until)}")
    click.echo(tables.clean(answer["message"]))


def seconds_of(text: str, least: float, most: float, words: str) -> float:
    """What `--for` says. Ends the command where it is none between these, which `words` tell."""
    try:
        seconds = duration_seconds(text)
    except ValueError as error:
        end(WRONG_CALL, f"--for: {tables.clean(text)}: {error}")
    if not least <= seconds <= most:
        end(WRONG_CALL, f"--for: {tables.clean(text)}: expected {words}")
    return seconds

"""Commands that order: a pause of everything, and moves of single processors."""

from typing import Any

import click

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    WRONG_CALL,
    Api,
    Command,
    Target,
    end,
    identify,
    run,
    target_options,
    whoami,
)
from dory_orchestrator.commands.completing import processor_names
from dory_orchestrator.commands.deciding import (
    by_option,
    confirm,
    reason_option,
    seconds_of,
    yes_option,
)
from dory_orchestrator.commands.showing import (
    Answer,
    Parts,
    Single,
    print_answer,
    show,
    watch_option,
)

_PAUSE_SECONDS_MAX = 7 * 86_400


# Pause -------------------------------------------------------------------------------------


@click.command("pause")
@click.option("--for", "duration", metavar="DURATION", help="For how long: 10m, 1h; at most 7d.")
@click.option("--reason", metavar="TEXT", help="Why, for the record.")
@by_option
@watch_option
@target_options
def pause_command(
    target: Target, duration: str | None, reason: str | None, by: str | None, watch: bool
) -> None:
    """Create, end and move nothing for a while; heartbeats go on. Without options: show the pause.

    What was begun is carried out within half a minute. A pause ends by itself.

    \b
    Examples:
      dory-orchestrator pause --for 30m --reason "the network is being rebuilt"
      dory-orchestrator pause
    """
    if duration is None and reason is None:
        show(target, Single(_ask_pause, pause_parts), watch=watch)
        return
    if duration is None or reason is None:
        end(WRONG_CALL, "give both --for and --reason")
    body = {
        "for_seconds": seconds_of(duration, 1, _PAUSE_SECONDS_MAX, "1s to 168h"),
        "reason": reason,
        "by": by or whoami(),
    }
    answer = run(target, lambda api: api.post("/pause/begin", body))
    print_answer(
        target, answer, tables.clean(f"paused until {answer['until']}: {answer['message']}")
    )


@click.command("resume")
@by_option
@target_options
def resume_command(target: Target, by: str | None) -> None:
    """End the pause: what waited is done now, if it is still right.

    \b
    Examples:
      dory-orchestrator resume
    """
    answer = run(target, lambda api: api.post("/pause/end", {"by": by or whoami()}))
    print_answer(target, answer, tables.clean(f"resumed: {answer['message']}"))


async def _ask_pause(api: Api) -> Answer:
    return await api.get("/pause")


def pause_parts(status: Answer, _wide: bool) -> Parts:
    """Whether everything is paused, until when, by whom and why."""
    if not status["paused"]:
        return ["nothing is paused"]
    values = {
        "paused until": tables.until(status["until"]),
        "since": tables.ago(status["began_at"]),
    }
    return [tables.pairs({**values, "by": status["by"], "because": status["reason"]})]


# Single processors -------------------------------------------------------------------------


def _order_command(command: Command) -> Command:
    for option in (
        target_options,
        by_option,
        yes_option,
        reason_option,
        click.argument("processor", shell_complete=processor_names),
    ):
        command = option(command)
    return command


@click.command("failover")
@_order_command
def failover_command(
    target: Target, processor: str, reason: str, yes: bool, by: str | None
) -> None:
    """Have an edge processor leave its home for the cloud, with its state, and stay there.

    It comes home when it is sent there: failback. Refused where it would break a promise.

    \b
    Examples:
      dory-orchestrator failover counter-1 --reason "the camera is being cleaned"
    """
    confirm(yes, f"Move {tables.clean(processor)} to the cloud, and keep it there?")
    _order(target, "failover", processor, reason, by)


@click.command("failback")
@_order_command
def failback_command(
    target: Target, processor: str, reason: str, yes: bool, by: str | None
) -> None:
    """Send a processor home with its state, without waiting for its home to be well for long.

    \b
    Examples:
      dory-orchestrator failback counter-1 --reason "the camera is clean" --yes
    """
    confirm(yes, f"Send {tables.clean(processor)} home?")
    _order(target, "failback", processor, reason, by)


@click.command("retry")
@_order_command
def retry_command(target: Target, processor: str, reason: str, yes: bool, by: str | None) -> None:
    """Try a processor that failed again now, without waiting for its next try.

    \b
    Examples:
      dory-orchestrator retry counter-1 --reason "its database is back" --yes
    """
    confirm(yes, f"Try {tables.clean(processor)} again now?")
    _order(target, "retry", processor, reason, by)


def _order(target: Target, kind: str, processor: str, reason: str, by: str | None) -> None:
    async def work(api: Api) -> Any:
        key = await identify(api, processor, exact=True)
        body = {"processor": key, "reason": reason, "by": by or whoami()}
        return await api.post(f"/orders/{kind}", body)

    answer = run(target, work)
    print_answer(target, answer, tables.clean(f"{processor}: {answer['message']}"))

"""Commands about webhooks: how far each is, and what its receiver did not take."""

import click

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    WRONG_CALL,
    Api,
    Target,
    end,
    run,
    target_options,
    whoami,
)
from dory_orchestrator.commands.deciding import by_option
from dory_orchestrator.commands.listing import limit_option
from dory_orchestrator.commands.showing import Answer, Rows, print_answer, show, watch_option


@click.group("webhooks", invoke_without_command=True)
@watch_option
@target_options
@click.pass_context
def webhooks_group(ctx: click.Context, target: Target, watch: bool) -> None:
    """List webhooks: how far each is, and whether its receiver takes events.

    \b
    Examples:
      dory-orchestrator webhooks
      dory-orchestrator webhooks retry pager --all
    """
    if ctx.invoked_subcommand is None:
        show(target, Rows("webhooks", _ask, tables.webhooks, _name, _RESTLESS), watch=watch)


_RESTLESS = ("lag_seconds",)


def _name(row: tables.Row) -> str:
    return str(row["name"])


async def _ask(api: Api) -> Answer:
    return {**await api.get("/webhooks"), "next_cursor": None}


@webhooks_group.command("dead-letters")
@click.argument("webhook", required=False)
@limit_option
@watch_option
@target_options
def dead_letters_command(
    target: Target, webhook: str | None, limit: int | None, watch: bool
) -> None:
    """List events that receivers did not take, the newest first.

    \b
    Examples:
      dory-orchestrator webhooks dead-letters pager
    """

    async def fetch(api: Api) -> Answer:
        path, name = "/webhooks/dead-letters", "dead_letters"
        return await api.all(path, name, {"webhook": webhook}, limit)

    view = Rows("dead_letters", fetch, tables.dead_letters, _letter)
    show(target, view, watch=watch)


def _letter(row: tables.Row) -> str:
    return f"{row['webhook']} {row['event']['id']}"


@webhooks_group.command("retry")
@click.argument("webhook")
@click.argument("events", nargs=-1, type=click.IntRange(1))
@click.option("--all", "everything", is_flag=True, help="All of its dead letters.")
@by_option
@target_options
def retry_command(
    target: Target, webhook: str, events: tuple[int, ...], everything: bool, by: str | None
) -> None:
    """Have dead letters of WEBHOOK sent once more, by the ids of their EVENTS.

    What is not taken stays among the dead letters.

    \b
    Examples:
      dory-orchestrator webhooks retry pager 4711 4712
      dory-orchestrator webhooks retry pager --all
    """
    if everything is bool(events):
        end(WRONG_CALL, "give the ids of events, or --all")
    ids = "all" if everything else list(events)
    body = {"by": by or whoami(), "webhook": webhook, "ids": ids}
    answer = run(target, lambda api: api.post("/webhooks/retry", body))
    count = answer["count"]
    said = f"{'1 event is' if count == 1 else f'{count} events are'} sent once more"
    print_answer(target, answer, said)

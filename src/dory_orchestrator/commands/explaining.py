"""Commands that ask the leader: why, what is being done, and what if."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.table import Table

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    WRONG_CALL,
    Api,
    Target,
    end,
    find_node,
    identify,
    run,
    target_options,
)
from dory_orchestrator.commands.completing import node_names, processor_names
from dory_orchestrator.commands.showing import (
    Answer,
    Parts,
    Single,
    print_data,
    print_parts,
    show,
    watch_option,
)

_UNSAFE = 3
_EVENTS_SHOWN = 5
_RESTLESS = ("facts", "numbers", "detail")
"""Ages stand in them."""


# Why ---------------------------------------------------------------------------------------


@click.command("explain")
@click.argument("what", type=click.Choice(["processor", "node", "directive"]))
@click.argument("name", shell_complete=processor_names)
@click.option("--organization", type=click.UUID, help="Of a node whose name two have.")
@click.option("--sender", metavar="NODE", help="With directive: where the heartbeat comes from.")
@watch_option
@target_options
def explain_command(
    target: Target, what: str, name: str, organization: Any, sender: str | None, watch: bool
) -> None:
    """Say why a processor or a node is as it is, or what a heartbeat is answered.

    What was known, the rules that were asked with their numbers, the nodes that were looked at: as
    the decision itself returned them.

    \b
    Examples:
      dory-orchestrator explain processor counter-1
      dory-orchestrator explain processor counter-1 -o wide   # past decisions, too
      dory-orchestrator explain node edge-berlin-1
      dory-orchestrator explain directive counter-1 --sender edge-berlin-1
    """

    async def fetch(api: Api) -> Answer:
        if what == "node":
            found = await find_node(api, name, organization)
            of = organization or found["organization_id"]
            return await api.get("/nodes/explanation", {"node": found["name"], "organization": of})
        key = await identify(api, name)
        if what == "directive":
            return await api.get(f"/processors/{key}/directive", {"sender": sender})
        return await api.get(f"/processors/{key}/explanation")

    if sender is not None and what != "directive":
        end(WRONG_CALL, "--sender: only with directive")
    show(target, Single(fetch, explanation_parts, _RESTLESS), watch=watch)


def explanation_parts(answer: Answer, wide: bool) -> Parts:
    """The decision, then what went into it, then what happened before."""
    parts: list[Any] = []
    called = tables.clean(str(answer["name"] or answer["id"]))
    if answer["decision"] is None:
        parts.append(f"{answer['subject']} {called}: {answer['message']}")
    else:
        parts += _decision_parts(f"{answer['subject']} {called}", answer["decision"])
    for because in answer["because"]:
        title = " ".join(filter(None, (because["subject"], because["name"])))
        parts += ["", *_decision_parts(f"because of {tables.clean(title)}", because["decision"])]
    told = [event for event in answer["events"] if event["explanation"]]
    for event in told[: None if wide else 1 if answer["decision"] is None else 0]:
        title = f"{event['kind']} {tables.ago(event['at'])}"
        parts += ["", *_decision_parts(title, event["explanation"])]
    if answer["events"]:
        shown = answer["events"] if wide else answer["events"][:_EVENTS_SHOWN]
        parts += ["\nlast events", tables.events(shown[::-1], wide=wide)]
        if told and not wide:
            parts.append("the decision behind each: -o wide")
    return parts


def _decision_parts(title: str, decision: Answer) -> Iterator[Table | str]:
    said = f": {decision['detail']}" if decision["detail"] else ""
    yield tables.clean(f"{title}: {decision['outcome']} ({decision['reason']}){said}")
    if decision["rules"]:
        yield tables.rules(decision["rules"])
    if decision["candidates"]:
        yield tables.candidates(decision["candidates"], decision["other_candidates"])
    known = {name: value for name, value in decision["facts"].items() if value is not None}
    if known:
        yield "known then: " + tables.clean(said_numbers(known))


def said_numbers(numbers: Mapping[str, Any]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in numbers.items())


# What next ---------------------------------------------------------------------------------


@click.command("plan")
@watch_option
@target_options
def plan_command(target: Target, watch: bool) -> None:
    """Show what is done in the present cycle, and what waits for what. Nothing is done by this.

    \b
    Examples:
      dory-orchestrator plan
      dory-orchestrator plan -o json
    """
    show(
        target,
        Single(_ask_plan, plan_parts, ("changes_in_seconds", "paused_for_seconds")),
        watch=watch,
    )


async def _ask_plan(api: Api) -> Answer:
    return await api.get("/plan")


def plan_parts(plan: Answer, _wide: bool) -> Parts:
    """What is done, what a pause holds, and what waits."""
    parts: list[Any] = []
    if plan["paused_for_seconds"] is not None:
        parts.append(f"paused for {plan['paused_for_seconds']:.0f} s more; else:")
        parts += _listed(plan["paused"], plan["paused_count"], tables.actions)
    parts.append(f"actions now: {plan['actions_count'] or 'none'}")
    parts += _listed(plan["actions"], plan["actions_count"], tables.actions)
    if plan["waiting_count"]:
        parts.append(f"\nprocessors that wait or are held: {plan['waiting_count']}")
        parts += _listed(plan["waiting"], plan["waiting_count"], tables.findings)
    if plan["nodes_count"]:
        parts.append(f"\nnodes in trouble: {plan['nodes_count']}")
        parts += _listed(plan["nodes"], plan["nodes_count"], tables.troubled)
    held = "holds" if plan["brake_engaged"] else "is off"
    parts.append("\n" + tables.clean(f"brake {held}: {plan['brake']}"))
    if plan["guard"]:
        parts.append(tables.clean(f"deletion guard holds: {plan['guard']}"))
    if plan["changes_in_seconds"] is not None:
        parts.append(f"next change by time alone: in {plan['changes_in_seconds']:.0f} s")
    return parts


def _listed(rows: Sequence[Any], count: int, table: Any) -> list[Any]:
    more = count - len(rows)
    return [*([table(rows)] if rows else []), *([f"and {more} more"] if more > 0 else [])]


# What if -----------------------------------------------------------------------------------


@click.command("what-if")
@click.option(
    "--node-down",
    "down",
    multiple=True,
    metavar="NODE",
    shell_complete=node_names,
    help="A node that dies. May be given several times.",
)
@click.option("--without-cloud", is_flag=True, help="Every application node dies, too.")
@target_options
def what_if_command(target: Target, down: Sequence[str], without_cloud: bool) -> None:
    """Say what would happen if nodes died now: who moves where, who waits, what is lost.

    The decisions of production on the present state; nothing is done. Exit code 0: every processor
    would move; 3: not every one.

    \b
    Examples:
      dory-orchestrator what-if --node-down edge-berlin-1
      dory-orchestrator what-if --node-down edge-berlin-1 --node-down edge-berlin-2 --without-cloud
    """
    if not down and not without_cloud:
        end(WRONG_CALL, "give --node-down NODE, or --without-cloud")

    async def fetch(api: Api) -> Answer:
        word = "true" if without_cloud else None
        return await api.get(
            "/what-if", {"node_down": ",".join(down) or None, "without_cloud": word}
        )

    answer = run(target, fetch)
    if target.as_data:
        print_data(target.output, answer)
    else:
        print_parts(what_if_parts(answer, target.wide), wide=target.wide)
    if not answer["safe"]:
        raise SystemExit(_UNSAFE)


def what_if_parts(answer: Answer, wide: bool) -> Parts:
    """A sentence, the processors, and what the figures rest on."""
    parts: list[Any] = [tables.clean(_what_if_sentence(answer))]
    if answer["processors"]:
        parts.append(tables.supposed(answer["processors"], wide=wide))
    if answer["brake"] and answer["brake_engaged"]:
        parts.append(tables.clean(f"the brake would hold: {answer['brake']}"))
    if answer["paused"]:
        parts.append("everything is paused now: nothing would move before that ends")
    measured = answer["failover_seconds"]
    known = (
        "no failover was measured yet" if measured is None else f"a failover took {measured:.1f} s"
    )
    parts.append(
        f"a silent node is known to be dead within {answer['detection_seconds']:g} s; {known}"
    )
    return parts


def _what_if_sentence(answer: Answer) -> str:
    down = ", ".join(answer["nodes_down"])
    counts = (
        f"{answer['moves']} would move, {answer['waits']} wait for room, {answer['stays']} stay"
    )
    lost = answer["loss_seconds_most"]
    loss = "" if lost is None else f"; at most {lost:.1f} s of state would be lost"
    took = answer["seconds_most"]
    time = "" if took is None else f"; all that move run again within {took:.0f} s"
    safe = "safe" if answer["safe"] else "NOT safe"
    return f"{safe}: if {down} died now: {counts}{loss}{time}"

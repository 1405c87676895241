"""What `top` draws: the fleet as it was seen, in as many rows as there are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.sentence import is_well, sentence

Seen = Mapping[str, Any]
"""What was asked for: `summary`, `brake`, `guard` and `health` as the API answers them; `nodes`,
`processors`, `moves` and `events` as lists of rows, moves and events the newest first."""

_HEAD_ROWS, _FOOT_ROWS, _SECTION_ROWS = 4, 1, 2
_SHARES = {"nodes": 0.45, "moves": 0.2, "events": 0.35}
_BAD = ("offline", "suspect", "quarantined", "recovering")


def frame(seen: Seen | None, *, url: str, rows: int, notice: str | None = None) -> RenderableType:
    """The whole of it. Nothing was `seen` before the first answer; `notice` stands on top."""
    head = [_title(url, notice)]
    if seen is None:
        return Group(*head)
    head += [_sentence(seen["summary"]), _holds(seen), _numbers(seen)]
    wanted = {name: len(seen[name]) for name in _SHARES}
    fixed = _HEAD_ROWS + _FOOT_ROWS + _SECTION_ROWS * len(_SHARES)
    given = share(wanted, max(rows - fixed, len(_SHARES)))
    parts: list[RenderableType] = [*head]
    for name, draw in (("nodes", _nodes), ("moves", _moves), ("events", _events)):
        parts += ["", draw(seen, given[name])]
    return Group(*parts)


def share(wanted: Mapping[str, int], rows: int) -> dict[str, int]:
    """How many of the rows each section gets: its share, and of what others leave, the first most."""
    given = {name: min(wanted[name], max(int(rows * _SHARES[name]), 1)) for name in wanted}
    left = rows - sum(given.values())
    for name in ("nodes", "events", "moves"):
        more = max(min(wanted[name] - given[name], left), 0)
        given[name] += more
        left -= more
    return given


def _title(url: str, notice: str | None) -> Text:
    if notice is not None:
        return _line(Text(tables.clean(notice), style="bold red"))
    return _line(Text.assemble(("Dory Orchestrator", "bold"), f"  {tables.clean(url)}"))


def _sentence(summary: Mapping[str, Any]) -> Text:
    return _line(Text(sentence(summary), style="green" if is_well(summary) else "bold yellow"))


def _holds(seen: Seen) -> Text:
    leader, lease = seen["summary"]["leader"], seen["summary"]["leader"]["lease_seconds"]
    if leader["holder"] is None or lease is None:
        who = "nobody leads"
    else:
        until = f"lease {lease:.0f}s" if lease > 0 else f"lease ended {-lease:.0f}s ago"
        who = f"leader {leader['holder']} (term {leader['term']}, {until})"
    guard = "HOLDS" if seen["guard"]["held"] else "holds nothing"
    words = (
        f"health {seen['health']['status']}{_unwell(seen['health'])}",
        f"brake {tables.brake_state(seen['brake'])}",
        f"guard {guard}",
        who,
    )
    return _line(Text(tables.clean(" · ".join(words))))


def _unwell(health: Mapping[str, Any]) -> str:
    names = [n for n, one in health["components"].items() if one["status"] != "healthy"]
    return f" ({', '.join(names)})" if names else ""


def _numbers(seen: Seen) -> Text:
    summary = seen["summary"]
    words = (
        f"processors {summary['ready']}/{summary['desired']} run",
        f"nodes {summary['nodes_ready']}/{summary['nodes']} ready",
        f"moves {summary['moves_open']} under way",
        tables.counts(summary["states"]),
    )
    return _line(Text(tables.clean(" · ".join(words))))


def _nodes(seen: Seen, rows: int) -> Table:
    table = _table("NODE", "KIND", "READY", "STATUS", "BEAT", "PROCESSORS")
    on_node: dict[str | None, list[str]] = defaultdict(list)
    for one in seen["processors"]:
        state = "" if one["state"] == "running" else f" {one['state']}"
        on_node[one["node_name"]].append(f"{one['name'] or one['id']}{state}")
    ordered = sorted(seen["nodes"], key=_node_order)
    for row in _cut(table, ordered, rows, seen["summary"]["nodes"]):
        names = on_node[row["name"]]
        # Not all processors of a large fleet are asked for by name.
        all_named = len(names) == sum(row["processors"].values())
        running = ", ".join(names) if all_named else tables.counts(row["processors"])
        tables.add_row(table, [*tables.node_state(row), running])
    return table


def _node_order(row: tables.Row) -> tuple[int, bool, str]:
    """Those that may be dead first, then those on which something runs."""
    health = row["health"]
    trouble = _BAD.index(health) if health in _BAD else len(_BAD) + (row["ready"] is not False)
    return trouble, not row["processors"], row["name"]


def _moves(seen: Seen, rows: int) -> Table:
    table = _table("MOVE", "PROCESSOR", "FROM", "TO", "OUTCOME", "RTO", "RPO")
    for row in _cut(table, seen["moves"], rows):
        tables.add_row(table, tables.move_cells(row))
    return table


def _events(seen: Seen, rows: int) -> Table:
    table = _table("TIME", "EVENT", "REASON", "PROCESSOR", "NODE", "WHY")
    for row in _cut(table, seen["events"], rows):
        tables.add_row(table, tables.event_cells(row))
    return table


def _cut(
    table: Table, found: Sequence[tables.Row], rows: int, count: int | None = None
) -> Sequence[tables.Row]:
    """As many as there is place for; of nodes their heading tells how many are not shown."""
    shown = found[: max(rows, 0)]
    missing = max(count, len(found)) - len(shown) if count is not None else 0
    if missing > 0:
        table.columns[0].header = f"{table.columns[0].header} (+{missing})"
    return shown


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        shrinks = heading == "WHY" or tables.shrinks(heading)
        table.add_column(heading, no_wrap=not shrinks, overflow="ellipsis")
    return table


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text

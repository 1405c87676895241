"""What the fleet API answers, as tables for people.

Names and texts come from outside: nothing in them may steer a terminal.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NOTHING = "-"
_ENDLESS = 100_000
_BROKEN = frozenset({"DETAIL", "ERROR"})
_SHRINKING = frozenset(
    {"NAME", "READY", "NODE", "PROCESSOR", "PROCESSORS", "FROM", "TO", "POD", "REASON", *_BROKEN}
)
"""Columns that are made narrower where there is too little place, the widest first."""
_STYLES = {
    "running": "green",
    "starting": "cyan",
    "pending": "yellow",
    "waiting": "yellow",
    "moving": "cyan",
    "held": "magenta",
    "error": "bold red",
    "removing": "dim",
    "unknown": "dim",
    "healthy": "green",
    "unhealthy": "red",
    "ready": "green",
    "not ready": "bold red",
    "not in cluster": "bold red",
    "online": "green",
    "suspect": "yellow",
    "offline": "bold red",
    "recovering": "cyan",
    "quarantined": "magenta",
    "decommissioned": "dim",
    "done": "green",
    "HOLDS": "bold red",
}


def clean(text: str) -> str:
    """`text` on one line, without what a terminal would obey."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


_seen_at: ContextVar[datetime | None] = ContextVar("seen_at", default=None)


@contextmanager
def seen_at(moment: datetime) -> Iterator[None]:
    """Ages are counted up to this moment, and not up to now."""
    token = _seen_at.set(moment)
    try:
        yield
    finally:
        _seen_at.reset(token)


def render(table: RenderableType, *, wide: bool = False, columns: int | None = None) -> str:
    """As text: at most as wide as the terminal, unless `wide` or where there is none; or as
    wide as `columns`."""
    to_people = sys.stdout.isatty()
    width = columns or (None if to_people and not wide else _ENDLESS)
    console = terminal(width)
    with console.capture() as capture:
        console.print(table, soft_wrap=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def terminal(columns: int | None = None) -> Console:
    """Where people look: as wide as it is, or as `columns`."""
    return Console(file=sys.stdout, width=columns, highlight=False, emoji=False)


def widths(table: Table) -> list[int]:
    """How wide each column would like to be, with its heading."""
    return [
        max(_text_width(cell) for cell in (column.header, *column.cells))
        for column in table.columns
    ]


def _text_width(cell: RenderableType) -> int:
    return cell.cell_len if isinstance(cell, Text) else len(str(cell))


def processors(rows: Sequence[Row], *, wide: bool) -> Table:
    """One line each."""
    more = ("ID", "TEMPLATE", "VERSION", "NAMESPACE", "STATUS", "POD", "IP", "EPOCH")
    table = _table("NAME", "STATE", "SINCE", "HEALTH", "NODE", "RESTARTS", "REASON", "DETAIL")
    for heading in more if wide else ():
        _column(table, heading)
    for row in rows:
        cells = [
            row["name"] or row["id"],
            row["state"],
            age(row["since"]),
            row["health_status"],
            row["node_name"],
            row["restart_count"],
            row["reason"],
            row["detail"],
        ]
        if wide:
            cells += [row["id"], row["template"], row["version"], row["namespace"]]
            cells += [row["status"], row["pod_name"], row["pod_ip"], row["epoch"]]
        add_row(table, cells)
    return table


def processor(row: Row) -> Table:
    """One below the other, all that is known."""
    return pairs({name.replace("_", " "): value for name, value in row.items()})


def nodes(rows: Sequence[Row], *, wide: bool) -> Table:
    """One line each."""
    table = _table("NAME", "KIND", "READY", "STATUS", "HEARTBEAT", "USED", "PODS", "PROCESSORS")
    if wide:
        more = ("CORDON", "CPU", "MEMORY", "GPU", "ORGANIZATION", "EDGE NODE")
        for heading in (*more, "SINCE", "REASON", "DETAIL"):
            _column(table, heading)
    for row in rows:
        cells = [
            *node_state(row),
            None if row["utilisation"] is None else f"{row['utilisation']:.0%}",
            None if row["pods"] is None else f"{row['pods']}/{row['pods_max']}",
            counts(row["processors"]),
        ]
        if wide:
            cells += [row["cordon_cause"], _unit(row["cpu_millicores"], "m")]
            cells += [_mebibytes(row["memory_bytes"]), row["gpu_count"]]
            cells += [row["organization_id"], row["edge_node_id"], age(row["health_since"])]
            cells += [row["health_reason"], row["health_detail"]]
        add_row(table, cells)
    return table


def node_state(row: Row) -> list[object]:
    """Its name and kind, whether it is ready, how it is judged, and the age of its last beat."""
    age_seconds = _seconds(row["heartbeat_age_seconds"])
    return [row["name"], row["kind"], _readiness(row), _status(row), age_seconds]


def events(rows: Sequence[Row], *, wide: bool) -> Table:
    """One line each."""
    table = _table("TIME", "KIND", "REASON", "PROCESSOR", "NODE", "DETAIL")
    for heading in ("ID", "PROCESSOR ID", "POD", "EPOCH", "TERM", "TRACE ID") if wide else ():
        _column(table, heading)
    for row in rows:
        add_row(table, event_cells(row, wide=wide))
    return table


def event_line(row: Row, *, wide: bool) -> str:
    """An event on a line of its own, for those that come one by one."""
    widths = (8, 9, 16, 36, 16)
    cells = [_text(cell).plain for cell in event_cells(row, wide=wide)]
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*padded, *cells[len(widths) :]]).rstrip()


def event_cells(row: Row, *, wide: bool = False) -> list[object]:
    """When, what, why, of what, where, and why in a sentence."""
    cells: list[object] = [
        _moment(row["at"]).astimezone().strftime("%H:%M:%S" if not wide else "%Y-%m-%d %H:%M:%S"),
        row["kind"],
        row["reason"],
        row["processor_name"] or row["processor_id"],
        row["node_name"],
        row["detail"],
    ]
    if wide:
        cells += [row["id"], row["processor_id"], row["pod_name"], row["epoch"], row["term"]]
        # An orchestrator of the version before does not tell it.
        cells.append(row.get("trace_id"))
    return cells


def moves(rows: Sequence[Row], *, wide: bool) -> Table:
    """One line each."""
    table = _table("TIME", "KIND", "PROCESSOR", "FROM", "TO", "OUTCOME", "RTO", "RPO")
    more = ("ID", "PROCESSOR ID", "EPOCH", "LAST ALIVE", "STATE OF", "ENDED")
    for heading in (*(more if wide else ()), "DETAIL"):
        _column(table, heading)
    for row in rows:
        began_at = _day_and_time(row["began_at"]) or ""
        cells = [began_at if wide else began_at.partition("-")[2], *move_cells(row)]
        if wide:
            cells += [row["id"], row["processor_id"], row["epoch"]]
            moments = ("last_alive_at", "state_at", "ended_at")
            cells += [_day_and_time(row[name]) for name in moments]
        add_row(table, [*cells, row["detail"]])
    return table


def move_cells(row: Row) -> list[object]:
    """What moves, from where, to where, how that ended, and what it cost."""
    return [
        row["kind"],
        row["processor_name"] or row["processor_id"],
        row["from_node"],
        row["to_node"],
        row["outcome"] or f"under way {age(row['began_at'])}",
        _exact(row["rto_seconds"]),
        _exact(row["rpo_seconds"]),
    ]


def suspects(rows: Sequence[Row]) -> Table:
    """Edge nodes that are suspect or offline."""
    table = _table("NAME", "ID", "STATE", "SINCE", "REASON", "DETAIL")
    for row in rows:
        cells = [row["name"], row["id"], row["state"], age(row["since"])]
        add_row(table, [*cells, row["reason"], row["detail"]])
    return table


def node(row: Row) -> Table:
    """One below the other, all that is known."""
    values = {name.replace("_", " "): value for name, value in row.items()}
    return pairs({**values, "processors": counts(row["processors"])})


def summary(row: Row) -> Table:
    """The fleet in few numbers."""
    leader = row["leader"]
    held = [
        name
        for name, holds in (
            ("pause", row["pause_until"] is not None),
            ("deletion guard", row["guard_held"]),
            ("brake", row["brake_engaged"]),
        )
        if holds
    ]
    return pairs(
        {
            "processors": f"{row['ready']} of {row['desired']} run ({counts(row['states'])})",
            "nodes": f"{row['nodes_ready']} of {row['nodes']} ready",
            "moves under way": row["moves_open"],
            "away from home": row["away"],
            "holds": ", ".join(held),
            "leader": leader["holder"],
            "term": leader["term"],
            "cluster": row["cluster"],
        }
    )


def brake_state(status: Row) -> str:
    """In a word."""
    if status["engaged"]:
        return "HOLDS"
    return "off" if status["override_until"] is None else "overridden"


_WAITING = {
    "NAME": "name",
    "TEMPLATE": "template",
    "HEALTH": "health_status",
    "NODE": "node_name",
    "EPOCH": "epoch",
    "POD'S EPOCH": "pod_epoch",
    "ID": "id",
    "ORGANIZATION": "organization_id",
    "NAMESPACE": "namespace",
    "POD": "pod_name",
}
_HELD = ("NAME", "TEMPLATE", "HEALTH", "NODE", "ID")
_FROZEN = ("NAME", "NODE", "EPOCH", "POD'S EPOCH", "ID")


def held(rows: Sequence[Row], wide: bool) -> Table:
    """Processors that the deletion guard holds."""
    return _waiting(rows, tuple(_WAITING) if wide else _HELD)


def frozen(rows: Sequence[Row], wide: bool) -> Table:
    """Processors whose pods are of a later epoch."""
    return _waiting(rows, tuple(_WAITING) if wide else _FROZEN)


def _waiting(rows: Sequence[Row], headings: Sequence[str]) -> Table:
    table = _table(*headings)
    for row in rows:
        add_row(table, [row[_WAITING[heading]] for heading in headings])
    return table


def strangers(rows: Sequence[Row]) -> Table:
    """Pods of other fleets."""
    table = _table("POD", "NODE", "SEEN", "DETAIL")
    for row in rows:
        add_row(table, [row["pod_name"], row["node_name"], age(row["at"]), row["detail"]])
    return table


def rules(rows: Sequence[Row]) -> Table:
    """Rules in the order in which they were asked; the answer yes stands out without colour."""
    table = _table("", "rule", "with")
    for row in rows:
        numbers = ", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in row["numbers"].items()
            if value is not None
        )
        add_row(table, ["YES" if row["held"] else "no", row["question"], numbers])
    return table


def candidates(rows: Sequence[Row], others: Mapping[str, int]) -> Table:
    """Nodes that were looked at, and why not."""
    table = _table("node", "why not")
    for row in rows:
        add_row(table, [row["node"], "chosen" if row["chosen"] else row["why_not"]])
    for why_not, count in others.items():
        add_row(table, [f"{count} more", why_not])
    return table


def actions(rows: Sequence[Row]) -> Table:
    """What is done."""
    table = _table("action", "processor", "node", "reason", "detail")
    for row in rows:
        said = (row["move"] or row["action"], row["name"] or row["id"], row["node"])
        add_row(table, [*said, row["reason"], row["detail"]])
    return table


def findings(rows: Sequence[Row]) -> Table:
    """Processors that wait or are held."""
    table = _table("processor", "state", "reason", "detail")
    for row in rows:
        add_row(table, [row["name"] or row["id"], row["state"], row["reason"], row["detail"]])
    return table


def troubled(rows: Sequence[Row]) -> Table:
    """Nodes that are suspect or dead."""
    table = _table("node", "state", "reason", "detail")
    for row in rows:
        add_row(table, [row["name"], row["state"], row["reason"], row["detail"]])
    return table


def supposed(rows: Sequence[Row], *, wide: bool) -> Table:
    """What would become of processors."""
    table = _table(
        "processor",
        "from",
        "outcome",
        "to",
        "loses",
        "runs again in",
        *(["detail"] if wide else []),
    )
    for row in rows:
        where = row["to_node"] or row["reason"]
        times = (_exact(row["loss_seconds"]), _exact(row["seconds"]))
        cells = [row["name"] or row["id"], row["from_node"], row["outcome"], where, *times]
        add_row(table, [*cells, *([row["detail"]] if wide else [])])
    return table


def webhooks(rows: Sequence[Row], *, wide: bool) -> Table:
    """One line each."""
    table = _table("NAME", "BEHIND", "EVENTS", "DELIVERED", "FAILURES", "NEXT TRY", "DEAD", "ERROR")
    for heading in ("URL", "KINDS", "DROPPED") if wide else ():
        _column(table, heading)
    for row in rows:
        put_off = row["next_try_at"]
        cells = [
            row["name"],
            _seconds(row["lag_seconds"]),
            row["lag_events"],
            age(row["delivered_at"]),
            row["failures"],
            None if put_off is None else f"in {_seconds(-_seconds_ago(put_off))}",
            row["dead_letters"],
            row["last_error"] if row["failures"] else None,
        ]
        if wide:
            cells += [row["url"], ", ".join(row["kinds"]), row["dropped"]]
        add_row(table, cells)
    return table


def dead_letters(rows: Sequence[Row], *, wide: bool) -> Table:
    """One line each."""
    table = _table("WEBHOOK", "EVENT", "TIME", "KIND", "REASON", "TRIES", "DIED", "ERROR")
    for heading in ("PROCESSOR", "NODE", "DETAIL") if wide else ():
        _column(table, heading)
    for row in rows:
        event = row["event"]
        cells = [
            row["webhook"],
            event["id"],
            _day_and_time(event["at"]),
            event["kind"],
            event["reason"],
            row["tries"],
            age(row["died_at"]),
            "is sent again" if row["retrying"] else row["error"],
        ]
        if wide:
            name = event["processor_name"] or event["processor_id"]
            cells += [name, event["node_name"], event["detail"]]
        add_row(table, cells)
    return table


def drill_moves(rows: Sequence[Row]) -> Table:
    """What a drill brought about, in order."""
    table = _table("KIND", "PROCESSOR", "FROM", "TO", "OUTCOME", "RTO", "RPO")
    for row in rows:
        costs = (_exact(row["rto_seconds"]), _exact(row["rpo_seconds"]))
        name = row["processor_name"] or row["processor_id"]
        outcome = row["outcome"] or "under way"
        add_row(table, [row["kind"], name, row["from_node"], row["to_node"], outcome, *costs])
    return table


def pairs(values: Mapping[str, object]) -> Table:
    """Names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), _text(value))
    return table


def counts(values: Mapping[str, int]) -> str:
    """`running 3, held 1`, the most first."""
    ordered = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered) or _NOTHING


def ago(moment: str | None) -> str:
    """A moment, and how long ago it was."""
    return _NOTHING if moment is None else f"{clean(moment)} ({age(moment)} ago)"


def until(moment: str) -> str:
    """A moment, and how far away it is."""
    left = (_moment(moment) - _now()).total_seconds()
    return f"{clean(moment)} (in {_seconds(left)})"


def shrinks(heading: str) -> bool:
    """Whether this column is made narrower before others are."""
    return heading in _SHRINKING


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        _column(table, heading)
    return table


def _column(table: Table, heading: str) -> None:
    # Names are cut before they are broken, and before numbers are; what explains is broken and
    # never cut.
    overflow: OverflowMethod = "fold" if heading in _BROKEN else "ellipsis"
    table.add_column(heading, no_wrap=heading not in _SHRINKING, overflow=overflow)


def add_row(table: Table, cells: Sequence[object]) -> None:
    """A row of what comes from outside: on one line, but for what explains."""
    texts = [_text(cell) for cell in cells]
    for text, column in zip(texts, table.columns, strict=True):
        if column.header not in _BROKEN:
            text.no_wrap, text.overflow = True, "ellipsis"
    table.add_row(*texts)


def _text(value: object) -> Text:
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    text = _NOTHING if value is None or value == "" else clean(str(value))
    return Text(text, style=_STYLES.get(text, ""))


def _readiness(row: Row) -> str:
    if row["ready"] is None:
        return "not in cluster"
    return "ready" if row["ready"] else "not ready"


def _status(row: Row) -> str | None:
    """As the leader judged it; of a node that it did not judge, as the platform has it."""
    if row["health"] is None:
        return "cordoned" if row["cordoned"] else row["status"]
    # To decommission a node cordons it: that need not be said twice.
    also = row["cordoned"] and row["health"] != "decommissioned"
    return f"{row['health']}, cordoned" if also else row["health"]


def _day_and_time(text: str | None) -> str | None:
    return None if text is None else _moment(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _exact(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f}s"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def age(text: str | None) -> str | None:
    """How long ago a moment was."""
    return None if text is None else _seconds(_seconds_ago(text))


def _now() -> datetime:
    return _seen_at.get() or datetime.now(UTC)


def _seconds_ago(text: str) -> float:
    return (_now() - _moment(text)).total_seconds()


def _seconds(seconds: float | None) -> str | None:
    """`7s`, `5m`, `3h`, `12d`: as exact as it matters."""
    if seconds is None:
        return None
    for unit, size, most in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{max(seconds, 0) / size:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


def _unit(value: int | None, unit: str) -> str | None:
    return None if value is None else f"{value}{unit}"


def _mebibytes(value: int | None) -> str | None:
    return None if value is None else f"{value / 2**20:.0f}Mi"

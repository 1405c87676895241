"""What a fleet file wants of the base tables, and what has to change for it.

The rules, for rows that the file and the database both know:

- an edge node is known by organization and name, a template by its slug, a version by template
  and version, else each by its id; a processor and a sensor only by its id;
- what the file says is written; what only the platform says (other versions, links of processors
  that the file does not name, the status of a node) stays;
- of a template that the file names, the version in the file is the only active one;
- the status of a processor is written in two cases alone: `terminated` or `failed` becomes
  `pending` again, and `--prune` makes `terminated` what the file no longer names;
- a processor that failed over keeps its link: bringing it home is the orchestrator's work.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID, uuid5

from dory_orchestrator.core.directive import ENDED
from dory_orchestrator.core.model import Node

Value = str | bool | UUID | tuple[float, float] | None


class Table(StrEnum):
    """The base tables that a fleet file speaks of, in the order in which they are written."""

    EDGE_NODES = "edge_nodes"
    TEMPLATES = "processor_templates"
    VERSIONS = "processor_template_versions"
    SENSORS = "sensors"
    PROCESSORS = "processors"
    LINKS = "edge_node_apps"


COLUMNS: Mapping[Table, tuple[str, ...]] = {
    Table.EDGE_NODES: (
        "organization_id",
        "name",
        "status",
        "failover_enabled",
        "failover_target_node_id",
    ),
    Table.TEMPLATES: ("slug", "name"),
    Table.VERSIONS: (
        "processor_template_id",
        "version",
        "image_uri",
        "digest",
        "is_active",
        "runtime_config_template",
    ),
    Table.SENSORS: ("name", "location_point", "config"),
    Table.PROCESSORS: (
        "organization_id",
        "name",
        "processor_template_id",
        "sensor_id",
        "node_type",
        "k8s_namespace",
        "status",
    ),
    Table.LINKS: ("edge_node_id", "processor_id", "status"),
}
"""The columns that are compared and written. Those with JSON hold the text of `json_text`."""

_KNOWN_BY: Mapping[Table, tuple[str, ...]] = {
    Table.EDGE_NODES: ("organization_id", "name"),
    Table.TEMPLATES: ("slug",),
    Table.VERSIONS: ("processor_template_id", "version"),
    Table.LINKS: ("edge_node_id", "processor_id"),
}
_JSON_COLUMNS = frozenset({"runtime_config_template", "config"})
_NOUNS: Mapping[Table, str] = {
    Table.EDGE_NODES: "edge node",
    Table.TEMPLATES: "template",
    Table.VERSIONS: "version",
    Table.SENSORS: "sensor",
    Table.PROCESSORS: "processor",
    Table.LINKS: "link",
}
# Of several rows that the same name fits, the one to take: the least of these.
_STATUS_RANK = {"active": 0, "failed_over": 1, "stopped": 2, "decommissioned": 2}
_SECRET_WORDS = ("SECRET", "TOKEN", "PASSW", "_KEY", "CREDENTIAL", "_URL", "CONNECTION_STRING")
_SHOWN_CHARACTERS_MAX = 200
_CHAIN_MAX = 1000


class FleetConflict(Exception):
    """The file names a processor that belongs to another organization."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a base table, as far as a fleet file speaks of it."""

    table: Table
    id: UUID
    columns: Mapping[str, Value]

    @property
    def key(self) -> tuple[Table, UUID]:
        """Names it among the rows of all tables."""
        return self.table, self.id


Rows = Mapping[tuple[Table, UUID], Row]


def by_key(rows: Iterable[Row]) -> dict[tuple[Table, UUID], Row]:
    """The rows, to be found by table and id."""
    return {row.key: row for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What a fleet file says: nodes for the local cluster, and rows for the database.

    A column that a row lacks is not spoken of: an existing value stays. A file that declares no
    nodes gets some by default; `nodes_declared` tells.
    """

    organization_id: UUID
    nodes: tuple[Node, ...] = ()
    nodes_declared: bool = False
    rows: Rows = field(default_factory=dict)

    def of(self, table: Table) -> list[Row]:
        """The rows for one table, in the order of the file."""
        return [row for row in self.rows.values() if row.table is table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row to insert (`before` is None) or to update. Both sides hold all columns."""

    row: Row
    before: Row | None
    name: str

    @property
    def changed(self) -> tuple[str, ...]:
        """The columns whose values differ."""
        was = self.before.columns if self.before else {}
        return tuple(
            column
            for column in COLUMNS[self.row.table]
            if column not in was or was[column] != self.row.columns.get(column)
        )

    @property
    def sign(self) -> str:
        """`+` inserts, `-` ends a processor or a link, `~` changes."""
        if self.before is None:
            return "+"
        ended = self.row.columns.get("status") in ("terminated", "stopped")
        return "-" if ended and "status" in self.changed else "~"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChanges:
    """What has to be written, in this order, and what is worth knowing besides."""

    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    unchanged: int = 0

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        """A diff for people. What may be a secret is masked."""
        counts = [sum(change.sign == sign for change in self.changes) for sign in "+~-"]
        told = [f"{n} {word}" for n, word in zip(counts, ("new", "changed", "ended"), strict=True)]
        summary = f"{', '.join(told) if self.changes else 'no changes'}; {self.unchanged} unchanged"
        lines = [line for change in self.changes for line in _lines(change)]
        return "\n".join([*lines, *(f"! {note}" for note in self.notes), summary])

    def as_dict(self) -> dict[str, object]:
        """The same for programs; values as text."""
        return {
            "changes": [_as_dict(change) for change in self.changes],
            "notes": list(self.notes),
            "unchanged": self.unchanged,
        }


def diff(
    before: Rows,
    fleet: Fleet,
    *,
    prune: bool = False,
    other_users: Mapping[UUID, int] | None = None,
) -> FleetChanges:
    """What to write so that the rows `before` become what the file wants.

    `before` holds the rows of the file's processors, templates, sensors and organization;
    `other_users` how many processors outside the file use a template, by its id.
    Raises FleetConflict.
    """
    after, notes = _after(before, fleet, prune)
    changes = [
        Change(row=row, before=before.get(key), name=_name(row, after))
        for key, row in after.items()
        if before.get(key) != row
    ]
    changes.sort(key=lambda change: _order(change, after))
    concerned = {row.id for row in fleet_rows(before, fleet)}
    return FleetChanges(
        changes=tuple(changes),
        notes=(*notes, *_shared(changes, after, other_users or {})),
        unchanged=len(concerned - {change.row.id for change in changes}),
    )


def apply(before: Rows, changes: FleetChanges) -> Rows:
    """The rows after these changes: what the database does."""
    return {**before, **by_key(change.row for change in changes.changes)}


def fleet_rows(before: Rows, fleet: Fleet) -> list[Row]:
    """The rows of the file under the ids that they have in the database.

    A row that exists under another id (the platform made it) keeps that id, and references
    follow.
    """
    known: dict[tuple[Value, ...], UUID] = {}
    for row in sorted(before.values(), key=_rank, reverse=True):
        known[_natural_key(row)] = row.id
    ids: dict[UUID, UUID] = {}
    settled: list[Row] = []
    for table in Table:
        rows = [_with_ids(row, ids) for row in fleet.of(table)]
        ids |= {row.id: known.get(_natural_key(row), row.id) for row in rows}
        # Once more: edge nodes name each other.
        settled += [replace(_with_ids(row, ids), id=ids[row.id]) for row in rows]
    return settled


def json_text(value: object) -> str:
    """JSON that is the same text for the same content, also after PostgreSQL has stored it.

    Raises ValueError for numbers that JSON cannot hold.
    """
    return json.dumps(
        _as_stored(value),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )


def json_text_of(stored: str | None) -> str | None:
    """The `json_text` of a column; text that cannot be read is left as it is."""
    if stored is None:
        return None
    try:
        return json_text(json.loads(stored))
    except (ValueError, RecursionError):
        return stored


def _as_stored(value: object) -> object:
    """PostgreSQL knows one kind of numbers: 2.0 is 2, and 1e20 is written out."""
    if isinstance(value, dict):
        return {key: _as_stored(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_stored(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# What the rows shall be ---------------------------------------------------------------------


def _after(before: Rows, fleet: Fleet, prune: bool) -> tuple[Rows, list[str]]:
    after = dict(before)
    wanted = fleet_rows(before, fleet)
    for row in wanted:
        if row.table is not Table.LINKS:
            after[row.key] = _merged(before.get(row.key), row, fleet)
    versions = _grouped(before.values(), Table.VERSIONS, "processor_template_id")
    links = _grouped(before.values(), Table.LINKS, "processor_id")
    homes = {row.columns["processor_id"]: row for row in wanted if row.table is Table.LINKS}
    notes: list[str] = []
    for row in wanted:
        if row.table is Table.VERSIONS:
            after.update(by_key(_deactivated(row, versions)))
        elif row.table is Table.PROCESSORS:
            home = homes.get(row.id)
            if home and (note := _why_no_home(after, home)):
                notes.append(note)
            else:
                after.update(by_key(_relinked(row, home, links)))
                if home:
                    after[home.key] = _linked(before.get(home.key), home)
    if prune:
        after.update(by_key(_pruned(before, fleet, {row.id for row in wanted}, links)))
    return after, notes


_Groups = Mapping[Value, list[Row]]


def _grouped(rows: Iterable[Row], table: Table, column: str) -> _Groups:
    groups: dict[Value, list[Row]] = {}
    for row in rows:
        if row.table is table:
            groups.setdefault(row.columns[column], []).append(row)
    return groups


def _merged(before: Row | None, row: Row, fleet: Fleet) -> Row:
    """`row` where the file speaks, else what is there."""
    if before is None:
        return replace(row, columns=dict.fromkeys(COLUMNS[row.table]) | dict(row.columns))
    columns = {**before.columns, **row.columns}
    if row.table is Table.PROCESSORS:
        if before.columns["organization_id"] not in (None, fleet.organization_id):
            raise FleetConflict(
                f"processor {row.columns['name']}: the id {row.id} belongs to a processor of"
                " another organization"
            )
        ended = before.columns["status"] in ENDED
        columns["status"] = "pending" if ended else before.columns["status"]
    elif "status" in columns:
        columns["status"] = before.columns["status"]
    return replace(before, columns=columns)


def _deactivated(version: Row, versions: _Groups) -> Iterator[Row]:
    """The other versions of its template, if they are active."""
    for row in versions.get(version.columns["processor_template_id"], ()):
        if row.id != version.id and row.columns["is_active"] is not False:
            yield _with(row, is_active=False)


def _why_no_home(after: Rows, home: Row) -> str | None:
    node = after[Table.EDGE_NODES, _uuid(home, "edge_node_id")]
    if node.columns["status"] != "decommissioned":
        return None
    processor = after[Table.PROCESSORS, _uuid(home, "processor_id")]
    return (
        f"edge node {node.columns['name']} is decommissioned: the links of processor"
        f" {processor.columns['name']} stay as they are"
    )


def _relinked(processor: Row, home: Row | None, links: _Groups) -> Iterator[Row]:
    """Its links to other nodes than `home`, which end."""
    present = links.get(processor.id, ())
    if home is None and processor.columns["node_type"] == "edge":
        return  # The orchestrator chose a node, or will.
    for row in present:
        elsewhere = home is None or row.columns["edge_node_id"] != home.columns["edge_node_id"]
        if elsewhere and row.columns["status"] != "stopped":
            yield _with(row, status="stopped")


def _linked(present: Row | None, home: Row) -> Row:
    """The link to `home`. One that failed over stays so; one that named another processor or
    node begins anew."""
    goes_on = present is not None and present.columns["status"] != "stopped"
    if present is not None and goes_on and _natural_key(present) == _natural_key(home):
        return present
    return home


def _pruned(before: Rows, fleet: Fleet, named: set[UUID], links: _Groups) -> Iterator[Row]:
    """Processors of the organization that the file does not name, and their links: ended."""
    for row in before.values():
        if (
            row.table is Table.PROCESSORS
            and row.columns["organization_id"] == fleet.organization_id
            and row.id not in named
            and row.columns["status"] not in ENDED
        ):
            yield _with(row, status="terminated")
            for present in links.get(row.id, ()):
                if present.columns["status"] != "stopped":
                    yield _with(present, status="stopped")


def link(processor_id: UUID, edge_node_id: UUID) -> Row:
    """The link of a processor to its edge node."""
    columns: dict[str, Value] = {
        "edge_node_id": edge_node_id,
        "processor_id": processor_id,
        "status": "active",
    }
    return Row(Table.LINKS, uuid5(processor_id, str(edge_node_id)), columns)


def _with(row: Row, **columns: Value) -> Row:
    return replace(row, columns={**row.columns, **columns})


def _with_ids(row: Row, ids: Mapping[UUID, UUID]) -> Row:
    columns = {
        name: ids.get(value, value) if isinstance(value, UUID) else value
        for name, value in row.columns.items()
    }
    return replace(row, columns=columns)


def _uuid(row: Row, column: str) -> UUID:
    value = row.columns[column]
    assert isinstance(value, UUID)  # noqa: S101 - so it was made
    return value


def _natural_key(row: Row) -> tuple[Value, ...]:
    names = _KNOWN_BY.get(row.table)
    return (row.table, *((row.columns[name] for name in names) if names else (row.id,)))


def _rank(row: Row) -> tuple[int, str]:
    return _STATUS_RANK.get(str(row.columns.get("status")), 0), str(row.id)


def _order(change: Change, rows: Rows) -> tuple[int, int, int]:
    """Tables in order. In each first what gives way (two must never be active at once), then what
    is new, a node's failover target before the node, then what may refer to it."""
    columns = change.row.columns
    if change.before is None:
        turn = 1
    else:
        turn = 0 if columns.get("status") == "stopped" or columns.get("is_active") is False else 2
    return list(Table).index(change.row.table), turn, _chain_length(change.row, rows)


def _chain_length(node: Row, rows: Rows) -> int:
    """How many failover targets follow; bounded, since rows of others may form a circle."""
    for length in range(_CHAIN_MAX):
        target = node.columns.get("failover_target_node_id")
        found = rows.get((Table.EDGE_NODES, target)) if isinstance(target, UUID) else None
        if found is None:
            return length
        node = found
    return _CHAIN_MAX


# Telling ------------------------------------------------------------------------------------


def _shared(changes: Iterable[Change], after: Rows, users: Mapping[UUID, int]) -> Iterator[str]:
    """Templates whose change concerns more than the file."""
    changed = {
        _uuid(change.row, "processor_template_id")
        for change in changes
        if change.row.table is Table.VERSIONS
    }
    for template_id in sorted(changed & set(users), key=str):
        slug = after[Table.TEMPLATES, template_id].columns["slug"]
        yield f"template {slug}: processors outside this file use it too: {users[template_id]}"


def _name(row: Row, rows: Rows) -> str:
    """What people call it."""
    columns = row.columns
    noun = _NOUNS[row.table]
    if row.table is Table.VERSIONS:
        template = _name_of(Table.TEMPLATES, columns["processor_template_id"], rows, "slug")
        return f"{noun} {columns['version']} of {template}"
    if row.table is Table.LINKS:
        processor = _name_of(Table.PROCESSORS, columns["processor_id"], rows, "name")
        node = _name_of(Table.EDGE_NODES, columns["edge_node_id"], rows, "name")
        return f"{noun} of {processor} to {node}"
    name = columns["slug"] if row.table is Table.TEMPLATES else columns["name"]
    return f"{noun} {row.id if name is None else _plain(str(name))}"


def _name_of(table: Table, row_id: Value, rows: Rows, column: str) -> str:
    found = rows.get((table, row_id)) if isinstance(row_id, UUID) else None
    return _plain(str(found.columns[column] or row_id)) if found else str(row_id)


def _plain(text: str) -> str:
    """No line breaks or escape sequences: rows may hold what they like."""
    return text if text.isprintable() else json.dumps(text)


def _lines(change: Change) -> Iterator[str]:
    yield f"{change.sign} {change.name}"
    if change.before is None:
        return
    for column in change.changed:
        was, now = change.before.columns.get(column), change.row.columns.get(column)
        if column in _JSON_COLUMNS:
            yield from (f"    {line}" for line in _json_lines(column, was, now))
        else:
            yield f"    {column}: {_shown(column, was)} -> {_shown(column, now)}"


def _json_lines(column: str, was: Value, now: Value) -> Iterator[str]:
    before, after = _leaves(column, was), _leaves(column, now)
    for path in sorted(before.keys() | after.keys()):
        if path not in before:
            yield f"{path}: {_shown(path, after[path])} (new)"
        elif path not in after:
            yield f"{path}: {_shown(path, before[path])} (gone)"
        elif json_text(before[path]) != json_text(after[path]):
            yield f"{path}: {_shown(path, before[path])} -> {_shown(path, after[path])}"


def _leaves(path: str, text: Value) -> dict[str, object]:
    """Every value that is no object, by its path."""
    try:
        content: object = json.loads(text) if isinstance(text, str) else None
        return dict(_walk(path, content))
    except (ValueError, RecursionError):
        return {path: text}


def _walk(path: str, content: object) -> Iterator[tuple[str, object]]:
    if not isinstance(content, dict) or not content:
        yield path, content
        return
    for key, value in content.items():
        yield from _walk(f"{path}.{_plain(key)}", value)


def _shown(path: str, value: object) -> str:
    """As JSON, short; masked where the name sounds like a secret."""
    if _is_secret(path.rsplit(".", 1)[-1]):
        return "***"
    text = json.dumps(_text(value), ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…"


def _text(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _as_dict(change: Change) -> dict[str, object]:
    was = change.before.columns if change.before else {}
    return {
        "action": "insert" if change.before is None else "update",
        "table": change.row.table.value,
        "id": str(change.row.id),
        "name": change.name,
        "columns": {
            column: {
                "before": _dict_value(column, was.get(column)),
                "after": _dict_value(column, change.row.columns.get(column)),
            }
            for column in change.changed
        },
    }


def _dict_value(column: str, value: Value) -> object:
    if column in _JSON_COLUMNS and isinstance(value, str):
        try:
            return _masked(json.loads(value))
        except (ValueError, RecursionError):
            return value
    return list(value) if isinstance(value, tuple) else _text(value)


def _masked(content: object) -> object:
    if isinstance(content, dict):
        return {key: _masked_if_secret(key, value) for key, value in content.items()}
    return [_masked(item) for item in content] if isinstance(content, list) else content


def _masked_if_secret(name: str, value: object) -> object:
    return "***" if _is_secret(name) and not isinstance(value, dict | list) else _masked(value)


def _is_secret(name: str) -> bool:
    return any(word in name.upper() for word in _SECRET_WORDS)

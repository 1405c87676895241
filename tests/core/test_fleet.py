"""What has to change for a fleet file: the rules, and what no fleet can break."""

from collections import Counter
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator.core.fleet import (
    COLUMNS,
    Fleet,
    FleetChanges,
    FleetConflict,
    Row,
    Rows,
    Table,
    Value,
    apply,
    by_key,
    diff,
    json_text,
    json_text_of,
    link,
)

ORGANIZATION, OTHER = UUID(int=1), UUID(int=2)
SPACE = UUID(int=3)


def as_uuid(value: Value) -> UUID:
    assert isinstance(value, UUID)
    return value


def an_id(name: str) -> UUID:
    return uuid5(SPACE, name)


def node(name: str, row_id: UUID | None = None, **columns: Value) -> Row:
    return Row(
        Table.EDGE_NODES,
        row_id or an_id(name),
        {
            "organization_id": ORGANIZATION,
            "name": name,
            "status": "online",
            "failover_enabled": True,
            "failover_target_node_id": None,
            **columns,
        },
    )


def template(slug: str, row_id: UUID | None = None) -> Row:
    return Row(Table.TEMPLATES, row_id or an_id(slug), {"slug": slug})


def version(of: str, text: str, row_id: UUID | None = None, **columns: Value) -> Row:
    return Row(
        Table.VERSIONS,
        row_id or an_id(of + text),
        {
            "processor_template_id": an_id(of),
            "version": text,
            "image_uri": "image",
            "digest": None,
            "is_active": True,
            "runtime_config_template": "{}",
            **columns,
        },
    )


def processor(name: str, **columns: Value) -> Row:
    return Row(
        Table.PROCESSORS,
        an_id(name),
        {
            "organization_id": ORGANIZATION,
            "name": name,
            "processor_template_id": an_id("counter"),
            "sensor_id": None,
            "node_type": "managed",
            "k8s_namespace": "default",
            "status": "pending",
            **columns,
        },
    )


def linked(name: str, to: str, status: str = "active", row_id: UUID | None = None) -> Row:
    made = link(an_id(name), an_id(to))
    return Row(Table.LINKS, row_id or made.id, {**made.columns, "status": status})


def fleet(*rows: Row) -> Fleet:
    return Fleet(organization_id=ORGANIZATION, rows=by_key(rows))


def stored(*rows: Row) -> Rows:
    """Rows as the database has them: complete."""
    complete = (
        Row(row.table, row.id, dict.fromkeys(COLUMNS[row.table]) | dict(row.columns))
        for row in rows
    )
    return by_key(complete)


def told(changes: FleetChanges) -> list[str]:
    return str(changes).splitlines()[:-1]


COUNTER = (template("counter"), version("counter", "1"))
EDGE = processor("p", node_type="edge")


class TestRules:
    def test_everything_new(self):
        wanted = fleet(node("n"), *COUNTER, EDGE, link(EDGE.id, an_id("n")))
        changes = diff({}, wanted)
        assert told(changes) == [
            "+ edge node n",
            "+ template counter",
            "+ version 1 of counter",
            "+ processor p",
            "+ link of p to n",
        ]
        assert str(changes).endswith("5 new, 0 changed, 0 ended; 0 unchanged")

    def test_nothing(self):
        changes = diff({}, fleet())
        assert not changes
        assert str(changes) == "no changes; 0 unchanged"

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("pending", "pending"),
            ("running", "running"),
            ("paused by the portal", "paused by the portal"),
            ("terminated", "pending"),
            ("failed", "pending"),
        ],
    )
    def test_status_of_a_processor(self, before, after):
        rows = stored(*COUNTER, processor("p", status=before))
        changes = diff(rows, fleet(*COUNTER, processor("p")))
        assert apply(rows, changes)[EDGE.key].columns["status"] == after
        assert bool(changes) is (before != after)

    @pytest.mark.parametrize("status", ["online", "offline", "decommissioned"])
    def test_status_of_a_node_stays(self, status):
        rows = stored(node("n", status=status))
        assert not diff(rows, fleet(node("n")))

    def test_rows_of_the_platform_keep_their_ids(self):
        theirs = [UUID(int=n) for n in range(100, 103)]
        rows = stored(
            node("n", theirs[0]),
            template("counter", theirs[1]),
            version("counter", "1", theirs[2], processor_template_id=theirs[1]),
        )
        wanted = fleet(node("n"), *COUNTER, EDGE, link(EDGE.id, an_id("n")))
        changes = diff(rows, wanted)
        assert told(changes) == ["+ processor p", "+ link of p to n"]
        made = apply(rows, changes)
        assert made[EDGE.key].columns["processor_template_id"] == theirs[1]
        (link_row,) = (row for row in made.values() if row.table is Table.LINKS)
        assert link_row.columns["edge_node_id"] == theirs[0]

    def test_a_decommissioned_twin_is_not_taken(self):
        rows = stored(node("n", UUID(int=100), status="decommissioned"), node("n", UUID(int=101)))
        made = apply(rows, diff(rows, fleet(node("n"), *COUNTER, EDGE, linked("p", "n"))))
        links = [row for row in made.values() if row.table is Table.LINKS]
        assert [row.columns["edge_node_id"] for row in links] == [UUID(int=101)]

    def test_changed_content_under_the_same_version(self):
        rows = stored(*COUNTER)
        config = json_text({"env_vars": {"A": "1"}})
        changes = diff(
            rows, fleet(COUNTER[0], version("counter", "1", runtime_config_template=config))
        )
        assert told(changes) == [
            "~ version 1 of counter",
            "    runtime_config_template: {} (gone)",
            '    runtime_config_template.env_vars.A: "1" (new)',
        ]

    def test_a_new_version_replaces_every_active_one(self):
        rows = stored(*COUNTER, version("counter", "0", is_active=False), version("counter", "1b"))
        changes = diff(rows, fleet(COUNTER[0], version("counter", "2")))
        assert told(changes) == [
            "~ version 1 of counter",
            "    is_active: true -> false",
            "~ version 1b of counter",
            "    is_active: true -> false",
            "+ version 2 of counter",
        ]

    def test_an_earlier_version_comes_back(self):
        rows = stored(COUNTER[0], version("counter", "1", is_active=False), version("counter", "2"))
        made = apply(rows, diff(rows, fleet(*COUNTER)))
        active = [r.columns["version"] for r in made.values() if r.columns.get("is_active")]
        assert active == ["1"]

    def test_a_name_that_the_file_does_not_give_stays(self):
        rows = stored(Row(Table.TEMPLATES, an_id("counter"), {"slug": "counter", "name": "Theirs"}))
        assert not diff(rows, fleet(template("counter")))

    @pytest.mark.parametrize(
        ("present", "after"),
        [
            ([], {"n": "active"}),
            ([("n", "active")], {"n": "active"}),
            ([("n", "failed_over")], {"n": "failed_over"}),
            ([("n", "stopped")], {"n": "active"}),
            ([("m", "active")], {"m": "stopped", "n": "active"}),
            ([("m", "failed_over")], {"m": "stopped", "n": "active"}),
            ([("m", "active"), ("n", "stopped")], {"m": "stopped", "n": "active"}),
        ],
    )
    def test_links_of_a_processor_with_a_node(self, present, after):
        links = [linked("p", to, status, an_id(f"link {to}")) for to, status in present]
        rows = stored(node("n"), node("m"), *COUNTER, EDGE, *links)
        wanted = fleet(node("n"), node("m"), *COUNTER, EDGE, linked("p", "n"))
        made = apply(rows, diff(rows, wanted))
        names = {an_id(name): name for name in ("n", "m")}
        found = {
            names[as_uuid(row.columns["edge_node_id"])]: row.columns["status"]
            for row in made.values()
            if row.table is Table.LINKS
        }
        assert found == after

    @pytest.mark.parametrize(("node_type", "after"), [("edge", "active"), ("managed", "stopped")])
    def test_links_of_a_processor_without_a_node(self, node_type, after):
        """An edge processor that names none was placed by the orchestrator."""
        rows = stored(node("n"), *COUNTER, EDGE, linked("p", "n"))
        made = apply(rows, diff(rows, fleet(*COUNTER, processor("p", node_type=node_type))))
        assert made[linked("p", "n").key].columns["status"] == after

    def test_no_link_to_a_decommissioned_node(self):
        rows = stored(node("n", status="decommissioned"), *COUNTER, EDGE)
        changes = diff(rows, fleet(node("n"), *COUNTER, EDGE, linked("p", "n")))
        assert not changes
        assert "! edge node n is decommissioned: the links of processor p stay" in str(changes)

    def test_prune(self):
        rows = stored(
            *COUNTER,
            node("n"),
            processor("p"),
            processor("gone", node_type="edge", status="running"),
            linked("gone", "n"),
            processor("ended", status="failed"),
            processor("theirs", organization_id=OTHER),
            processor("nobody's", organization_id=None),
        )
        wanted = fleet(*COUNTER, processor("p"))
        assert not diff(rows, wanted)
        assert told(diff(rows, wanted, prune=True)) == [
            "- processor gone",
            '    status: "running" -> "terminated"',
            "- link of gone to n",
            '    status: "active" -> "stopped"',
        ]

    def test_a_processor_of_another_organization_is_not_taken(self):
        rows = stored(*COUNTER, processor("p", organization_id=OTHER))
        with pytest.raises(FleetConflict, match=r"processor p: .*another organization"):
            diff(rows, fleet(*COUNTER, processor("p")))

    def test_failover_targets_are_inserted_first(self):
        wanted = fleet(
            node("a", failover_target_node_id=an_id("b")),
            node("b", failover_target_node_id=an_id("c")),
            node("c"),
        )
        assert told(diff({}, wanted)) == ["+ edge node c", "+ edge node b", "+ edge node a"]

    def test_a_circle_of_others_ends(self):
        rows = stored(
            node("x", failover_target_node_id=an_id("y")),
            node("y", failover_target_node_id=an_id("x")),
        )
        assert not diff(rows, fleet(node("y", failover_target_node_id=an_id("x"))))


class TestTelling:
    def test_other_users_of_a_changed_template(self):
        rows = stored(*COUNTER)
        users = {an_id("counter"): 12, an_id("else"): 3}
        changed = fleet(COUNTER[0], version("counter", "1", image_uri="new"))
        assert "! template counter: processors outside this file use it too: 12" in str(
            diff(rows, changed, other_users=users)
        )
        assert diff(rows, fleet(*COUNTER), other_users=users).notes == ()

    def test_secrets_are_masked(self):
        rows = stored(
            COUNTER[0],
            version(
                "counter",
                "1",
                runtime_config_template=json_text({"env_vars": {"API_TOKEN": "geheim", "B": "x"}}),
            ),
        )
        config = json_text({"env_vars": {"API_TOKEN": "geheimer", "B": "y"}})
        changes = diff(
            rows, fleet(COUNTER[0], version("counter", "1", runtime_config_template=config))
        )
        assert told(changes)[1:] == [
            "    runtime_config_template.env_vars.API_TOKEN: *** -> ***",
            '    runtime_config_template.env_vars.B: "x" -> "y"',
        ]
        assert "geheim" not in json_text(changes.as_dict())
        assert "geheim" not in json_text(diff({}, fleet(*COUNTER)).as_dict())

    def test_names_break_no_line(self):
        rows = stored(*COUNTER, processor("a\nb\x1b[31m"))
        lines = str(diff(rows, fleet(), prune=True)).splitlines()
        assert lines[0] == '- processor "a\\nb\\u001b[31m"'

    def test_unreadable_json_is_shown(self):
        rows = stored(COUNTER[0], version("counter", "1", runtime_config_template="{broken"))
        assert 'template: "{broken" (gone)' not in str(diff(rows, fleet(*COUNTER)))
        assert "broken" in str(diff(rows, fleet(*COUNTER)))

    def test_for_programs(self):
        rows = stored(*COUNTER, processor("p", status="failed"))
        change = {
            "action": "update",
            "table": "processors",
            "id": str(EDGE.id),
            "name": "processor p",
            "columns": {"status": {"before": "failed", "after": "pending"}},
        }
        assert diff(rows, fleet(*COUNTER, processor("p"))).as_dict() == {
            "changes": [change],
            "notes": [],
            "unchanged": 2,
        }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 2.0}, {"a": 2}),
        ({"a": 1e20}, {"a": 10**20}),
        ([-0.0], [0]),
    ],
)
def test_json_text_is_the_same_for_the_same(first, second):
    assert json_text(first) == json_text(second)


def test_json_text_tells_true_from_one():
    assert json_text({"a": True}) != json_text({"a": 1})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_text_refuses_what_is_no_number(bad):
    with pytest.raises(ValueError, match="JSON"):
        json_text({"a": bad})


@pytest.mark.parametrize("text", ["{broken", "[" * 100_000])
def test_json_of_others_is_left_as_it_is(text):
    assert json_text_of(text) == text


# What no fleet can break --------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
STATUSES = st.sampled_from(["pending", "running", "terminated", "failed"])


@st.composite
def fleets(draw):
    nodes = draw(st.sets(NAMES))
    templates = draw(st.sets(NAMES, min_size=1))
    rows = [node(f"n{name}") for name in sorted(nodes)]
    for name in sorted(templates):
        content = draw(st.sampled_from(["{}", '{"env_vars":{"A":"1"}}']))
        of = f"t{name}"
        rows += [
            template(of),
            version(of, draw(NAMES), runtime_config_template=content),
        ]
    for name in sorted(draw(st.sets(NAMES))):
        home = draw(st.sampled_from([None, *sorted(nodes)]))
        kind = "edge" if home else draw(st.sampled_from(["edge", "managed"]))
        template_id = an_id(f"t{draw(st.sampled_from(sorted(templates)))}")
        rows.append(processor(f"p{name}", node_type=kind, processor_template_id=template_id))
        if home:
            rows.append(linked(f"p{name}", f"n{home}"))
    return fleet(*rows)


@st.composite
def databases(draw):
    """Rows of a sound database: one active version a template, one active link a processor.
    Some were made by the platform, under ids of its own."""
    rows = []
    ids = {}
    for name in sorted(draw(st.sets(NAMES))):
        own = an_id(f"n{name}") if draw(st.booleans()) else uuid5(OTHER, name)
        ids[f"n{name}"] = own
        status = draw(st.sampled_from(["online", "offline", "decommissioned"]))
        rows.append(node(f"n{name}", own, status=status))
    for name in sorted(draw(st.sets(NAMES))):
        of = f"t{name}"
        own = an_id(of) if draw(st.booleans()) else uuid5(OTHER, of)
        rows.append(template(of, own))
        active = draw(NAMES)
        rows += [
            version(
                of, text, processor_template_id=own, is_active=text == active, image_uri="theirs"
            )
            for text in sorted(draw(st.sets(NAMES)) | {active})
        ]
    for name in sorted(draw(st.sets(NAMES))):
        organization = draw(st.sampled_from([ORGANIZATION, None]))
        rows.append(processor(f"p{name}", organization_id=organization, status=draw(STATUSES)))
        active = draw(st.sampled_from(["a", "b", "c", None]))
        for to in sorted(draw(st.sets(NAMES))):
            if f"n{to}" in ids:
                status = draw(st.sampled_from(["failed_over", "stopped"]))
                rows.append(
                    Row(
                        Table.LINKS,
                        an_id(f"link p{name} n{to}"),
                        {
                            "edge_node_id": ids[f"n{to}"],
                            "processor_id": an_id(f"p{name}"),
                            "status": "active" if to == active else status,
                        },
                    )
                )
    return stored(*rows)


def active_counts(rows: Rows) -> Counter[tuple[str, Value]]:
    """How many versions of each template, and links of each processor, are active."""
    return Counter(
        [
            *(
                ("versions", row.columns["processor_template_id"])
                for row in rows.values()
                if row.columns.get("is_active")
            ),
            *(
                ("links", row.columns["processor_id"])
                for row in rows.values()
                if row.table is Table.LINKS and row.columns["status"] == "active"
            ),
        ]
    )


@given(databases(), fleets(), st.booleans())
def test_a_second_time_nothing_is_left_to_do(before, wanted, prune):
    after = apply(before, diff(before, wanted, prune=prune))
    assert not diff(after, wanted, prune=prune)
    assert not diff(after, wanted)


@given(databases(), fleets(), st.booleans())
def test_never_two_active_at_any_moment(before, wanted, prune):
    rows = before
    for change in diff(before, wanted, prune=prune).changes:
        rows = {**rows, change.row.key: change.row}
        assert max(active_counts(rows).values(), default=0) <= 1


@given(databases(), fleets(), st.booleans())
def test_the_version_of_the_file_is_active(before, wanted, prune):
    after = apply(before, diff(before, wanted, prune=prune))
    slugs = {r.columns["slug"]: r.id for r in after.values() if r.table is Table.TEMPLATES}
    versions = zip(wanted.of(Table.TEMPLATES), wanted.of(Table.VERSIONS), strict=True)
    for template_row, version_row in versions:
        (active,) = (
            row
            for row in after.values()
            if row.columns.get("is_active")
            and row.columns["processor_template_id"] == slugs[template_row.columns["slug"]]
        )
        for column in ("version", "image_uri", "runtime_config_template"):
            assert active.columns[column] == version_row.columns[column]


@given(databases(), fleets(), st.booleans())
def test_what_the_file_does_not_concern_stays(before, wanted, prune):
    after = apply(before, diff(before, wanted, prune=prune))
    named = {row.id for row in wanted.of(Table.PROCESSORS)}
    slugs = {row.columns["slug"] for row in wanted.of(Table.TEMPLATES)}
    for key, row in before.items():
        now = after[key]
        if row.table is Table.TEMPLATES:
            assert now == row
        elif row.table is Table.VERSIONS:
            owner = before[Table.TEMPLATES, as_uuid(row.columns["processor_template_id"])]
            assert now == row or owner.columns["slug"] in slugs
        elif row.table is Table.EDGE_NODES:
            assert now.columns["status"] == row.columns["status"]
        elif row.table is Table.PROCESSORS and row.id not in named:
            ended = prune and row.columns["organization_id"] == ORGANIZATION
            assert now == row or (ended and now.columns["status"] == "terminated")
        elif row.table is Table.LINKS and row.columns["processor_id"] not in named and not prune:
            assert now == row

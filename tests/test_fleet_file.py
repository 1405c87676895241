"""The fleet file: what may be written, and how mistakes are told."""

import json
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator import fleet_file
from dory_orchestrator.core.fleet import Fleet, Row, Table
from dory_orchestrator.core.model import Resources, Taint, TaintEffect
from dory_orchestrator.core.runtime_config import read
from dory_orchestrator.fleet_file import FleetFileError, load, parse, schema

NAMESPACE = UUID("7e1c3b2a-0000-4000-8000-000000000001")
FOLDER = Path("/srv/fleet")
MINE = """
processors:
  - name: mine
    command: [python, mine.py]
"""


def fleet_of(text: str | bytes, namespace: UUID = NAMESPACE) -> Fleet:
    content = text.encode() if isinstance(text, str) else text
    return parse(content, name="fleet.yaml", folder=FOLDER, namespace=namespace)


def problems_of(text: str | bytes) -> list[str]:
    with pytest.raises(FleetFileError) as caught:
        fleet_of(text)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def one(fleet: Fleet, table: Table) -> Row:
    (row,) = fleet.of(table)
    return row


def config_of(fleet: Fleet) -> dict[str, object]:
    text = one(fleet, Table.VERSIONS).columns["runtime_config_template"]
    assert isinstance(text, str)
    read(text)
    content: dict[str, object] = json.loads(text)
    return content


@pytest.mark.parametrize("text", ["", "\n \n", "# only\n  # words\n", "{}", "---\n", "\ufeff"])
def test_an_empty_file_is_an_empty_fleet(text):
    fleet = fleet_of(text)
    assert fleet.rows == {}
    assert [node.name for node in fleet.nodes] == ["edge-1", "cloud-1"]


def test_three_lines_are_enough():
    fleet = fleet_of(MINE)
    assert {row.table for row in fleet.rows.values()} == {
        Table.TEMPLATES,
        Table.VERSIONS,
        Table.PROCESSORS,
    }
    assert one(fleet, Table.TEMPLATES).columns == {"slug": "mine"}
    assert config_of(fleet) == {
        "container": {"command": ["python", "mine.py"]},
        "env_vars": {"DORY_LOCAL_WORKING_DIR": "/srv/fleet"},
    }
    assert one(fleet, Table.PROCESSORS).columns["node_type"] == "managed"


def test_default_nodes_become_rows_only_when_used():
    assert fleet_of(MINE).of(Table.EDGE_NODES) == []
    for line in ("node: edge-1", "node_type: edge"):
        assert one(fleet_of(f"{MINE}    {line}"), Table.EDGE_NODES).columns["name"] == "edge-1"


class TestIds:
    def test_they_are_stable(self):
        assert fleet_of(MINE) == fleet_of(f"# changed\n{MINE}")

    def test_they_depend_on_namespace_organization_and_name(self):
        ids = {
            one(fleet, Table.PROCESSORS).id
            for fleet in (
                fleet_of(MINE),
                fleet_of(MINE, UUID(int=5)),
                fleet_of(f"organization: other{MINE}"),
                fleet_of(MINE.replace("name: mine", "name: yours")),
            )
        }
        assert len(ids) == 4

    def test_given_ids(self):
        own = UUID("11111111-1111-4111-8111-111111111111")
        fleet = fleet_of(
            f"organization: {{name: a, id: {own}}}{MINE}    id: {own}\n"
            f"    sensor: s\nsensors: [{{name: s, id: {own}}}]"
        )
        assert fleet.organization_id == own
        assert {table for table, row_id in fleet.rows if row_id == own} == {
            Table.PROCESSORS,
            Table.SENSORS,
        }

    def test_replicas(self):
        names = [
            row.columns["name"] for row in fleet_of(f"{MINE}    replicas: 3").of(Table.PROCESSORS)
        ]
        assert names == ["mine-1", "mine-2", "mine-3"]


class TestValues:
    def test_everything_of_a_template(self):
        fleet = fleet_of("""
templates:
  - slug: t
    name: T
    version: 1.10
    image: registry.example/t:1
    digest: sha256:0123
    command: python -m t "two words"
    args: [7, yes, 0x10]
    working_dir: sub
    port: 9000
    image_pull_policy: Always
    resources: {cpu_request: 0.5, memory_limit: 1Gi, gpu_required: true, gpu_limit: 1}
    health_probes: {initial_delay_sec: 1, period_sec: 2, timeout_sec: 3, failure_threshold: 4}
    env: {A: 1, B: true, C: "", D: no}
    node_selector: {zone: north}
    tolerations: [{key: k, operator: Exists, effect: NoSchedule}]
    security_context: {runAsUser: 0, capabilities: {add: [NET_ADMIN]}}
    orchestrator:
      {priority: -5, failback: manual, fencing: no, checkpoint_interval_seconds: 2.5, proof: [/a/b]}
""")
        assert one(fleet, Table.TEMPLATES).columns == {"slug": "t", "name": "T"}
        version = one(fleet, Table.VERSIONS).columns
        assert (version["version"], version["image_uri"], version["digest"]) == (
            "1.10",
            "registry.example/t:1",
            "sha256:0123",
        )
        assert config_of(fleet) == {
            "container": {
                "command": ["python", "-m", "t", "two words"],
                "args": ["7", "yes", "0x10"],
                "port": 9000,
                "image_pull_policy": "Always",
            },
            "resources": {
                "cpu_request": "0.5",
                "memory_limit": "1Gi",
                "gpu_required": True,
                "gpu_limit": 1,
            },
            "health_probes": {
                "initial_delay_sec": 1,
                "period_sec": 2,
                "timeout_sec": 3,
                "failure_threshold": 4,
            },
            "env_vars": {
                "A": "1",
                "B": "true",
                "C": "",
                "D": "no",
                "DORY_LOCAL_WORKING_DIR": "/srv/fleet/sub",
            },
            "node_selector": {"zone": "north"},
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
            "security_context": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}},
            "orchestrator": {
                "priority": -5,
                "failback": "manual",
                "fencing": False,
                "checkpoint_interval_seconds": 2.5,
                "proof": ["/a/b"],
            },
        }

    def test_an_image_alone_has_no_folder(self):
        fleet = fleet_of("templates: [{slug: t, image: i}]")
        assert config_of(fleet) == {}

    @pytest.mark.parametrize("folder", ["/opt/mine", "/opt/../x"])
    def test_an_absolute_working_dir(self, folder):
        environment = config_of(fleet_of(f"{MINE}    working_dir: {folder}"))["env_vars"]
        assert environment == {"DORY_LOCAL_WORKING_DIR": folder}

    def test_nodes(self):
        fleet = fleet_of("""
nodes:
  - name: edge-1
    kind: edge
    labels: {zone: north, node-type: system}
    taints: ["edge-node=true:NoSchedule", "slow:PreferNoSchedule"]
    capacity: {cpu: 500m, memory: 512Mi, gpu: 1, pods: 5}
    failover_enabled: false
    failover_target: edge-2
  - {name: edge-2, kind: edge}
  - {name: cloud, kind: application}
""")
        first, second, cloud = fleet.nodes
        assert first.labels == {"zone": "north", "node-type": "edge"}
        assert first.taints == (
            Taint("edge-node", "true", TaintEffect.NO_SCHEDULE),
            Taint("slow", "", TaintEffect.PREFER_NO_SCHEDULE),
        )
        assert first.allocatable == Resources(500, 512 * 1024**2, 1)
        assert (first.pods_max, first.ready) == (5, True)
        assert second.allocatable == Resources(4000, 8 * 1024**3, 0)
        assert cloud.labels == {"workload-type": "application"}
        one_row, two_row = fleet.of(Table.EDGE_NODES)
        assert one_row.columns["failover_target_node_id"] == two_row.id
        assert one_row.columns["failover_enabled"] is False
        assert two_row.columns["failover_enabled"] is True

    def test_no_nodes_at_all(self):
        assert fleet_of("nodes: []").nodes == ()

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1", 1),
            ("-2.5", -2.5),
            ("true", True),
            ("yes", "yes"),
            ("NO", "NO"),
            ("12:30:00", "12:30:00"),
            ("0x1F", "0x1F"),
            ("1_000", "1_000"),
            ("2024-01-02", "2024-01-02"),
            (".inf", ".inf"),
            ("'1'", "1"),
            ("[1, {a: ~}]", [1, {"a": None}]),
        ],
    )
    def test_config_of_a_sensor(self, text, value):
        fleet = fleet_of(f"sensors: [{{name: s, config: {{a: {text}}}}}]")
        assert one(fleet, Table.SENSORS).columns["config"] == json.dumps(
            {"a": value}, separators=(",", ":")
        )

    def test_an_alias_is_a_copy(self):
        fleet = fleet_of("""
templates:
  - {slug: a, command: [a], env: &env {A: "1"}}
  - {slug: b, command: [b], env: *env}
""")
        assert [
            json.loads(str(row.columns["runtime_config_template"]))["env_vars"]["A"]
            for row in fleet.of(Table.VERSIONS)
        ] == ["1", "1"]


def entry(section: str, text: str) -> str:
    return f"{section}:\n  - {text}\n"


def template(text: str) -> str:
    return entry("templates", f"{{slug: t, command: [t], {text}}}")


def a_node(text: str) -> str:
    return entry("nodes", f"{{name: n, kind: edge, {text}}}")


def a_processor(text: str) -> str:
    return entry("processors", f"{{name: p, command: [p], {text}}}")


MISTAKES = {
    # the shape of the file
    "- a": "1: expected a mapping",
    "just words": "1: expected a mapping, not 'just words'",
    "nodes: {a: b}": "1: nodes: expected a list",
    "nodes: [x]": "1: nodes[0]: expected a mapping, not 'x'",
    "\n\nprocesors: []": "3: procesors: there is no such field; did you mean 'processors'?",
    "zzz: 1": "1: zzz: there is no such field",
    "? [a, b]\n: 1": "1: ?: expected a plain text as key",
    "nodes: []\nnodes: []": "2: nodes: stands there twice",
    "a: 1\n b: 2\n": "2: is not valid YAML: mapping values are not allowed here",
    "a: [": "1: is not valid YAML: expected the node content, but found '<stream end>'",
    "a: *b": "1: is not valid YAML: found undefined alias 'b'",
    "{}\n---\n{}": "2: is not valid YAML: but found another document",
    "organization: [a]": "1: organization: expected a mapping",
    "organization: ''": "1: organization.name: expected 1 to 253 printable characters",
    "organization: {id: x}": "1: organization.id: expected a UUID, not 'x'",
    'organization: "a\\0b"': "1: organization: holds a character that cannot be stored",
    'organization: "\\uD800"': "1: organization: holds a character that cannot be stored",
    "organization: !!python/name:os.system x": (
        "1: organization: the tag 'tag:yaml.org,2002:python/name:os.system' is not allowed here"
    ),
    "organization: !x y": "1: organization: the tag '!x' is not allowed here",
    # nodes
    entry("nodes", "kind: edge"): "2: nodes[0].name: is missing",
    entry("nodes", "name: n"): "2: nodes[0].kind: is missing",
    entry("nodes", "{name: n, kind: cloud}"): (
        "2: nodes[0].kind: must be 'edge' or 'application', not 'cloud'"
    ),
    entry("nodes", "{name: Node_1, kind: edge}"): (
        "2: nodes[0].name: no node can have this name: 'Node_1' is not made of lower case letters,"
        " digits and inner hyphens"
    ),
    entry("nodes", "{name: '', kind: edge}"): (
        "2: nodes[0].name: no node can have this name: it is empty"
    ),
    a_node("capacity: {cpu: lots}"): (
        "2: nodes[0].capacity.cpu: 'lots' is no quantity such as 500m, 2 or 512Mi"
    ),
    a_node("capacity: {memory: 9E}"): "2: nodes[0].capacity.memory: '9E' is too large",
    a_node("capacity: {memory: 8 GB}"): (
        "2: nodes[0].capacity.memory: '8 GB' is no quantity such as 500m, 2 or 512Mi"
    ),
    a_node("capacity: {pods: 1.5}"): (
        "2: nodes[0].capacity.pods: expected a whole number, not '1.5'"
    ),
    a_node("capacity: {pods: 0}"): (
        "2: nodes[0].capacity.pods: must be greater than or equal to 1, not '0'"
    ),
    a_node("capacity: {cores: 4}"): "2: nodes[0].capacity.cores: there is no such field",
    a_node("capacity: 4"): "2: nodes[0].capacity: expected a mapping, not '4'",
    a_node("labels: {zone: 'two words'}"): (
        "2: nodes[0].labels.zone: expected a label value (letters, digits, -, _, ., at most 63),"
        " not 'two words'"
    ),
    a_node("labels: {'a b': c}"): (
        "2: nodes[0].labels.a b: expected the name of a label, such as example.com/zone, not 'a b'"
    ),
    a_node("labels: [a]"): "2: nodes[0].labels: expected a mapping",
    a_node("taints: [a=b]"): (
        "2: nodes[0].taints[0]: expected key=value:effect with one of the effects NoSchedule,"
        " PreferNoSchedule, NoExecute"
    ),
    a_node("failover_enabled: maybe"): (
        "2: nodes[0].failover_enabled: expected true or false, not 'maybe'"
    ),
    a_node("failover_target: m"): "2: nodes[0].failover_target: no node is called 'm'",
    a_node("failover_target: n"): (
        "2: nodes[0].failover_target: the failover targets form a circle"
    ),
    entry("nodes", "{name: c, kind: application, failover_enabled: true}"): (
        "2: nodes[0]: failover_enabled is for edge nodes"
    ),
    entry("nodes", "{name: n, kind: edge}\n  - {name: n, kind: application}"): (
        "3: nodes[1].name: there is another node 'n': nodes[0].name"
    ),
    # templates
    entry("templates", "slug: t"): (
        "2: templates[0]: says not what to run: give command, image, or both"
    ),
    entry("templates", "{slug: t, command: 'a \"b'}"): (
        "2: templates[0].command: no closing quotation in 'a \"b'"
    ),
    entry("templates", "{slug: t, command: {a: b}}"): "2: templates[0].command: expected a list",
    entry("templates", "{slug: t, command: [[a]]}"): "2: templates[0].command[0]: expected a text",
    entry("templates", "{slug: t, command: [a, ~]}"): "2: templates[0].command[1]: expected a text",
    template("resource: {}"): (
        "2: templates[0].resource: there is no such field; did you mean 'resources'?"
    ),
    template("resources: {cpu: 1}"): "2: templates[0].resources.cpu: there is no such field",
    template("resources: {memory: 64Mi}"): (
        "2: templates[0].resources.memory: there is no such field; did you mean 'memory_limit'?"
    ),
    template("resources: {cpu_limit: -1}"): (
        "2: templates[0].resources.cpu_limit: '-1' is no quantity such as 500m, 2 or 512Mi"
    ),
    template("env: {A: [b]}"): "2: templates[0].env.A: expected a text",
    template("env: {A: }"): "2: templates[0].env.A: expected a text",
    template("env: {A=B: c}"): (
        "2: templates[0].env.A=B: expected the name of a variable, such as MODEL_PATH, not 'A=B'"
    ),
    template("env: {A: b, A: c}"): "2: templates[0].env.A: stands there twice",
    template("port: 0"): ("2: templates[0].port: must be greater than or equal to 1, not '0'"),
    template("health_probes: {period_sec: soon}"): (
        "2: templates[0].health_probes.period_sec: expected a whole number, not 'soon'"
    ),
    template("orchestrator: {failback: later}"): (
        "2: templates[0].orchestrator.failback: must be 'auto' or 'manual', not 'later'"
    ),
    template("orchestrator: {checkpoint_interval_seconds: .nan}"): (
        "2: templates[0].orchestrator.checkpoint_interval_seconds: expected a number, not '.nan'"
    ),
    template("orchestrator: {checkpoint_interval_seconds: often}"): (
        "2: templates[0].orchestrator.checkpoint_interval_seconds: expected a number, not 'often'"
    ),
    template("orchestrator: {proof: [count]}"): (
        "2: templates[0].orchestrator.proof[0]: expected a JSON pointer into the state,"
        " such as /count, not 'count'"
    ),
    # sensors
    entry("sensors", "{name: s, location: [200, 1]}"): (
        "2: sensors[0].location[0]: must be less than or equal to 180, not '200'"
    ),
    entry("sensors", "{name: s, location: [1]}"): "2: sensors[0].location[1]: is missing",
    entry("sensors", "{name: s, location: [1, 2, 3]}"): (
        "2: sensors[0].location: expected two numbers, longitude and latitude"
    ),
    entry("sensors", "{name: s, location: here}"): (
        "2: sensors[0].location: expected a list, not 'here'"
    ),
    entry("sensors", "{name: s, config: [1]}"): "2: sensors[0].config: expected a mapping",
    # processors
    entry("processors", "name: p"): (
        "2: processors[0]: says not what to run: give template, or command, or image"
    ),
    entry("processors", "{name: p, template: t}"): (
        "2: processors[0].template: no template is called 't'"
    ),
    a_processor("template: t") + template(""): (
        "2: processors[0]: command belongs to the template 't': give it there"
    ),
    a_processor("node: edge-2"): (
        "2: processors[0].node: no node is called 'edge-2'; did you mean 'edge-1'?"
    ),
    a_processor("node: cloud-1"): (
        "2: processors[0].node: 'cloud-1' is an application node: only edge nodes are named here"
    ),
    a_processor("node: edge-1, node_type: managed"): (
        "2: processors[0]: a managed processor has no node: leave out node, or node_type"
    ),
    a_processor("node_type: cloud"): (
        "2: processors[0].node_type: must be 'edge' or 'managed', not 'cloud'"
    ),
    a_processor("namespace: My_Space"): (
        "2: processors[0].namespace: expected a DNS label, such as default, not 'My_Space'"
    ),
    a_processor("sensor: s"): "2: processors[0].sensor: no sensor is called 's'",
    a_processor("id: 12"): "2: processors[0].id: expected a UUID, not '12'",
    a_processor("replicas: 0"): (
        "2: processors[0].replicas: must be greater than or equal to 1, not '0'"
    ),
    a_processor(f"replicas: 2, id: {NAMESPACE}"): (
        "2: processors[0]: replicas cannot share one id: leave out id"
    ),
    a_processor("") + "  - {name: p-1, command: [p]}\n  - {name: p, template: p}\n": (
        "4: processors[2].name: there is another processor 'p': processors[0].name"
    ),
    a_processor("replicas: 2") + "  - {name: p-2, command: [p]}\n": (
        "3: processors[1].name: there is another processor 'p-2': processors[0].name"
    ),
    a_processor("") + entry("templates", "{slug: p, command: [p]}"): (
        "2: processors[0].name: there is another template 'p': templates[0].slug"
    ),
    a_processor(f"id: {NAMESPACE}") + f"  - {{name: q, command: [q], id: '{NAMESPACE}'}}\n": (
        "3: processors[1].id: there is another processor with the id"
        f" '{NAMESPACE}': processors[0].id"
    ),
}


@pytest.mark.parametrize(("text", "problem"), MISTAKES.items())
def test_a_mistake_is_named(text, problem):
    assert f"fleet.yaml:{problem}" in problems_of(text)


def test_the_mistake_that_the_reference_shows():
    text = """
templates:
  - slug: counter
    command: [python, counter.py]
processors:
  - {name: a, template: counter}
  - {name: b, template: counter}
  -
    name: c
    node: edge-1
    template: conter
"""
    assert problems_of(text) == [
        "fleet.yaml:11: processors[2].template: no template is called 'conter';"
        " did you mean 'counter'?"
    ]


def test_several_mistakes_at_once_in_the_order_of_lines():
    text = """
nodes:
  - {name: Edge, kind: edge}
  - {name: cloud, kind: applicaton}
processors:
  - name: p
    template: none
    sensr: s
"""
    assert [problem.split(": ")[0:2] for problem in problems_of(text)] == [
        ["fleet.yaml:3", "nodes[0].name"],
        ["fleet.yaml:4", "nodes[1].kind"],
        ["fleet.yaml:7", "processors[0].template"],
        ["fleet.yaml:8", "processors[0].sensr"],
    ]


def test_a_mistake_hides_no_reference():
    """A template that is wrong in itself is still there to be referred to."""
    text = "templates: [{slug: t, port: x}]\nprocessors: [{name: p, template: t}]"
    assert len(problems_of(text)) == 1


def test_a_circle_of_three():
    nodes = "".join(
        f"  - {{name: {a}, kind: edge, failover_target: {b}}}\n"
        for a, b in ("ab", "bc", "ca", "da")
    )
    problems = problems_of(f"nodes:\n{nodes}")
    assert [problem.split(":")[1] for problem in problems] == ["2", "3", "4"]


def test_many_mistakes_are_cut_off():
    text = "".join(f"x{n}: 1\n" for n in range(200))
    problems = problems_of(text)
    assert len(problems) == 51
    assert problems[-1] == "fleet.yaml: and 150 more mistakes"


class TestHostileFiles:
    def test_aliases_that_multiply(self):
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
        assert problems_of("\n".join(lines)) == ["fleet.yaml: holds more than 100000 values"]

    def test_a_long_text_a_thousand_times(self):
        aliases = ", ".join(["*x"] * 1000)
        assert problems_of(f"a: &x {'y' * 10_000}\nb: [{aliases}]") == [
            "fleet.yaml: holds more than 4194304 characters in all"
        ]

    def test_more_processors_than_anyone_has(self):
        entries = "".join(f"  - {{name: p{n}, template: t, replicas: 1000}}\n" for n in range(200))
        assert problems_of(f"templates: [{{slug: t, image: i}}]\nprocessors:\n{entries}") == [
            "fleet.yaml:23: processors[20].name: there are more than 20000 processors"
        ]

    @pytest.mark.parametrize("text", ["[" * 20_000, "a: " + "[" * 400 + "]" * 400])
    def test_deep_nesting(self, text):
        assert problems_of(text) == ["fleet.yaml: is nested too deeply"]

    def test_a_ring_of_aliases(self):
        assert problems_of("a: &a [*a]") == ["fleet.yaml: is nested too deeply"]

    def test_size(self):
        assert problems_of(b"#" * (fleet_file.BYTES_MAX + 1)) == [
            "fleet.yaml: is larger than 1024 KiB"
        ]

    @pytest.mark.parametrize("content", [b"a: b\nc: \xff\n", b"\n\x80"])
    def test_not_utf_8(self, content):
        assert problems_of(content) == ["fleet.yaml:2: is not UTF-8"]

    def test_control_characters(self):
        (problem,) = problems_of(b"a: \x07")
        assert problem.startswith("fleet.yaml: is not valid YAML: ")

    @given(st.binary(max_size=200))
    def test_any_bytes(self, content):
        with suppress(FleetFileError):
            fleet_of(content)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "organization",
                            "nodes",
                            "templates",
                            "sensors",
                            "processors",
                            "name",
                            "kind",
                            "slug",
                            "command",
                            "id",
                            "template",
                            "node",
                            "sensor",
                            "replicas",
                            "config",
                            "failover_target",
                            "capacity",
                            "env",
                            "location",
                            "zzz",
                        ]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=20,
        )
    )
    def test_any_content(self, content):
        with suppress(FleetFileError):
            fleet_of(json.dumps(content))


class TestLoad:
    def test_the_folder_is_that_of_the_file(self, tmp_path):
        file = tmp_path / "a.yaml"
        file.write_text(MINE, encoding="utf-8")
        link = tmp_path / "sub" / "b.yaml"
        link.parent.mkdir()
        link.symlink_to(file)
        for path in (file, link):
            environment = config_of(load(path, NAMESPACE))["env_vars"]
            assert environment == {"DORY_LOCAL_WORKING_DIR": str(tmp_path)}

    @pytest.mark.parametrize("name", ["none.yaml", "."])
    def test_a_file_that_cannot_be_read(self, tmp_path, name):
        with pytest.raises(FleetFileError, match="cannot be read"):
            load(tmp_path / name, NAMESPACE)

    def test_problems_name_the_path_as_given(self, tmp_path, monkeypatch):
        (tmp_path / "f.yaml").write_text("x: 1", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FleetFileError, match=r"^f\.yaml:1: x: "):
            load(Path("f.yaml"), NAMESPACE)


def test_the_schema_tells_every_field():
    text = json.dumps(schema())
    for field in ("failover_target", "working_dir", "replicas", "proof", "gpu_limit", "location"):
        assert f'"{field}"' in text
    assert schema()["additionalProperties"] is False


def test_a_full_mebibyte_does_not_take_minutes():
    """PyYAML is slow, not quadratic."""
    names = "\n".join(f"  - {{name: p{n}, template: t}}" for n in range(3000))
    text = f"templates: [{{slug: t, command: [t]}}]\nprocessors:\n{names}"
    assert len(fleet_of(text).of(Table.PROCESSORS)) == 3000

"""A fleet file: YAML for people, checked, as the values that `core.fleet` works with.

Scalars are taken as they are written: `version: 1.10` is the text `1.10`, and `command: [run, 7]`
two words. Every mistake is told, with its line and field, before anything is done.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID, uuid5

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails

from dory_orchestrator.core.fleet import Fleet, Row, Table, Value, by_key, json_text, link
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    EDGE_NODE_SELECTOR,
    Node,
    Resources,
    Taint,
    TaintEffect,
)
from dory_orchestrator.core.node_name import why_not_kubernetes
from dory_orchestrator.core.quantity import millicores, whole

WORKING_DIR = "DORY_LOCAL_WORKING_DIR"
"""The variable that tells the local cluster in which folder a command runs."""

BYTES_MAX = 1024 * 1024
_VALUES_MAX = 100_000
_CHARACTERS_MAX = 4 * BYTES_MAX
"""So that a few aliases cannot stand for billions of values, or of characters."""
_PROCESSORS_MAX = 20_000
_DEPTH_MAX = 40
_PROBLEMS_MAX = 50
_TEXT_MAX = 253
_AMOUNT_MAX = 2**62
"""More than any node has, and still a number that the database and JSON readers hold."""
_DEFAULT_VERSION = "dev"

FilePath = tuple[str | int, ...]
"""Where in a file: keys, and places in lists from 0."""


class FleetFileError(Exception):
    """The file cannot be used. `problems` holds a line for each mistake, naming its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class FleetFile:
    """A fleet file that was understood. It belongs to no database yet."""

    def __init__(self, content: bytes, *, name: str, folder: Path) -> None:
        """Of a file that is called `name` and stands in `folder`. Raises FleetFileError."""
        tree = _Tree(name, content)
        tree.problems += _reference_problems(tree.content)
        try:
            document = _Document.model_validate(tree.content)
        except ValidationError as error:
            tree.problems += [_problem(details) for details in error.errors()]
            raise tree.error() from error
        if tree.problems:
            raise tree.error()
        self._document, self._folder = document, folder

    def fleet(self, namespace: UUID) -> Fleet:
        """What it says. Ids are derived from `namespace`, organization and names."""
        return _fleet(self._document, self._folder, namespace)


def read(path: Path) -> FleetFile:
    """Understand a fleet file. Raises FleetFileError."""
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise FleetFileError([f"{path}: cannot be read: {error.strerror}"]) from error
    return FleetFile(content, name=str(path), folder=path.resolve().parent)


def load(path: Path, namespace: UUID) -> Fleet:
    """Read a fleet file. Raises FleetFileError."""
    return read(path).fleet(namespace)


def parse(content: bytes, *, name: str, folder: Path, namespace: UUID) -> Fleet:
    """Understand the content of a fleet file that is called `name` and stands in `folder`.

    Raises FleetFileError.
    """
    return FleetFile(content, name=name, folder=folder).fleet(namespace)


def schema() -> dict[str, Any]:
    """The JSON schema of a fleet file, for editors."""
    return _Document.model_json_schema()


# YAML, with lines ---------------------------------------------------------------------------

_STANDARD_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(
    _STANDARD_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value")
)
_WHOLE = re.compile(r"[-+]?[0-9]{1,300}")
_FRACTION = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,2})?")


class _Tree:
    """The content of a file as mappings, lists and texts, and the line of everything in it."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        self._lines: dict[FilePath, int] = {}
        self._values = self._characters = 0
        self.problems: list[tuple[FilePath, str]] = []
        node = self._composed(content)
        try:
            self.content = {} if node is None else self._value(node, ())
        except OverflowError as error:
            raise FleetFileError([f"{name}: {error}"]) from None
        self.content = {} if self.content is None else self.content

    def error(self) -> FleetFileError:
        """All problems, in the order of their lines."""
        placed = sorted({(self._line(path), _field(path), what) for path, what in self.problems})
        lines = [
            f"{self._name}:{line}: {field}{': ' if field else ''}{what}"
            for line, field, what in placed
        ]
        if len(lines) > _PROBLEMS_MAX:
            more = f"{self._name}: and {len(lines) - _PROBLEMS_MAX} more mistakes"
            lines = [*lines[:_PROBLEMS_MAX], more]
        return FleetFileError(lines)

    def _line(self, path: FilePath) -> int:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _composed(self, content: bytes) -> yaml.Node | None:
        name = self._name
        if len(content) > BYTES_MAX:
            raise FleetFileError([f"{name}: is larger than {BYTES_MAX // 1024} KiB"])
        try:
            # Not the loader in C: it dies of deep nesting, and the process with it.
            node: yaml.Node | None = yaml.compose(
                content.decode("utf-8-sig"), Loader=yaml.SafeLoader
            )
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise FleetFileError([f"{name}:{line}: is not UTF-8"]) from None
        except RecursionError:
            raise FleetFileError([f"{name}: is nested too deeply"]) from None
        except yaml.YAMLError as error:
            raise FleetFileError([_not_yaml(name, error)]) from None
        return node

    def _value(self, node: yaml.Node, path: FilePath) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        self._values += 1
        if self._values > _VALUES_MAX:
            raise OverflowError(f"holds more than {_VALUES_MAX} values")
        if len(path) > _DEPTH_MAX:
            raise OverflowError("is nested too deeply")
        if isinstance(node, yaml.MappingNode):
            return dict(self._items(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, n)) for n, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # noqa: S101 - there is no fourth kind
        return self._scalar(node, path)

    def _items(self, node: yaml.MappingNode, path: FilePath) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or not _is_storable(key):
                self._lines[*path, "?"] = line
                self.problems.append(((*path, "?"), "expected a plain text as key"))
                continue
            self._lines[*path, key] = line
            if key in seen:
                self.problems.append(((*path, key), "stands there twice"))
            seen.add(key)
            yield key, self._value(value_node, (*path, key))

    def _scalar(self, node: yaml.ScalarNode, path: FilePath) -> Any:
        self._characters += len(node.value)
        if self._characters > _CHARACTERS_MAX:
            raise OverflowError(f"holds more than {_CHARACTERS_MAX} characters in all")
        if node.tag not in _SCALAR_TAGS:
            self.problems.append((path, f"the tag {node.tag!r} is not allowed here"))
        if not _is_storable(node.value):
            self.problems.append((path, "holds a character that cannot be stored"))
        if node.tag == f"{_STANDARD_TAG}null":
            return None
        # Only the sensor's config is data of any kind; elsewhere the schema says what is meant.
        is_data = len(path) > 3 and path[0] == "sensors" and path[2] == "config"
        return _datum(node) if is_data else node.value


def _datum(node: yaml.ScalarNode) -> str | int | float | bool:
    """Numbers, true and false as JSON knows them. `yes` and `NO` are words."""
    kind, text = node.tag.removeprefix(_STANDARD_TAG), str(node.value)
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and _WHOLE.fullmatch(text):
        return int(text)
    if kind == "float" and _FRACTION.fullmatch(text):
        return float(text)
    return text


def _is_storable(text: str) -> bool:
    """PostgreSQL takes no NUL, and UTF-8 no half of a pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _not_yaml(name: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"{name}:{mark.line + 1}" if mark else name
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    return f"{place}: is not valid YAML: {' '.join(str(what).split())}"


def _field(path: FilePath) -> str:
    """`processors[2].template`"""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if part.isprintable() else ascii(part)
            text += f".{shown}" if text else shown
    return text


# What may stand in it -----------------------------------------------------------------------


def _name(text: str) -> str:
    if not text.strip() or len(text) > _TEXT_MAX or not text.isprintable():
        raise ValueError(f"expected 1 to {_TEXT_MAX} printable characters")
    return text


def _node_name(text: str) -> str:
    if not text or (reason := why_not_kubernetes(text)):
        raise ValueError(f"no node can have this name: {reason if text else 'it is empty'}")
    return text


def _matching(pattern: str, expected: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"expected {expected}, not {text!r}")
        return text

    return AfterValidator(check)


def _cpu(text: str) -> str:
    return _bounded(text, millicores(text))


def _size(text: str) -> str:
    return _bounded(text, whole(text))


def _bounded(text: str, amount: int) -> str:
    if amount > _AMOUNT_MAX:
        raise ValueError(f"{text!r} is too large")
    return text


def _words(value: object) -> object:
    """A list, or the words of one text."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{str(error).lower()} in {value!r}") from error


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _taint(value: object) -> object:
    """`key=value:Effect` or `key:Effect`, as kubectl takes them."""
    match = re.fullmatch(r"([^=:\s]+)(?:=([^=:\s]*))?:(\w+)", str(value))
    if match is None or match[3] not in set(TaintEffect):
        effects = ", ".join(TaintEffect)
        raise ValueError(f"expected key=value:effect with one of the effects {effects}")
    return Taint(match[1], match[2] or "", TaintEffect(match[3]))


_AS_WRITTEN = WithJsonSchema({"type": ["string", "number", "boolean"]})
_Text = Annotated[str, _AS_WRITTEN]
_Name = Annotated[str, AfterValidator(_name), _AS_WRITTEN]
_NodeName = Annotated[str, AfterValidator(_node_name), _AS_WRITTEN]
_Cpu = Annotated[str, AfterValidator(_cpu), _AS_WRITTEN]
_Size = Annotated[str, AfterValidator(_size), _AS_WRITTEN]
_WORDS_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array"}]})
_Words = Annotated[tuple[_Text, ...], BeforeValidator(_words), _WORDS_SCHEMA]
_LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_LabelName = Annotated[
    str,
    _matching(
        r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
        "the name of a label, such as example.com/zone",
    ),
]
_LabelValue = Annotated[
    str,
    _matching(_LABEL_VALUE, "a label value (letters, digits, -, _, ., at most 63)"),
    _AS_WRITTEN,
]
_VariableName = Annotated[
    str, _matching(r"[A-Za-z_][A-Za-z0-9_.-]*", "the name of a variable, such as MODEL_PATH")
]
_Namespace = Annotated[
    str, _matching(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a DNS label, such as default")
]
_Pointer = Annotated[
    str, _matching(r"(/([^~/]|~[01])*)*", "a JSON pointer into the state, such as /count")
]


class _Model(BaseModel):
    """Nothing unknown; a value that is left empty counts as not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None}


class _Organization(_Model):
    name: _Name = "default"
    id: UUID | None = None


class _Capacity(_Model):
    cpu: _Cpu = "4"
    memory: _Size = "8Gi"
    gpu: int = Field(default=0, ge=0, le=1000)
    pods: int = Field(default=110, ge=1, le=10_000)


class _NodeEntry(_Model):
    name: _NodeName
    kind: Literal["edge", "application"]
    labels: dict[_LabelName, _LabelValue] = {}
    taints: tuple[
        Annotated[Taint, BeforeValidator(_taint), WithJsonSchema({"type": "string"})], ...
    ] = ()
    capacity: _Capacity = _Capacity()
    failover_enabled: bool = True
    failover_target: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "_NodeEntry":
        given = sorted(self.model_fields_set & {"failover_enabled", "failover_target"})
        if self.kind == "application" and given:
            raise ValueError(f"{given[0]} is for edge nodes")
        return self


class _ResourcesEntry(_Model):
    cpu_request: _Cpu | None = None
    memory_request: _Size | None = None
    cpu_limit: _Cpu | None = None
    memory_limit: _Size | None = None
    gpu_required: bool | None = None
    gpu_limit: int | None = Field(default=None, ge=0, le=1000)


class _ProbesEntry(_Model):
    initial_delay_sec: int | None = Field(default=None, ge=0, le=86_400)
    period_sec: int | None = Field(default=None, ge=1, le=86_400)
    timeout_sec: int | None = Field(default=None, ge=1, le=86_400)
    failure_threshold: int | None = Field(default=None, ge=1, le=86_400)


class _TolerationEntry(_Model):
    key: _Text | None = None
    operator: Literal["Equal", "Exists"] | None = None
    value: _Text | None = None
    effect: TaintEffect | None = None


class _OrchestratorEntry(_Model):
    priority: int | None = Field(default=None, ge=-1_000_000, le=1_000_000)
    failback: Literal["auto", "manual"] | None = None
    fencing: bool | None = None
    checkpoint_interval_seconds: float | None = Field(
        default=None, ge=0.1, le=86_400, allow_inf_nan=False
    )
    proof: tuple[_Pointer, ...] | None = None


class _CapabilitiesEntry(_Model):
    add: tuple[_Text, ...] | None = None
    drop: tuple[_Text, ...] | None = None


class _SeccompEntry(_Model):
    type: Literal["RuntimeDefault", "Localhost", "Unconfined"]
    localhostProfile: _Text | None = None  # noqa: N815 - the words of Kubernetes


class _SecurityContextEntry(_Model):
    """Of a container, in the words of Kubernetes."""

    runAsUser: int | None = Field(default=None, ge=0)  # noqa: N815
    runAsGroup: int | None = Field(default=None, ge=0)  # noqa: N815
    runAsNonRoot: bool | None = None  # noqa: N815
    privileged: bool | None = None
    allowPrivilegeEscalation: bool | None = None  # noqa: N815
    readOnlyRootFilesystem: bool | None = None  # noqa: N815
    capabilities: _CapabilitiesEntry | None = None
    seccompProfile: _SeccompEntry | None = None  # noqa: N815


class _Workload(_Model):
    """What to run: of a template, or of a processor that has its own."""

    version: _Name = _DEFAULT_VERSION
    image: _Name | None = None
    digest: _Name | None = None
    command: _Words = ()
    args: _Words = ()
    working_dir: _Text | None = None
    port: int | None = Field(default=None, ge=1, le=65_535)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    resources: _ResourcesEntry = _ResourcesEntry()
    health_probes: _ProbesEntry = _ProbesEntry()
    env: dict[_VariableName, _Text] = {}
    node_selector: dict[_LabelName, _LabelValue] = {}
    tolerations: tuple[_TolerationEntry, ...] = ()
    security_context: _SecurityContextEntry = _SecurityContextEntry()
    orchestrator: _OrchestratorEntry = _OrchestratorEntry()


class _TemplateEntry(_Workload):
    slug: _Name
    name: _Name | None = None

    @model_validator(mode="after")
    def _check(self) -> "_TemplateEntry":
        if not (self.image or self.command):
            raise ValueError("says not what to run: give command, image, or both")
        return self


class _SensorEntry(_Model):
    name: _Name
    id: UUID | None = None
    location: (
        tuple[
            Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)],
            Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)],
        ]
        | None
    ) = Field(default=None, description="Longitude, latitude.")
    config: dict[str, Any] = {}


class _ProcessorEntry(_Workload):
    name: _Name
    id: UUID | None = None
    template: str | None = None
    node: str | None = None
    node_type: Literal["edge", "managed"] | None = None
    namespace: _Namespace = "default"
    sensor: str | None = None
    replicas: int | None = Field(default=None, ge=1, le=1000)

    @property
    def names(self) -> tuple[str, ...]:
        """One for each replica."""
        if self.replicas is None:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(1, self.replicas + 1))

    @property
    def is_edge(self) -> bool:
        """Whether it belongs on an edge node."""
        return self.node is not None or self.node_type == "edge"

    @model_validator(mode="after")
    def _check(self) -> "_ProcessorEntry":
        own = sorted(self.model_fields_set & _Workload.model_fields.keys())
        if self.template is not None and own:
            raise ValueError(f"{own[0]} belongs to the template {self.template!r}: give it there")
        if self.template is None and not (self.image or self.command):
            raise ValueError("says not what to run: give template, or command, or image")
        if self.node is not None and self.node_type == "managed":
            raise ValueError("a managed processor has no node: leave out node, or node_type")
        if self.id is not None and self.replicas is not None:
            raise ValueError("replicas cannot share one id: leave out id")
        return self


class _Document(_Model):
    model_config = ConfigDict(title="Fleet file of Dory Orchestrator")

    organization: Annotated[
        _Organization, BeforeValidator(_named, json_schema_input_type=str | _Organization)
    ] = _Organization()
    nodes: tuple[_NodeEntry, ...] | None = None
    templates: tuple[_TemplateEntry, ...] = ()
    sensors: tuple[_SensorEntry, ...] = ()
    processors: tuple[_ProcessorEntry, ...] = ()


_DEFAULT_NODES = (
    _NodeEntry(name="edge-1", kind="edge"),
    _NodeEntry(name="cloud-1", kind="application"),
)
_MODELS: Mapping[str, type[_Model]] = {
    "organization": _Organization,
    "nodes": _NodeEntry,
    "capacity": _Capacity,
    "templates": _TemplateEntry,
    "resources": _ResourcesEntry,
    "health_probes": _ProbesEntry,
    "tolerations": _TolerationEntry,
    "security_context": _SecurityContextEntry,
    "capabilities": _CapabilitiesEntry,
    "seccompProfile": _SeccompEntry,
    "orchestrator": _OrchestratorEntry,
    "sensors": _SensorEntry,
    "processors": _ProcessorEntry,
}
_EXPECTED = {
    "missing": "is missing",
    "string_type": "expected a text",
    "tuple_type": "expected a list",
    "too_long": "expected two numbers, longitude and latitude",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "uuid_type": "expected a UUID",
    "uuid_parsing": "expected a UUID",
}


def _problem(details: ErrorDetails) -> tuple[FilePath, str]:
    """Place and text of what the schema finds, in plain words."""
    path = tuple(part for part in details["loc"] if part != "[key]")
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        return path, f"there is no such field{_hint(str(path[-1]), _fields_at(path[:-1]))}"
    if kind == "value_error":
        return path, str(details["ctx"]["error"])
    expected = _EXPECTED.get(kind) or details["msg"].replace("Input should be", "must be")
    shown = f", not {given[:80]!r}" if isinstance(given, str) and kind != "missing" else ""
    return path, expected + shown


def _fields_at(path: FilePath) -> Iterable[str]:
    names = [part for part in path if isinstance(part, str)]
    return (_MODELS[names[-1]] if names else _Document).model_fields


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:_TEXT_MAX], list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


# Names that must be there, and only once ----------------------------------------------------


def _reference_problems(content: object) -> list[tuple[FilePath, str]]:
    """What is wrong between the parts. Looks at whatever is well-formed, so that a mistake in
    one place hides none in another."""
    file = content if isinstance(content, dict) else {}
    nodes = _texts(file, "nodes", "name")
    kinds = dict(zip(nodes.values(), (_get(file, path[:2], "kind") for path in nodes), strict=True))
    if file.get("nodes") is None:
        kinds = {node.name: node.kind for node in _DEFAULT_NODES}
    slugs = _texts(file, "templates", "slug")
    own = {
        path: name
        for path, name in _texts(file, "processors", "name").items()
        if _get(file, path[:2], "template") is None
    }
    sensors = _texts(file, "sensors", "name")
    return [
        *_twice("node", nodes.items()),
        *_twice("template", [*slugs.items(), *own.items()]),
        *_twice("sensor", sensors.items()),
        *_twice("processor", islice(_processor_names(file), _PROCESSORS_MAX)),
        *_too_many(_processor_names(file)),
        *_twice("processor with the id", _ids(file, "processors")),
        *_twice("sensor with the id", _ids(file, "sensors")),
        *_unknown("template", _texts(file, "processors", "template"), slugs.values()),
        *_unknown("sensor", _texts(file, "processors", "sensor"), sensors.values()),
        *_not_edge(_texts(file, "processors", "node"), kinds),
        *_not_edge(_texts(file, "nodes", "failover_target"), kinds),
        *_circles(file, nodes),
    ]


def _texts(file: Mapping[str, Any], section: str, field: str) -> dict[FilePath, str]:
    """Every text under this field of a section, by its place."""
    entries = file.get(section)
    return {
        (section, number, field): entry[field]
        for number, entry in enumerate(entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get(field), str)
    }


def _get(file: Mapping[str, Any], path: FilePath, field: str) -> Any:
    section, number = path
    return file[str(section)][number].get(field)


def _ids(file: Mapping[str, Any], section: str) -> list[tuple[FilePath, str]]:
    return [(path, text.lower()) for path, text in _texts(file, section, "id").items()]


def _processor_names(file: Mapping[str, Any]) -> Iterator[tuple[FilePath, str]]:
    for path, name in _texts(file, "processors", "name").items():
        replicas = _get(file, path[:2], "replicas")
        if isinstance(replicas, str) and re.fullmatch(r"[0-9]{1,3}|1000", replicas):
            yield from ((path, f"{name}-{number}") for number in range(1, int(replicas) + 1))
        else:
            yield path, name


def _too_many(names: Iterable[tuple[FilePath, str]]) -> Iterator[tuple[FilePath, str]]:
    path = next((path for path, _ in islice(names, _PROCESSORS_MAX, None)), None)
    if path is not None:
        yield path, f"there are more than {_PROCESSORS_MAX} processors"


def _twice(noun: str, names: Iterable[tuple[FilePath, str]]) -> Iterator[tuple[FilePath, str]]:
    first: dict[str, FilePath] = {}
    for path, name in names:
        before = first.setdefault(name, path)
        if before != path:
            yield path, f"there is another {noun} {name!r}: {_field(before)}"


def _unknown(
    noun: str, used: Mapping[FilePath, str], known: Iterable[str]
) -> Iterator[tuple[FilePath, str]]:
    names = set(known)
    unknown = ((path, name) for path, name in used.items() if name not in names)
    for number, (path, name) in enumerate(unknown):
        # A guess takes long among many names, and only the first mistakes are shown.
        hint = _hint(name, sorted(names)) if number < _PROBLEMS_MAX else ""
        yield path, f"no {noun} is called {name!r}{hint}"


def _not_edge(
    used: Mapping[FilePath, str], kinds: Mapping[str, object]
) -> Iterator[tuple[FilePath, str]]:
    edge = {name for name, kind in kinds.items() if kind != "application"}
    yield from _unknown("node", used, kinds)
    for path, name in used.items():
        if name in kinds and name not in edge:
            yield path, f"{name!r} is an application node: only edge nodes are named here"


def _circles(
    file: Mapping[str, Any], nodes: Mapping[FilePath, str]
) -> Iterator[tuple[FilePath, str]]:
    """Failover targets that lead back to their own node."""
    targets = {
        nodes[*path[:2], "name"]: target
        for path, target in _texts(file, "nodes", "failover_target").items()
        if (*path[:2], "name") in nodes
    }
    judged: set[str] = set()
    in_circle: set[str] = set()
    for name in targets:
        passed: dict[str, int] = {}
        at: str | None = name
        while at is not None and at not in passed and at not in judged:
            passed[at] = len(passed)
            at = targets.get(at)
        judged |= passed.keys()
        if at in passed:
            in_circle.update(list(passed)[passed[at] :])
    for path, name in nodes.items():
        if name in in_circle:
            yield (*path[:2], "failover_target"), "the failover targets form a circle"


# From entries to rows -----------------------------------------------------------------------


def _fleet(document: _Document, folder: Path, namespace: UUID) -> Fleet:
    organization = document.organization
    declared = document.nodes if document.nodes is not None else _DEFAULT_NODES
    maker = _Maker(
        namespace,
        organization.id or _derived(namespace, "organization", organization.name),
        folder,
    )
    edge = [node for node in declared if node.kind == "edge"]
    if document.nodes is None and not any(entry.is_edge for entry in document.processors):
        edge = []  # Nobody asked for it: the database shall not know it.
    own = [entry for entry in document.processors if entry.template is None]
    sensors = {entry.name: maker.sensor(entry) for entry in document.sensors}
    sensor_ids = {name: row.id for name, row in sensors.items()}
    rows = [
        *(maker.edge_node(node) for node in edge),
        *(maker.template(entry.slug, entry.name) for entry in document.templates),
        *(maker.template(entry.name, None) for entry in own),
        *(maker.version(entry.slug, entry) for entry in document.templates),
        *(maker.version(entry.name, entry) for entry in own),
        *sensors.values(),
        *(row for entry in document.processors for row in maker.processors(entry, sensor_ids)),
    ]
    nodes = tuple(_local_node(node) for node in declared)
    return Fleet(
        organization_id=maker.organization_id,
        nodes=nodes,
        nodes_declared=document.nodes is not None,
        rows=by_key(rows),
    )


def _derived(namespace: UUID, *names: str) -> UUID:
    """The same for the same names; as JSON, so that no two lists of names look alike."""
    return uuid5(namespace, json_text(names))


class _Maker:
    """Rows from entries, with their ids."""

    def __init__(self, namespace: UUID, organization_id: UUID, folder: Path) -> None:
        self._namespace = namespace
        self.organization_id = organization_id
        self._folder = folder

    def _id(self, kind: str, *names: str) -> UUID:
        return _derived(self._namespace, str(self.organization_id), kind, *names)

    def edge_node(self, node: _NodeEntry) -> Row:
        target = node.failover_target
        columns: dict[str, Value] = {
            "organization_id": self.organization_id,
            "name": node.name,
            "status": "online",
            "failover_enabled": node.failover_enabled,
            "failover_target_node_id": None if target is None else self._id("node", target),
        }
        return Row(Table.EDGE_NODES, self._id("node", node.name), columns)

    def template(self, slug: str, name: str | None) -> Row:
        columns: dict[str, Value] = {"slug": slug}
        if name is not None:
            columns["name"] = name
        return Row(Table.TEMPLATES, self._id("template", slug), columns)

    def version(self, slug: str, workload: _Workload) -> Row:
        columns: dict[str, Value] = {
            "processor_template_id": self._id("template", slug),
            "version": workload.version,
            "image_uri": workload.image or f"local/{slug}:{workload.version}",
            "digest": workload.digest,
            "is_active": True,
            "runtime_config_template": json_text(_runtime_config(workload, self._folder)),
        }
        return Row(Table.VERSIONS, self._id("version", slug, workload.version), columns)

    def sensor(self, entry: _SensorEntry) -> Row:
        columns: dict[str, Value] = {
            "name": entry.name,
            "location_point": entry.location,
            "config": json_text(entry.config),
        }
        return Row(Table.SENSORS, entry.id or self._id("sensor", entry.name), columns)

    def processors(self, entry: _ProcessorEntry, sensors: Mapping[str, UUID]) -> Iterator[Row]:
        for name in entry.names:
            processor_id = entry.id or self._id("processor", name)
            columns: dict[str, Value] = {
                "organization_id": self.organization_id,
                "name": name,
                "processor_template_id": self._id("template", entry.template or entry.name),
                "sensor_id": None if entry.sensor is None else sensors[entry.sensor],
                "node_type": "edge" if entry.is_edge else "managed",
                "k8s_namespace": entry.namespace,
                "status": "pending",
            }
            yield Row(Table.PROCESSORS, processor_id, columns)
            if entry.node is not None:
                yield link(processor_id, self._id("node", entry.node))


def _runtime_config(workload: _Workload, folder: Path) -> dict[str, object]:
    """`runtime_config_template` with the platform's keys (platform facts 5.6)."""
    environment = dict(workload.env)
    if workload.command or workload.working_dir is not None:
        environment[WORKING_DIR] = str(folder / (workload.working_dir or ""))
    container = {
        "command": list(workload.command),
        "args": list(workload.args),
        "port": workload.port,
        "image_pull_policy": workload.image_pull_policy,
    }
    config: dict[str, object] = {
        "container": _given(container),
        "resources": _given(workload.resources.model_dump(mode="json")),
        "health_probes": _given(workload.health_probes.model_dump(mode="json")),
        "env_vars": environment,
        "node_selector": workload.node_selector,
        "tolerations": [_given(entry.model_dump(mode="json")) for entry in workload.tolerations],
        "security_context": workload.security_context.model_dump(mode="json", exclude_none=True),
        "orchestrator": _given(workload.orchestrator.model_dump(mode="json")),
    }
    return {key: value for key, value in config.items() if value}


_V = TypeVar("_V")


def _given(values: Mapping[str, _V]) -> dict[str, _V]:
    return {key: value for key, value in values.items() if value is not None and value != []}


def _local_node(entry: _NodeEntry) -> Node:
    own = EDGE_NODE_SELECTOR if entry.kind == "edge" else APPLICATION_NODE_SELECTOR
    capacity = entry.capacity
    return Node(
        name=entry.name,
        ready=True,
        labels={**entry.labels, **own},
        taints=entry.taints,
        allocatable=Resources(millicores(capacity.cpu), whole(capacity.memory), capacity.gpu),
        pods_max=capacity.pods,
    )

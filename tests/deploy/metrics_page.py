"""Writes `docs/metrics.md`: every metric as the code makes and uses it.

    python -m tests.deploy.metrics_page

Names, types, labels and meanings come from `metrics.py`; who sets a metric, and the names of
statements, are read off the source.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from dory_orchestrator.metrics import VALUES, Metrics, name_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/metrics.md"
SOURCE = ROOT / "src/dory_orchestrator"
TYPES: Mapping[type, str] = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
API, CONTROL, BOTH = "API", "control", "both"
_ROOMS = {"api": API, "loops": CONTROL, "store": BOTH, "cluster": CONTROL, "pods": CONTROL}
_MODULES = {
    "app/api_process.py": API,
    "app/control_process.py": CONTROL,
    # It beats through the HTTP path of the process that it lives in.
    "loops/canary.py": API,
}
_CALLS_OF_STATEMENTS = {"run", "_run", "_read", "_write", "_execute", "_leading"}

_HEAD = """\
# Metrics

Every metric of Dory Orchestrator. This page is made from the code, by `python -m tests.deploy.metrics_page`; a test compares.

`/metrics` holds the metrics of both processes. Where both count, counters, histograms and gauges are added up; of circuit breakers the worse state stands. With `--role api` or `--role control` it holds those of that process, and the others are 0; the control process then serves probes, and sets those of components and connections, itself. `process_*` and `python_*` are those of the process that serves, `dory_control_process_*` those of the control process beside it.

- After a restart of one process the sums fall by its part. `rate()` then takes the rest for new: expect one spike after a rise of `dory_process_restarts_total`.
- Gauges that the leader sets stay as they were on a process that leads no more. Ask for them with `and on (instance) dory_leader == 1`.
- A histogram has the series `_bucket`, `_sum` and `_count`. Durations are in seconds.
- Counters whose labels are known are there with 0 from the start.

What to be woken for: [alerts](operations.md#alerts). What to look at: [the dashboard](operations.md#dashboard).
"""
_DOCUMENTED = """
## Named by the platform

| Metric | Type | Labels | Set by | Meaning |
|---|---|---|---|---|
"""
_OURS = """
## Our own

| Metric | Type | Labels | Set by | Meaning |
|---|---|---|---|---|
"""
_VALUES = """
## Values of labels

All values that there are. A label that is not listed here is `query_type`, whose values are the names of statements below, or `node`, whose values are the nodes of the cluster; a value goes with its node.

| Metric | Label | Values |
|---|---|---|
"""
_STATEMENTS = """
## Statements

The values of `query_type`. Each may be several statements of SQL in one transaction.

"""


@dataclass(frozen=True, slots=True)
class Described:
    """A metric. `attribute` is its name in `Metrics`, `modules` those that use it."""

    name: str
    type: str
    labels: Sequence[str]
    meaning: str
    attribute: str
    modules: frozenset[str]

    @property
    def process(self) -> str:
        """Which process sets it."""
        found = {process_of(module) for module in self.modules}
        return found.pop() if len(found) == 1 else BOTH


def described() -> list[Described]:
    """All of ours, in the order of `metrics.py`: those that the platform names come first."""
    uses = _uses()
    return [
        Described(
            name_of(metric),
            TYPES[type(metric)],
            metric._labelnames,
            metric._documentation,
            attribute,
            frozenset(uses[attribute]),
        )
        for attribute, metric in vars(Metrics()).items()
        if isinstance(metric, Counter | Gauge | Histogram)
    ]


def process_of(module: str) -> str:
    """Of a module, by its path below the package."""
    return _MODULES.get(module) or _ROOMS[module.partition("/")[0]]


def sources() -> Iterator[tuple[str, ast.Module]]:
    """All of the package but `metrics.py`: path below it, and what stands there."""
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE).as_posix()
        if module != "metrics.py":
            yield module, ast.parse(path.read_text())


def setters() -> Iterator[tuple[str, str, ast.Call]]:
    """Each call of `labels`, `inc`, `set` and so on of a metric: module, attribute, the call."""
    names = {
        attribute
        for attribute, value in vars(Metrics()).items()
        if isinstance(value, Counter | Gauge | Histogram)
    }
    methods = {"labels", "inc", "dec", "set", "observe", "time", "set_function"}
    for module, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = node.func.value
                if (
                    node.func.attr in methods
                    and isinstance(of, ast.Attribute)
                    and of.attr in names
                    and _is_metrics(of.value)
                ):
                    yield module, of.attr, node


def _is_metrics(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in ("metrics", "_metrics")


def _uses() -> Mapping[str, set[str]]:
    uses: dict[str, set[str]] = defaultdict(set)
    for module, attribute, _ in setters():
        uses[attribute].add(module)
    return uses


def statements() -> list[str]:
    """Names that calls to the database are counted under."""
    return sorted(
        {
            node.args[0].value
            for module, tree in sources()
            if module.startswith("store/")
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _CALLS_OF_STATEMENTS
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        }
    )


def _row(metric: Described) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    meaning = metric.meaning.replace("|", r"\|")
    return f"| `{metric.name}` | {metric.type} | {labels} | {metric.process} | {meaning} |\n"


def _values() -> Iterator[str]:
    for name, labels in VALUES.items():
        for label, values in labels.items():
            listed = ", ".join(f"`{value}`" for value in values)
            yield f"| `{name}` | `{label}` | {listed} |\n"


def page() -> str:
    """The text of `docs/metrics.md`."""
    metrics = described()
    first_of_ours = next(i for i, m in enumerate(metrics) if m.name == "dory_heartbeats_total")
    return "".join(
        [
            _HEAD,
            _DOCUMENTED,
            *map(_row, metrics[:first_of_ours]),
            _OURS,
            *map(_row, metrics[first_of_ours:]),
            _VALUES,
            *_values(),
            _STATEMENTS,
            ", ".join(f"`{name}`" for name in statements()),
            ".\n",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())

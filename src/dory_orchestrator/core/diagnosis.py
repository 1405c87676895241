"""What is right and wrong about an installation, and how it is mended: facts become findings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dory_orchestrator.core.model import APPLICATION_NODE_SELECTOR, EDGE_NODE_SELECTOR, Node

CLOCK_SECONDS_MAX = 5.0
"""How far the clocks of the database and the cluster may be apart."""
_CLOCK_SECONDS_NOTED = 1.0
_SERVER_VERSION_MIN = 14
_TOKEN_CHARACTERS_MIN = 16
_NAMED_MAX = 5
DATABASE_REMEDY = "look at DORY_DATABASE_URL, and whether the server runs and lets us in"
_RIGHTS_HINT = 'docs/operations.md, "Rights"'


class Verdict(StrEnum):
    """How a check ended. Only `FAILED` is in the way of `run`."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, in a sentence, and what to do about it."""

    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Of a PostgreSQL server. `offset_seconds`: how far its clock is before ours."""

    version: int
    version_text: str
    role: str
    is_standby: bool
    is_read_only: bool
    connections_max: int
    offset_seconds: float


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """What answered where pods look for the orchestrator. `fleet_id` None: it told none."""

    url: str
    status: str
    fleet_id: str | None


def ok(check: str, detail: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, Verdict.OK, detail)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """It works, and is not as it should be."""
    return Finding(check, Verdict.WARNING, detail, remedy)


def failed(check: str, detail: str, remedy: str) -> Finding:
    """It does not work so."""
    return Finding(check, Verdict.FAILED, detail, remedy)


def skipped(check: str, detail: str) -> Finding:
    """It could not be looked at, and why."""
    return Finding(check, Verdict.SKIPPED, detail)


# This machine ------------------------------------------------------------------------------


def judge_tokens(tokens: Mapping[str, str | None]) -> Finding:
    """Of values by the name of their variable: DORY_STATE_TOKEN, DORY_STATE_TOKEN_PREVIOUS,
    DORY_OPERATOR_TOKEN."""
    given = {name: value for name, value in tokens.items() if value}
    for name, value in given.items():
        same = [other for other in given if other > name and given[other] == value]
        if same:
            return failed(
                "tokens",
                f"{name} and {same[0]} are the same: who has the one has the other",
                "give each a token of its own: openssl rand -hex 32",
            )
    needed = ("DORY_STATE_TOKEN", "DORY_OPERATOR_TOKEN")
    missing = [name for name in needed if name not in given]
    if missing:
        what = {needed[0]: "beat for pods", needed[1]: "change the fleet"}
        detail = "; ".join(f"{name} is not set: everyone may {what[name]}" for name in missing)
        return warning("tokens", detail, "set them: openssl rand -hex 32")
    short = [name for name in given if len(given[name]) < _TOKEN_CHARACTERS_MIN]
    if short:
        detail = f"{', '.join(short)}: shorter than {_TOKEN_CHARACTERS_MIN} characters"
        return warning("tokens", detail, "make longer ones: openssl rand -hex 32")
    return ok("tokens", "both are set, and different")


def judge_open_files(allowed: int, wanted: int) -> Finding:
    """How many connections the limit of open files allows."""
    if allowed < wanted:
        return warning(
            "open files",
            f"the limit allows {allowed} connections of {wanted}",
            "raise the hard limit (LimitNOFILE=, ulimit -Hn), or lower DORY_HTTP_CONNECTIONS",
        )
    return ok("open files", f"{wanted} connections are allowed")


# The database ------------------------------------------------------------------------------


def judge_version(server: ServerFacts) -> Finding:
    """Is it new enough?"""
    detail = f"PostgreSQL {server.version_text}"
    if server.version < _SERVER_VERSION_MIN:
        return failed(
            "database version",
            f"{detail}: {_SERVER_VERSION_MIN} or newer is needed",
            "upgrade the server",
        )
    return ok("database version", detail)


def judge_writes(server: ServerFacts) -> Finding:
    """Does it take writes?"""
    if server.is_standby:
        return failed(
            "database writes",
            "it is a standby, which takes no writes",
            "name the primary in DORY_DATABASE_URL",
        )
    if server.is_read_only:
        return failed(
            "database writes",
            f"transactions of {server.role} are read-only",
            "ALTER ROLE or ALTER DATABASE ... SET default_transaction_read_only = off",
        )
    return ok("database writes", f"it takes writes of {server.role}")


def judge_connections(server: ServerFacts, pool_size: int) -> Finding:
    """Are there enough connections for one orchestrator, and one that takes over?"""
    needed = 2 * (6 + 2 * pool_size) + 1
    if server.connections_max < needed:
        return warning(
            "database connections",
            f"{server.connections_max} for all; two orchestrators use {needed}",
            "raise max_connections, or lower DORY_DATABASE_POOL_SIZE",
        )
    detail = f"{server.connections_max}; two orchestrators use {needed}"
    return ok("database connections", detail)


def least_offset(theirs: tuple[float, float], ours: tuple[float, float]) -> float:
    """How many seconds their clock is before ours, at the least: an answer that took long proves
    little. Both are the earliest and the latest moment that it may have been, in Unix seconds.
    """
    low, high = theirs[0] - ours[1], theirs[1] - ours[0]
    return low if low > 0 else min(high, 0.0)


def judge_clock(check: str, offset_seconds: float, of: str) -> Finding:
    """How far is a clock before ours?"""
    far = abs(offset_seconds)
    detail = f"{far:.1f} s {'before' if offset_seconds > 0 else 'behind'} this machine's"
    remedy = f"synchronise the clocks of {of} and of this machine (NTP)"
    if far > CLOCK_SECONDS_MAX:
        return failed(check, detail, remedy)
    if far > _CLOCK_SECONDS_NOTED:
        return warning(check, detail, remedy)
    return ok(check, f"within {_CLOCK_SECONDS_NOTED:g} s of this machine's")


def judge_revision(present: str | None, needed: str, known: Sequence[str]) -> Finding:
    """Is the database at the revision that this version needs?"""
    if present == needed:
        return ok("database schema", f"revision {present}")
    if present is not None and present not in known:
        return failed(
            "database schema",
            f"it is at revision {present}, newer than this program, which needs {needed}",
            "use the version of dory-orchestrator that migrated it, or a newer one",
        )
    return failed(
        "database schema",
        f"it is at revision {present or 'none'}, needed is {needed}",
        'run "dory-orchestrator db upgrade"',
    )


def judge_tables(problem: str | None) -> Finding:
    """Do the platform's tables suit us, and may we work on them and on ours?"""
    if problem is not None:
        return failed("database rights", problem, f"see {_RIGHTS_HINT}")
    return ok("database rights", "all tables suit, and all rights are there")


# The cluster -------------------------------------------------------------------------------


def judge_rights(place: str, missing: Sequence[str]) -> Finding:
    """May we do what we do there? `missing` holds pairs such as `create pods`."""
    check = f"cluster rights, {place}"
    if missing:
        kind = "orchestrator" if place == "nodes and events" else "processors"
        return failed(
            check,
            f"not allowed: {', '.join(missing)}",
            f"apply deploy/kustomize/{kind}, or name the namespace in the chart's values",
        )
    return ok(check, "all are there")


def judge_nodes(nodes: Iterable[Node], edge_names: Iterable[str] | None) -> Finding:
    """Are there nodes with our labels? `edge_names` are those of the database, if known."""
    found = list(nodes)
    edge = {node.name for node in found if _has(node, EDGE_NODE_SELECTOR)}
    application = [node.name for node in found if _has(node, APPLICATION_NODE_SELECTOR)]
    problems = []
    if not application:
        problems.append(f"no node has the label {_label(APPLICATION_NODE_SELECTOR)}")
    names = {node.name for node in found}
    unlabelled = sorted((set(edge_names or ()) & names) - edge)
    if unlabelled:
        problems.append(f"edge nodes without {_label(EDGE_NODE_SELECTOR)}: {_some(unlabelled)}")
    absent = sorted(set(edge_names or ()) - names)
    if absent:
        problems.append(f"edge nodes of the database that the cluster has not: {_some(absent)}")
    if problems:
        remedy = f"kubectl label node NAME {_label(APPLICATION_NODE_SELECTOR)} (or {_label(EDGE_NODE_SELECTOR)})"
        return warning("cluster nodes", "; ".join(problems), remedy)
    detail = f"{len(found)} nodes: {len(application)} for the cloud, {len(edge)} at the edge"
    return ok("cluster nodes", detail)


def judge_address(facts: AddressFacts, fleet_id: str | None) -> Finding:
    """Is what answers at the orchestrator's address ours?"""
    where = f"{facts.url} answers: {facts.status}"
    if fleet_id is None or facts.fleet_id is None:
        unknown = "it" if facts.fleet_id is None else "our database"
        detail = f"{where}, but {unknown} does not tell which fleet it is of"
        return warning("orchestrator address", detail, "look at it with: dory-orchestrator summary")
    if facts.fleet_id != fleet_id:
        return failed(
            "orchestrator address",
            f"{where}, but is of another fleet: {facts.fleet_id}, and not {fleet_id}",
            "set DORY_ORCHESTRATOR_URL to this fleet's orchestrator",
        )
    if facts.status != "healthy":
        return warning("orchestrator address", where, f"see why: curl {facts.url}/healthz")
    return ok("orchestrator address", where)


def _has(node: Node, selector: Mapping[str, str]) -> bool:
    return selector.items() <= node.labels.items()


def _label(selector: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in selector.items())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more

"""`doctor`: everything that an orchestrator needs, looked at without one.

Each check is bounded, and none keeps another from being made.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from dory_orchestrator.api.server import allow_connections
from dory_orchestrator.app.child import has_cluster
from dory_orchestrator.app.control_process import NAMESPACE_FILE, own_namespace
from dory_orchestrator.cluster.kubernetes import diagnosis as cluster
from dory_orchestrator.cluster.kubernetes.connection import Connection
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.core import diagnosis
from dory_orchestrator.core.diagnosis import Finding, failed, ok, skipped, warning
from dory_orchestrator.pods.diagnosis import address_facts
from dory_orchestrator.ports import ClusterError, PodUnreachable, StoreError
from dory_orchestrator.settings import Settings
from dory_orchestrator.store import diagnosis as store
from dory_orchestrator.store.fleet import fleet_namespace
from dory_orchestrator.store.revision import head, revisions

_T = TypeVar("_T")
CHECK_SECONDS = 5.0
_NAMESPACES_MAX = 20
_SERVICE = "dory-orchestrator"
_DATABASE_CHECKS = (
    *("database version", "database writes", "database connections", "database clock"),
    *("database schema", "database rights"),
)
_CLUSTER_REMEDY = "look at KUBECONFIG and DORY_KUBE_CONTEXT, and whether the API server runs"
_ADDRESS = "orchestrator address"

Clock = Callable[[], float]
"""The time in Unix seconds."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database told, for checks of other things. None: it did not."""

    fleet_id: str | None = None
    edge_names: frozenset[str] | None = None
    namespaces: frozenset[str] = frozenset()
    offset_seconds: float | None = None


async def diagnose(
    settings: Settings, *, dev_url: str | None = None, now: Clock = time.time
) -> list[Finding]:
    """All findings, in the order in which they are best read.

    With the URL of a running `dev`, what only concerns others is left out.
    """
    machine = _machine(settings, is_dev=dev_url is not None)
    known, of_database = await _look_at_database(settings, now)
    address, of_cluster = await asyncio.gather(
        _address(settings, dev_url, known), _look_at_cluster(settings, known, now)
    )
    return [*machine, *of_database, *of_cluster, address]


def _machine(settings: Settings, *, is_dev: bool) -> list[Finding]:
    wanted = settings.http_connections
    files = diagnosis.judge_open_files(allow_connections(wanted), wanted)
    if is_dev:
        return [skipped("tokens", "`dev` makes its own, and listens on this machine alone"), files]
    tokens = {
        "DORY_STATE_TOKEN": settings.state_token,
        "DORY_STATE_TOKEN_PREVIOUS": settings.state_token_previous,
        "DORY_OPERATOR_TOKEN": settings.operator_token,
    }
    return [diagnosis.judge_tokens({name: _clear(one) for name, one in tokens.items()}), files]


def _clear(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


async def _bounded(check: str, work: Awaitable[Finding], remedy: str) -> Finding:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await work
    except TimeoutError:
        return failed(check, f"no answer within {CHECK_SECONDS:g} s", remedy)
    except (StoreError, ClusterError, PodUnreachable) as error:
        return failed(check, str(error), remedy)


# The database ------------------------------------------------------------------------------


async def _look_at_database(settings: Settings, now: Clock) -> tuple[_Known, list[Finding]]:
    if settings.config_db is None:
        remedy = "set DORY_DATABASE_URL, or give --config-db"
        return _Known(), [failed("database", "none is named", remedy), *_unasked(_DATABASE_CHECKS)]
    dsn = settings.config_db.get_secret_value()
    facts: list[diagnosis.ServerFacts] = []

    async def reach() -> Finding:
        facts.append(await store.server_facts(dsn, now))
        return ok("database", f"it answers, and {facts[0].role} may connect")

    reached = await _bounded("database", reach(), diagnosis.DATABASE_REMEDY)
    if not facts:
        return _Known(), [reached, *_unasked(_DATABASE_CHECKS)]
    (server,) = facts
    found = await asyncio.gather(
        _bounded("database schema", _schema(dsn), 'run "dory-orchestrator db upgrade"'),
        _bounded("database rights", _tables(dsn), 'see docs/operations.md, "Rights"'),
    )
    judged = [
        diagnosis.judge_version(server),
        diagnosis.judge_writes(server),
        diagnosis.judge_connections(server, settings.database_pool_size),
        diagnosis.judge_clock("database clock", server.offset_seconds, "the database"),
    ]
    return await _learn(dsn, server.offset_seconds), [reached, *judged, *found]


def _unasked(checks: Iterable[str]) -> list[Finding]:
    return [skipped(check, "it cannot be asked") for check in checks]


async def _schema(dsn: str) -> Finding:
    return diagnosis.judge_revision(await store.present_revision(dsn), head(), revisions())


async def _tables(dsn: str) -> Finding:
    return diagnosis.judge_tables(await store.table_problem(dsn))


async def _learn(dsn: str, offset_seconds: float) -> _Known:
    """What it does not tell is not known: why is found by the other checks."""
    fleet_id, edge_names, namespaces = await asyncio.gather(
        _asked(fleet_namespace(dsn)),
        _asked(store.edge_node_names(dsn)),
        _asked(store.namespaces(dsn)),
    )
    return _Known(
        None if fleet_id is None else str(fleet_id),
        edge_names,
        namespaces or frozenset(),
        offset_seconds,
    )


async def _asked(work: Awaitable[_T]) -> _T | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await work
    except (StoreError, TimeoutError):
        return None


# The cluster -------------------------------------------------------------------------------


async def _look_at_cluster(settings: Settings, known: _Known, now: Clock) -> list[Finding]:
    if not has_cluster(settings):
        detail = "none is named: heartbeats are heard, and nothing is acted on"
        return [warning("cluster", detail, "set KUBECONFIG, or run this in a pod of the cluster")]
    if settings.cluster == "local":
        return [
            await _bounded("cluster", _local(settings), "start it: dory-orchestrator local start")
        ]
    # Its library takes its time to be imported.
    connection = await asyncio.to_thread(Connection, settings.kubeconfig, settings.kube_context)
    try:
        return await _look_at_kubernetes(connection, settings, known, now)
    finally:
        await connection.close()


async def _local(settings: Settings) -> Finding:
    local = LocalCluster(Path(settings.local_dir))
    try:
        return ok("cluster", await local.version())
    finally:
        await local.close()


async def _look_at_kubernetes(
    connection: Connection, settings: Settings, known: _Known, now: Clock
) -> list[Finding]:
    offsets: list[float | None] = []

    async def reach() -> Finding:
        version, offset = await cluster.version_and_offset(connection, now)
        offsets.append(offset)
        return ok("cluster", f"{version} answers")

    reached = await _bounded("cluster", reach(), _CLUSTER_REMEDY)
    if not offsets:
        return [reached, *_unasked(("cluster clock", "cluster rights", "cluster nodes"))]
    wanted = sorted({settings.namespace, *known.namespaces})
    rights = [None, *wanted[:_NAMESPACES_MAX]]
    found = await asyncio.gather(
        *(_rights(connection, namespace) for namespace in rights),
        _bounded("cluster nodes", _nodes(connection, known), _CLUSTER_REMEDY),
    )
    return [reached, _clock(offsets[0], known), *found, *_left_out(wanted[_NAMESPACES_MAX:])]


def _clock(offset_seconds: float | None, known: _Known) -> Finding:
    if offset_seconds is None:
        return skipped("cluster clock", "the API server does not tell its time")
    # Whether a beat came after a node fell is told across the two: ours does not count there.
    if known.offset_seconds is not None:
        apart = abs(offset_seconds - known.offset_seconds)
        if apart > diagnosis.CLOCK_SECONDS_MAX:
            detail = f"{apart:.1f} s from the database's"
            remedy = "synchronise the clocks of the database and of the control plane (NTP)"
            return failed("cluster clock", detail, remedy)
    return diagnosis.judge_clock("cluster clock", offset_seconds, "the control plane")


async def _rights(connection: Connection, namespace: str | None) -> Finding:
    place = "nodes and events" if namespace is None else f"namespace {namespace}"

    async def ask() -> Finding:
        return diagnosis.judge_rights(place, await cluster.missing_rights(connection, namespace))

    return await _bounded(f"cluster rights, {place}", ask(), _CLUSTER_REMEDY)


async def _nodes(connection: Connection, known: _Known) -> Finding:
    return diagnosis.judge_nodes(await cluster.nodes(connection), known.edge_names)


def _left_out(namespaces: list[str]) -> list[Finding]:
    if not namespaces:
        return []
    return [skipped("cluster rights", f"{len(namespaces)} more namespaces are not looked at")]


# Where pods look for us --------------------------------------------------------------------


async def _address(settings: Settings, dev_url: str | None, known: _Known) -> Finding:
    if settings.cluster == "local" and dev_url is None:
        return skipped(_ADDRESS, "pods of a local cluster are told by `run` itself")
    url = dev_url or settings.orchestrator_url
    if url is None and not NAMESPACE_FILE.exists():
        return skipped(
            _ADDRESS,
            f"http://{_SERVICE}.{own_namespace()}:8080 is known inside of the cluster only:"
            " call this there (kubectl exec), or set DORY_ORCHESTRATOR_URL",
        )
    place = url or f"http://{_SERVICE}.{own_namespace()}:8080"
    remedy = 'start it ("dory-orchestrator run"), or set DORY_ORCHESTRATOR_URL to where it is'

    async def ask() -> Finding:
        return diagnosis.judge_address(await address_facts(place.rstrip("/")), known.fleet_id)

    return await _bounded(_ADDRESS, ask(), remedy)

"""A database that lost its rows, or ended them all, under a running fleet whose programs end when
they are told to: nobody is told."""

import time
from pathlib import Path

import pytest
from aiohttp import web
from tests.acceptance.on_kubernetes import KubernetesFleet, on_kubernetes
from tests.acceptance.real import eventually
from tests.acceptance.test_failover import SHORT, has_beaten, recorders
from tests.acceptance.test_fleet import Fleet, dev
from tests.kube.api_server import Failure

pytestmark = pytest.mark.timeout(400)

AS_NEW = """
DO $$
DECLARE one text;
BEGIN
    FOR one IN
        SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
        WHERE schemaname IN ('public', 'orchestrator') AND tablename <> 'alembic_version'
            -- They hold one row each, and so do they in a new database.
            AND (schemaname, tablename) NOT IN (
                ('orchestrator', 'fleet'), ('orchestrator', 'leader'), ('orchestrator', 'canary'),
                ('orchestrator', 'picture'), ('orchestrator', 'guard'), ('orchestrator', 'brake'),
                ('orchestrator', 'pause')
            )
    LOOP
        EXECUTE 'DELETE FROM ' || one;
    END LOOP;
    UPDATE orchestrator.fleet SET id = gen_random_uuid(), cluster_uid = NULL, shown_term = 0;
    UPDATE orchestrator.picture
    SET seen_at = NULL, term = NULL, interval_seconds = 0, cluster_uid = NULL, is_whole = false;
    UPDATE orchestrator.guard SET held_since = NULL, held = '{}', detail = '';
END $$
"""
"""What a database is that `db upgrade` has just made, in place of the one that was there."""

KEPT = """
DROP SCHEMA IF EXISTS backup CASCADE;
CREATE SCHEMA backup;
DO $$
DECLARE one record;
BEGIN
    FOR one IN
        SELECT schemaname, tablename FROM pg_tables
        WHERE schemaname IN (SCHEMAS) AND tablename <> 'alembic_version'
            -- What happens meanwhile is not to be forgotten, nor who leads.
            AND tablename NOT IN ('events', 'leader', 'canary')
    LOOP
        EXECUTE format(
            'CREATE TABLE backup.%I AS SELECT * FROM %I.%I',
            one.schemaname || '.' || one.tablename, one.schemaname, one.tablename
        );
    END LOOP;
END $$;
"""
"""In one transaction with what empties a database: a later state than what is put back would
freeze whom it is of."""
RESTORE = """
DO $$
DECLARE one record;
BEGIN
    -- As a restore does: no trigger sees the rows as accepted only now.
    SET LOCAL session_replication_role = replica;
    FOR one IN
        SELECT tablename, split_part(tablename, '.', 1) AS schema,
            split_part(tablename, '.', 2) AS name
        FROM pg_tables WHERE schemaname = 'backup'
    LOOP
        EXECUTE format('DELETE FROM %I.%I', one.schema, one.name);
        EXECUTE format(
            'INSERT INTO %I.%I OVERRIDING SYSTEM VALUE SELECT * FROM backup.%I',
            one.schema, one.name, one.tablename
        );
    END LOOP;
    PERFORM pg_notify('orchestrator_changed', '');
END $$
"""
PLATFORM_TRUNCATED = (
    "TRUNCATE processors, edge_nodes, edge_node_apps, processor_templates,"
    " processor_template_versions, sensors"
)

NAMESPACES = {"one": "north", "two": "south", "three": "west"}
"""Of processors, by name."""

QUIET_SECONDS = 20.0
"""Long enough for some forty heartbeats of each program, half a second apart."""


async def shutdowns(fleet: Fleet) -> float:
    return await fleet.service.metric('dory_heartbeat_directives_total{directive="shutdown"')


async def test_an_empty_database_ends_no_program(data_dir: Path, tmp_path: Path):
    file = recorders(data_dir, tmp_path, 2)
    async with dev(data_dir, "--fleet", str(file), *SHORT) as fleet:
        ids = [row["id"] for row in (await eventually(fleet.ready, 40)).values()]
        await eventually(lambda: has_beaten(fleet, 2), 20)
        before = {name: process.pid for name, process in fleet.processes().items()}
        assert len(before) == len(ids)
        answered = await shutdowns(fleet)

        await fleet.execute(AS_NEW)
        emptied_at = time.monotonic()

        async def is_told() -> bool:
            _, health = await fleet.service.get("/healthz")
            heartbeats = health["components"]["heartbeats"]
            return heartbeats["status"] == "degraded" and "pod" in heartbeats["message"]

        await eventually(is_told, 30)
        await eventually(lambda: time.monotonic() - emptied_at > QUIET_SECONDS, QUIET_SECONDS + 5)
        assert await shutdowns(fleet) == answered
        assert {name: process.pid for name, process in fleet.processes().items()} == before
        for key in ids:
            record = fleet.record(key)
            assert len(record.incarnations) == 1, key
        assert len(await fleet.events(kind="database")) == 1
        answer = await fleet.service.beat(processor_id=ids[0], node_id="edge-1")
        assert answer["directive"] == "continue"


async def test_rows_that_all_ended_while_nobody_led_end_no_program(data_dir: Path, tmp_path: Path):
    file = recorders(data_dir, tmp_path, 2)
    async with dev(data_dir, "--fleet", str(file), *SHORT) as fleet:
        await eventually(fleet.ready, 40)
        await eventually(lambda: has_beaten(fleet, 2), 20)
        before = {name: process.pid for name, process in fleet.processes().items()}
        answered = await shutdowns(fleet)
        (control,) = fleet.service.children("control")

        control.suspend()
        await fleet.execute("UPDATE processors SET status = 'terminated'")
        ended_at = time.monotonic()
        await eventually(lambda: time.monotonic() - ended_at > QUIET_SECONDS, QUIET_SECONDS + 5)
        assert await shutdowns(fleet) == answered
        control.resume()

        async def is_held() -> bool:
            rows = await fleet.fetch("SELECT held_since FROM orchestrator.guard")
            return rows[0][0] is not None

        await eventually(is_held, 30)
        assert await shutdowns(fleet) == answered
        assert {name: process.pid for name, process in fleet.processes().items()} == before


def refuse_everywhere(request: web.Request) -> None:
    """An account that may look at pods in each namespace by itself, and not in all at once."""
    if request.path == "/api/v1/pods":
        raise Failure(403, "Forbidden", "pods is forbidden: not at the cluster scope")


@pytest.mark.parametrize("is_whole", [True, False], ids=["all-namespaces", "each-by-itself"])
async def test_an_emptied_database_ends_no_program_in_any_namespace(
    database_url: str, data_dir: Path, tmp_path: Path, is_whole: bool
):
    file = recorders(data_dir, tmp_path, len(NAMESPACES))
    intercept = None if is_whole else refuse_everywhere
    async with on_kubernetes(
        *(data_dir, database_url, file, *SHORT), namespaces=NAMESPACES, intercept=intercept
    ) as fleet:
        rows = await eventually(fleet.ready, 60)
        await eventually(lambda: has_beaten(fleet, len(NAMESPACES)), 30)
        before = running_in(fleet)
        assert sorted(namespace for namespace, _ in before) == sorted(NAMESPACES.values())
        processes = {name: one.pid for name, one in fleet.processes().items()}
        database = f"database {database_url.rsplit('/', 1)[1].split('?')[0]} on "
        pods = [f"{NAMESPACES[name]}/{row['pod_name']}" for name, row in rows.items()]

        async def nobody_ends() -> None:
            """Each program is answered some ten times, and all go on."""
            beaten = await doubted(fleet)

            async def is_answered() -> bool:
                return await doubted(fleet) >= beaten + 10 * len(rows)

            await eventually(is_answered, 40)
            assert await shutdowns(fleet) == 0
            assert running_in(fleet) == before
            assert {name: one.pid for name, one in fleet.processes().items()} == processes
            for row in rows.values():
                assert len(fleet.record(row["id"]).incarnations) == 1, row

        async def is_as_before() -> bool:
            [[held_since]] = await fleet.fetch("SELECT held_since FROM orchestrator.guard")
            _, health = await fleet.service.get("/healthz")
            is_well = health["components"]["heartbeats"]["status"] == "healthy" or not is_whole
            return held_since is None and is_well and bool(await fleet.ready())

        # The platform's rows are lost: ours say who owns.
        await fleet.execute(KEPT.replace("SCHEMAS", "'public'") + PLATFORM_TRUNCATED)
        await eventually(lambda: is_degraded(fleet, "the deletion guard holds"), 30)
        await nobody_ends()
        await fleet.execute(RESTORE)
        await eventually(is_as_before, 60)
        assert await fleet.pods() == {name: row["pod_uid"] for name, row in rows.items()}

        await fleet.execute(KEPT.replace("SCHEMAS", "'public', 'orchestrator'") + AS_NEW)
        await eventually(lambda: is_degraded(fleet, database, *pods), 30)
        await nobody_ends()
        assert len(await fleet.events(kind="database")) == 1
        if not is_whole:
            # Who leads next does not know where to look.
            [control] = fleet.service.children("control")
            control.kill()
            await eventually(lambda: is_degraded(fleet, "in some namespaces only"), 60)
            await nobody_ends()
        await fleet.execute(RESTORE)
        await eventually(is_as_before, 60)
        assert await fleet.pods() == {name: row["pod_uid"] for name, row in rows.items()}
        assert running_in(fleet) == before
        assert await shutdowns(fleet) == 0


async def is_degraded(fleet: Fleet, *words: str) -> bool:
    """Whether `/healthz` is, and says these words of heartbeats."""
    _, health = await fleet.service.get("/healthz")
    told = health["components"]["heartbeats"]
    return told["status"] == "degraded" and all(word in told["message"] for word in words)


async def doubted(fleet: Fleet) -> float:
    """How many heartbeats of a missing row were answered `continue`."""
    start = 'dory_heartbeat_directives_total{directive="continue",reason='
    reasons = ("deletion_undecided", "no_picture", "unowned_pod")
    return sum([await fleet.service.metric(f'{start}"{reason}"') for reason in reasons])


def running_in(fleet: KubernetesFleet) -> set[tuple[str, str]]:
    """Namespaces and uids of the pods that nobody has ended."""
    return {
        (pod["metadata"]["namespace"], pod["metadata"]["uid"])
        for pod in fleet.kube.server.all("pods")
        if not pod["metadata"].get("deletionTimestamp")
    }

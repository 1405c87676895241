"""A database that lost its rows, or ended them all, under a running fleet whose programs end when
they are told to: nobody is told."""

import time
from pathlib import Path

import pytest
from tests.acceptance.real import eventually
from tests.acceptance.test_failover import SHORT, has_beaten, recorders
from tests.acceptance.test_fleet import Fleet, dev

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

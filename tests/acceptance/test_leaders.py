"""Several orchestrators on one cluster: of one database, of two, and of one that was restored."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from tests.acceptance.real import RealService, clear, eventually, run_on
from tests.contract.worlds import connected

from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.core.model import Node, Observation, Pod, Resources
from dory_orchestrator.store.migrate import upgrade

pytestmark = pytest.mark.timeout(120)

PROGRAM = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("0.0.0.0", int(os.environ["DORY_HEALTH_PORT"])), Handler).serve_forever()
"""
LEASE_SECONDS = 10


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """A local cluster with room for ten."""
    data_dir = tmp_path / "dory"
    cluster = await start(data_dir)
    await cluster.declare_nodes(
        [
            Node(
                "cloud-1",
                True,
                {"workload-type": "application"},
                allocatable=Resources(8000, 8 << 30),
            )
        ]
    )
    yield cluster
    await cluster.close()
    await asyncio.to_thread(clear, data_dir)


async def desire(connection: Any, count: int) -> list[UUID]:
    """Processors of one template, whose program answers probes and does nothing else."""
    template: UUID = uuid4()
    await connection.execute(
        "INSERT INTO processor_templates (id, slug) VALUES ($1, $2)", template, f"t{template}"
    )
    await connection.execute(
        "INSERT INTO processor_template_versions (processor_template_id, version, image_uri,"
        " is_active, runtime_config_template) VALUES ($1, '1', 'none', true, jsonb_build_object("
        "'container', jsonb_build_object('command', jsonb_build_array('python', '-c', $2::text)),"
        " 'env_vars', jsonb_build_object('DORY_SHUTDOWN_TIMEOUT_SEC', '1')))",
        template,
        PROGRAM,
    )
    rows = await connection.fetch(
        "INSERT INTO processors (processor_template_id, status)"
        " SELECT $1, 'pending' FROM generate_series(1, $2) RETURNING id",
        template,
        count,
    )
    return [row["id"] for row in rows]


def orchestrator(database_url: str, cluster: LocalCluster) -> Any:
    return run_on(database_url, DORY_CLUSTER="local", DORY_LOCAL_DIR=str(cluster.data_dir))


async def pods(cluster: LocalCluster) -> dict[str, Pod]:
    async with cluster.observe() as pictures:
        async for picture in pictures:
            return dict(picture.pods)
    return dict(Observation().pods)


async def ready(cluster: LocalCluster, count: int) -> dict[str, Pod]:
    found = await pods(cluster)
    is_ready = [pod for pod in found.values() if pod.ready and not pod.terminating]
    return found if len(is_ready) == count == len(found) else {}


def leads(service: RealService) -> bool:
    """Whether its last word on it was that it leads."""
    told = [line["event"] for line in service.log() if line["event"].startswith("leads")]
    return told[-1:] == ["leads"]


async def test_one_leads_and_a_frozen_leader_does_nothing_when_it_wakes(database_url, cluster):
    async with (
        connected(database_url) as portal,
        orchestrator(database_url, cluster) as first,
        orchestrator(database_url, cluster) as second,
    ):
        ids = await desire(portal, 3)
        before = await eventually(lambda: ready(cluster, 3), 30)
        (leader,) = [s for s in (first, second) if leads(s)]
        (other,) = [s for s in (first, second) if s is not leader]
        for service in (first, second):
            beat = await service.beat(processor_id=str(ids[0]), node_id="cloud-1")
            assert (beat["acknowledged"], beat["directive"]) == (True, "continue")

        # The leader is frozen in the middle of work: just when there is something to do.
        (control,) = leader.children("control")
        control.suspend()
        await portal.execute("UPDATE processors SET status = 'terminated' WHERE id = $1", ids[0])
        await eventually(lambda: leads(other), LEASE_SECONDS + 10)

        async def two() -> dict[str, Pod]:
            return await ready(cluster, 2)

        left = await eventually(two, 20)
        # Now it would still want to end the pod of a processor that is desired again.
        await portal.execute("UPDATE processors SET status = 'pending' WHERE id = $1", ids[0])
        after = await eventually(lambda: ready(cluster, 3), 20)
        events = await portal.fetchval("SELECT max(id) FROM orchestrator.events")
        control.resume()
        await eventually(lambda: not leads(leader), 20)
        await portal.execute("UPDATE processors SET name = 'touched' WHERE id = $1", ids[1])
        await asyncio.sleep(1)
        assert set(await pods(cluster)) == set(after)
        assert set(left) <= set(before)
        (terms,) = await portal.fetch(
            "SELECT array_agg(DISTINCT term) FROM orchestrator.events WHERE id > $1", events
        )
        assert terms[0] in (None, [2])

        # An orderly end hands over at once.
        other.signal(signal.SIGTERM)
        assert await other.ended() == 0
        await eventually(lambda: leads(leader), 5)
        assert set(await pods(cluster)) == set(after)


async def test_the_pods_of_another_installation_are_not_touched(
    database_url, empty_database_url, cluster
):
    await asyncio.to_thread(upgrade, empty_database_url)
    async with (
        connected(database_url) as portal,
        connected(empty_database_url) as other_portal,
        orchestrator(database_url, cluster) as service,
    ):
        await desire(portal, 2)
        theirs = await eventually(lambda: ready(cluster, 2), 30)
        # The wrong database, or a second installation: the same cluster, and nothing desired.
        async with orchestrator(empty_database_url, cluster) as other:
            await eventually(lambda: leads(other))
            await eventually(lambda: len(other.events("a stranger's pod: it is not touched")) == 2)
            await desire(other_portal, 1)
            await eventually(lambda: ready(cluster, 3), 20)
            assert set(theirs) < set(await pods(cluster))
            await eventually(lambda: service.events("a stranger's pod: it is not touched"))

            async def counted() -> bool:
                return bool(await service.metric("dory_foreign_pods") == 1)

            await eventually(counted)
        assert set(theirs) < set(await pods(cluster))


async def test_a_database_restored_from_yesterday_deletes_nothing(database_url, cluster):
    async with connected(database_url) as portal:
        async with orchestrator(database_url, cluster):
            ids = await desire(portal, 3)
            await eventually(lambda: ready(cluster, 3), 30)
            yesterday = await portal.fetch("SELECT * FROM orchestrator.ownership")
            # Since then all of them were placed anew, and one came along.
            for pod in (await pods(cluster)).values():
                await cluster.stop_pod(pod.name)

            async def anew() -> bool:
                found = await ready(cluster, 3)
                return all(pod.epoch == 2 for pod in found.values()) and bool(found)

            await eventually(anew, 30)
            (newest,) = await desire(portal, 1)
            before = await eventually(lambda: ready(cluster, 4), 20)
        # The backup is restored while nobody looks.
        await portal.execute("DELETE FROM processors WHERE id = $1", newest)
        await portal.execute("DELETE FROM orchestrator.ownership")
        await portal.copy_records_to_table(
            "ownership", schema_name="orchestrator", records=[tuple(row) for row in yesterday]
        )
        async with orchestrator(database_url, cluster) as service:

            async def frozen() -> bool:
                _, guard = await service.get("/api/v1/fleet/guard")
                return bool(guard["frozen_count"] == 4)

            await eventually(frozen)
            assert set(await pods(cluster)) == set(before)
            beat = await service.beat(processor_id=str(ids[0]), node_id="cloud-1")
            assert beat["directive"] == "continue"
            # An operator takes the pods' word for it.
            status, answer = await service.post("/api/v1/fleet/guard/adopt", {"processors": "all"})
            assert status == 200, answer

            async def thawed() -> bool:
                _, guard = await service.get("/api/v1/fleet/guard")
                return bool(guard["frozen_count"] == 0)

            await eventually(thawed)
            owned = await portal.fetch(
                "SELECT processor_id, epoch FROM orchestrator.ownership WHERE pod_uid IS NOT NULL"
            )
            assert {row["epoch"] for row in owned if row["processor_id"] in ids} == {2}
            assert all(pod.uid in before for pod in (await pods(cluster)).values())
            assert psutil.pid_exists(service.process.pid)

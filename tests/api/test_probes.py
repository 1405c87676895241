"""Probes, metrics and the description (http-api-reference, "Observability & health")."""

import asyncio
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.api.conftest import Service

from dory_orchestrator import __version__
from dory_orchestrator.core.model import ComponentHealth, HealthStatus
from dory_orchestrator.metrics import MergedRegistry, Metrics
from dory_orchestrator.ports import StoreUnavailable

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_health_has_the_shape_of_the_reference(service: Service):
    answer = await service.http.get("/healthz")
    body = answer.json()
    assert answer.status_code == 200
    assert body.keys() == {"status", "timestamp", "version", "components"}
    assert body["status"] == "healthy"
    assert body["version"] == __version__
    assert RFC3339.fullmatch(body["timestamp"])
    assert body["components"].keys() == {"database"}
    assert body["components"]["database"].keys() == {"status", "message", "last_check"}
    assert RFC3339.fullmatch(body["components"]["database"]["last_check"])


async def test_an_unhealthy_component_is_503_with_its_reason(service: Service):
    service.store.error = StoreUnavailable("the disk is full")
    answer = await service.http.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["components"]["database"]["message"] == "the disk is full"
    assert (await service.http.get("/livez")).status_code == 200


async def test_degraded_is_still_200(service: Service):
    async def degraded() -> ComponentHealth:
        return ComponentHealth(HealthStatus.DEGRADED, "deaf")

    service.health.add("heartbeats", degraded)
    answer = await service.http.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"


@pytest.mark.looptime
async def test_a_check_that_hangs_is_unhealthy_after_two_seconds(service: Service):
    service.store.hold = asyncio.Event()
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(service.http.get("/healthz") for _ in range(5)))
    assert asyncio.get_running_loop().time() - began < 2.5
    assert {answer.status_code for answer in answers} == {503}


@pytest.mark.looptime
async def test_a_result_is_reused_for_a_second(service: Service):
    assert (await service.http.get("/healthz")).status_code == 200
    service.store.error = StoreUnavailable("down")
    await asyncio.sleep(0.9)
    assert (await service.http.get("/healthz")).status_code == 200
    await asyncio.sleep(0.2)
    assert (await service.http.get("/healthz")).status_code == 503


@pytest.mark.looptime
async def test_metrics_tell_of_components_that_nobody_asks_for(service: Service):
    def value() -> float | None:
        labels = {"component": "database"}
        return service.metrics.registry.get_sample_value("dory_component_healthy", labels)

    checking = asyncio.create_task(service.health.keep_checking())
    await asyncio.sleep(5.1)
    assert value() == 1
    service.store.error = StoreUnavailable("down")
    await asyncio.sleep(5)
    assert value() == 0
    checking.cancel()
    await asyncio.gather(checking, return_exceptions=True)


async def test_readiness_waits_for_set_up(service: Service):
    answer = await service.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["components"].keys() == {"startup"}
    assert answer.json()["status"] == "unhealthy"

    service.health.mark_ready()
    answer = await service.http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["components"].keys() == {"database"}

    service.health.mark_not_ready("shutting down")
    assert (await service.http.get("/readyz")).status_code == 503


async def test_metrics_have_the_documented_names(service: Service):
    answer = await service.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert names >= {
        "dory_applications_total",
        "dory_database_query_duration_seconds",
        "dory_database_connections_active",
        "dory_database_errors",
        "dory_circuit_breaker_state",
        "dory_circuit_breaker_transitions",
        "dory_config_watcher_healthy",
        "dory_config_watcher_errors",
        "dory_config_changes",
        "dory_component_healthy",
        "dory_shutdown_duration_seconds",
        "dory_startup_duration_seconds",
    }


def test_two_processes_metrics_are_one_exposition():
    one, other = Metrics(), Metrics()
    one.database_errors.labels("timeout").inc(2)
    other.database_errors.labels("timeout").inc(3)
    other.breaker_state.labels("database").set(2)
    one.breaker_state.labels("database").set(1)
    other.applications.set(7)
    merged = MergedRegistry(one)
    merged.absorb(other.samples())

    for _ in range(2):
        text = merged.render().decode()
        lines = text.splitlines()
        assert 'dory_database_errors_total{error_type="timeout"} 5.0' in lines
        assert 'dory_circuit_breaker_state{component="database"} 2.0' in lines
        assert "dory_applications_total 7.0" in lines
        families = [line for line in lines if line.startswith("# TYPE")]
        assert len(families) == len(set(families))


async def test_unknown_paths_are_404_as_json(service: Service):
    answer = await service.http.get("/nowhere")
    assert answer.status_code == 404
    assert answer.json().keys() == {"error"}


async def test_the_description_names_what_is_served(service: Service):
    document = (await service.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert document["paths"].keys() == {
        "/api/v1/edge/heartbeat",
        "/api/v1/edge/nodes",
        "/api/v1/edge/nodes/decommission",
        "/api/v1/fleet/nodes",
        "/api/v1/fleet/processors",
        "/api/v1/fleet/processors/{id}",
        "/api/v1/fleet/processors/{id}/explanation",
        "/api/v1/fleet/processors/{id}/directive",
        "/api/v1/fleet/nodes/explanation",
        "/api/v1/fleet/plan",
        "/api/v1/fleet/what-if",
        "/api/v1/fleet/pause",
        "/api/v1/fleet/pause/begin",
        "/api/v1/fleet/drills",
        "/api/v1/fleet/drills/start",
        "/api/v1/fleet/drills/stop",
        "/api/v1/fleet/pause/end",
        "/api/v1/fleet/orders/failover",
        "/api/v1/fleet/orders/failback",
        "/api/v1/fleet/orders/retry",
        "/api/v1/fleet/events",
        "/api/v1/fleet/guard",
        "/api/v1/fleet/guard/confirm",
        "/api/v1/fleet/guard/adopt",
        "/api/v1/fleet/moves",
        "/api/v1/fleet/brake",
        "/api/v1/fleet/brake/override",
        "/api/v1/fleet/brake/clear",
        "/api/v1/fleet/nodes/cordon",
        "/api/v1/fleet/nodes/uncordon",
        "/api/v1/fleet/summary",
        "/api/v1/fleet/events/stream",
        "/api/v1/fleet/events/export",
        "/api/v1/fleet/webhooks",
        "/api/v1/fleet/webhooks/dead-letters",
        "/api/v1/fleet/webhooks/retry",
        "/healthz",
        "/readyz",
        "/livez",
        "/metrics",
    }
    page = await service.http.get("/docs")
    assert page.status_code == 200
    for path in document["paths"]:
        assert path in page.text
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text

"""POST /api/v1/edge/heartbeat (http-api-reference, "Edge API")."""

import time

import pytest
from tests.api.conftest import HEARTBEAT, NOBODY, Service

from dory_orchestrator.ports import StoreUnavailable

SDK_BEAT = {
    "node_id": "edge-1",
    "role": "primary",
    "epoch": None,
    "timestamp": 1.5,
    "status": "healthy",
    "last_state_sync": None,
    "state_size_bytes": None,
    "uptime_sec": 0.25,
}


async def test_a_beat_is_recorded_and_told_to_continue(service: Service):
    key = service.processor()
    answer = await service.beat(processor_id=str(key), **SDK_BEAT)

    assert answer.keys() == {"acknowledged", "orchestrator_time", "directive"}
    assert answer["acknowledged"] is True
    assert answer["directive"] == "continue"
    assert abs(float(str(answer["orchestrator_time"])) - time.time()) < 5
    assert service.store.processors[key].health_status == "healthy"


@pytest.mark.parametrize("status", ["Healthy", "degraded", "", None])
async def test_any_other_status_is_unhealthy(service: Service, status):
    key = service.processor()
    body = {"processor_id": str(key)} | ({} if status is None else {"status": status})
    await service.beat(**body)
    assert service.store.processors[key].health_status == "unhealthy"


@pytest.mark.parametrize("status", ["terminated", "failed"])
async def test_an_ended_processor_is_told_to_shut_down(service: Service, status):
    answer = await service.beat(processor_id=str(service.processor(status=status)))
    assert answer["directive"] == "shutdown"


@pytest.mark.parametrize("processor_id", [NOBODY, "camera-1", "x" * 1000, "ÿ"])
async def test_a_processor_that_is_not_found_is_told_to_shut_down(service: Service, processor_id):
    answer = await service.beat(processor_id=processor_id)
    assert answer["directive"] == "shutdown"
    assert answer["acknowledged"] is True


@pytest.mark.parametrize("processor_id", [NOBODY, "camera-1"])
async def test_while_the_database_is_down_nobody_is_told_to_shut_down(
    service: Service, processor_id
):
    service.store.error = StoreUnavailable("down")
    answer = await service.beat(processor_id=processor_id)
    assert answer["directive"] == "continue"
    assert answer["acknowledged"] is False


async def test_without_a_processor_id_nothing_is_written(service: Service):
    service.store.error = StoreUnavailable("down")
    answer = await service.beat(status="healthy")
    assert answer["acknowledged"] is True
    assert answer["directive"] == "continue"
    assert service.store.batches == []


async def test_unknown_fields_are_ignored(service: Service):
    key = service.processor()
    assert (await service.beat(processor_id=str(key), wanted="later"))["acknowledged"] is True


@pytest.mark.parametrize("path", ["//api/v1/edge/heartbeat", "/api//v1/edge///heartbeat"])
async def test_doubled_slashes_work(service: Service, path):
    answer = await service.http.post(f"http://orchestrator{path}", json={})
    assert answer.status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_any_other_method_is_405(service: Service, method):
    answer = await service.http.request(method, HEARTBEAT)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


BAD = {
    "empty": b"",
    "no-json": b"hello",
    "cut": b'{"processor_id": "a',
    "array": b"[]",
    "null": b"null",
    "string": b'"x"',
    "trailing": b"{} {}",
    "nan": b'{"timestamp": NaN}',
    "nan-in-unknown-field": b'{"other": NaN}',
    "infinity": b'{"timestamp": 1e999}',
    "thousand-digits": b'{"epoch": ' + b"9" * 1000 + b"}",
    "thousand-digits-for-a-float": b'{"timestamp": ' + b"9" * 1000 + b"}",
    "beyond-64-bits": b'{"epoch": 9223372036854775808}',
    "beyond-64-bits-for-a-float": b'{"timestamp": 100000000000000000000}',
    "below-64-bits": b'{"state_size_bytes": -9223372036854775809}',
    "nul": b'{"processor_id": "a\\u0000b"}',
    "nul-in-node": b'{"node_id": "\\u0000"}',
    "raw-nul": b'{"processor_id": "a\x00b"}',
    "lone-surrogate": b'{"processor_id": "\\ud800"}',
    "bad-utf-8": b'{"processor_id": "\xff"}',
    "deep": b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deep-objects": b'{"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "twice": b'{"processor_id": "a", "processor_id": "b"}',
    "twice-by-escape": b'{"processor_id": "a", "processor\\u005fid": "b"}',
    "utf-16": '{"processor_id": "a"}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
async def test_a_bad_body_is_400_and_changes_nothing(service: Service, body):
    answer = await service.http.post(HEARTBEAT, content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    assert service.store.batches == []


STRING, NUMBER, BOOL, LIST, OBJECT = '"x"', "1", "true", "[]", "{}"
WRONG = {
    "processor_id": (NUMBER, BOOL, LIST, OBJECT, "null"),
    "node_id": (NUMBER, BOOL, LIST, OBJECT, "null"),
    "role": (NUMBER, BOOL, LIST, OBJECT, "null"),
    "status": (NUMBER, BOOL, LIST, OBJECT, "null"),
    "epoch": (STRING, BOOL, LIST, OBJECT, "1.5"),
    "state_size_bytes": (STRING, BOOL, LIST, OBJECT, "1.5"),
    "timestamp": (STRING, BOOL, LIST, OBJECT, "null"),
    "uptime_sec": (STRING, BOOL, LIST, OBJECT, "null"),
    "last_state_sync": (STRING, BOOL, LIST, OBJECT),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
async def test_a_wrong_type_is_400_and_named(service: Service, field, value):
    answer = await service.http.post(HEARTBEAT, content=f'{{"{field}": {value}}}')
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["epoch", "last_state_sync", "state_size_bytes"])
async def test_the_nullable_fields_may_be_null(service: Service, field):
    await service.beat(**{field: None})


async def test_64_kib_are_accepted_and_one_byte_more_is_413(service: Service):
    frame = len(b'{"x":""}')
    fits = b'{"x":"' + b"a" * (65_536 - frame) + b'"}'
    assert len(fits) == 65_536
    assert (await service.http.post(HEARTBEAT, content=fits)).status_code == 200

    answer = await service.http.post(HEARTBEAT, content=fits + b" ")
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert "error" in answer.json()


async def test_a_chunked_body_beyond_the_limit_is_413(service: Service):
    async def endless():
        for _ in range(200):
            yield b"x" * 1024

    answer = await service.http.post(HEARTBEAT, content=endless())
    assert answer.status_code == 413


class TestWithTokens:
    """DORY_STATE_TOKEN, and the previous one while it is rotated."""

    @pytest.fixture
    def tokens(self):
        return ("new-token", "old-token")

    @pytest.mark.parametrize("header", ["Bearer new-token", "Bearer old-token", "bearer new-token"])
    async def test_either_token_opens(self, service: Service, header):
        answer = await service.http.post(HEARTBEAT, json={}, headers={"Authorization": header})
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Bearer NEW-TOKEN",
            "new-token",
            "Basic new-token",
        ],
    )
    @pytest.mark.parametrize("path", ["heartbeat", "nodes", "nodes/decommission"])
    async def test_anything_else_is_401(self, service: Service, header, path):
        headers = {} if header is None else {"Authorization": header}
        answer = await service.http.post(f"/api/v1/edge/{path}", json={}, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "new-token" not in answer.text

    @pytest.mark.parametrize("path", ["/livez", "/healthz", "/metrics", "/openapi.json"])
    async def test_probes_and_metrics_stay_open(self, service: Service, path):
        assert (await service.http.get(path)).status_code == 200

    async def test_a_refused_beat_is_counted(self, service: Service):
        await service.http.post(HEARTBEAT, json={})
        value = service.metrics.registry.get_sample_value(
            "dory_heartbeats_refused_total", {"reason": "unauthorized"}
        )
        assert value == 1

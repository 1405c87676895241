"""Events leave the house: to receivers that work, fall, and hang; as a stream; as a file."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.acceptance.real import eventually, free_port, running
from tests.acceptance.test_fleet import Fleet, command, fleet_file, up

pytestmark = pytest.mark.timeout(90)

SECRET = "not-to-be-guessed-at-all"
FLEET = """
processors:
  - name: counter
    command: [python, counter.py]
"""


def is_genuine(headers: Any, body: bytes, secret: str) -> bool:
    """As docs/operations.md tells receivers to do it."""
    signed = f"{headers['dory-webhook-id']}.{headers['dory-webhook-timestamp']}.".encode() + body
    expected = "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    fresh = abs(time.time() - int(headers["dory-webhook-timestamp"])) < 300
    return fresh and hmac.compare_digest(expected, headers["dory-webhook-signature"])


class Receiver:
    """Somebody's program. One that hangs takes everything and says nothing."""

    def __init__(self, name: str, *, hangs: bool = False) -> None:
        self.name, self.hangs, self.port = name, hangs, free_port()
        self.got: list[dict[str, Any]] = []
        self._runner: web.AppRunner | None = None

    @property
    def setting(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/in"
        return {"name": self.name, "url": url, "secret": SECRET, "timeout": "30s"}

    @property
    def ids(self) -> list[int]:
        return [content["id"] for content in self.got]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/in", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not is_genuine(request.headers, body, SECRET):
            return web.Response(status=401)
        content = json.loads(body)
        assert content["webhook"] == self.name
        self.got.append(content)
        if self.hangs:
            await asyncio.sleep(3600)
        return web.Response(status=204)


@asynccontextmanager
async def receiving(*receivers: Receiver) -> AsyncIterator[None]:
    try:
        for receiver in receivers:
            await receiver.start()
        yield
    finally:
        for receiver in receivers:
            await receiver.stop()


async def sendable(fleet: Fleet) -> list[dict[str, Any]]:
    """All events that webhooks are sent, the oldest first."""
    return [event for event in (await fleet.events())[::-1] if event["kind"] != "webhook"]


async def test_events_reach_whoever_wants_them(data_dir: Path, tmp_path: Path) -> None:
    file = fleet_file(tmp_path / "fleet", fleet_yaml=FLEET)
    steady, falling = Receiver("steady"), Receiver("falling")
    hanging = Receiver("hanging", hangs=True)
    everyone = (steady, falling, hanging)
    environment = {"DORY_WEBHOOKS": json.dumps([one.setting for one in everyone])}
    arguments = ("--data-dir", str(data_dir), "--port", "0", "--log-format", "json")
    async with (
        receiving(*everyone),
        running(
            "dev", *arguments, "--fleet", str(file), environment=environment, ready=False
        ) as service,
    ):
        fleet = await up(service, data_dir)
        row = (await eventually(fleet.ready, 30))["counter"]
        await override(fleet, "before")
        await eventually(lambda: steady.got and falling.got and hanging.got)

        # A pod crashes while one receiver is down, and another hangs.
        before = (await sendable(fleet))[-1]["id"]
        await falling.stop()
        code, _, err = await command(
            "local", "crash-pod", row["pod_name"], "--data-dir", str(data_dir)
        )
        assert code == 0, err

        async def is_told() -> bool:
            return any(
                event["pod_name"] == row["pod_name"] and event["id"] > before
                for event in await fleet.events(kind="ready")
            )

        await eventually(is_told, 20)
        assert (await fleet.rows())["counter"]["restart_count"] == 1
        await override(fleet, "while it is down")
        events = await sendable(fleet)
        await eventually(lambda: steady.ids[-1:] == [events[-1]["id"]])
        known = {event["id"]: event for event in events}
        assert [content["event"] for content in steady.got] == [known[key] for key in steady.ids]
        assert steady.ids == [key for key in known if key >= steady.ids[0]], "in order, once"

        # It comes back, and misses nothing.
        async def failures() -> int:
            _, answer = await service.get("/api/v1/fleet/webhooks")
            (found,) = [hook for hook in answer["webhooks"] if hook["name"] == "falling"]
            return int(found["failures"])

        await eventually(failures)
        await falling.start()
        await eventually(lambda: falling.ids[-1:] == [events[-1]["id"]], 20)
        assert falling.ids == [key for key in known if key >= falling.ids[0]]

        # One that hangs has the first alone, and slows neither beats nor decisions.
        assert len(hanging.got) == 1
        assert (await service.beat(processor_id=row["id"], status="healthy"))["acknowledged"]
        assert await service.metric('dory_webhook_lag_seconds{webhook="hanging"}') > 0
        delivered = 'dory_webhook_deliveries_total{outcome="delivered",webhook="steady"}'
        assert await service.metric(delivered) == len(steady.got)
        await check_streams(fleet, tmp_path)
        assert not service.events("unexpected error")


async def override(fleet: Fleet, reason: str) -> None:
    """An event, without any pod's doing."""
    body = {"for_seconds": 60, "reason": reason}
    status, _ = await fleet.service.post("/api/v1/fleet/brake/override", body)
    assert status == 200


async def check_streams(fleet: Fleet, folder: Path) -> None:
    """The same events as a stream and as a file."""
    ids = [event["id"] for event in (await fleet.events())[::-1]]
    url = f"{fleet.service.url}/api/v1/fleet/events/stream?after=0"
    async with fleet.service.http.get(url) as stream:
        seen: list[int] = []
        async for line in stream.content:
            if line.startswith(b"data: "):
                seen.append(json.loads(line[6:])["id"])
            if len(seen) == len(ids):
                break
        assert seen == ids
        file = folder / "events.jsonl"
        options = ("--since", "1d", "--to", str(file), "--url", fleet.service.url)
        code, _, err = await command("events-export", *options)
        assert code == 0, err
        exported = [json.loads(line)["id"] for line in file.read_text().splitlines()]
        assert exported[: len(ids)] == ids
        # The end is not held up by who follows: it is told to them, and nobody is cut off.
        fleet.service.process.terminate()
        await stream.read()
        assert await fleet.service.ended() == 0

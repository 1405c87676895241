"""What the page costs where it is served: reading the fleet, rendering it, and for how long
heartbeats would have to wait for that; for a small fleet and for 1,000 nodes with 10,000
processors, in the same run.

    python -m benchmarks.page
    python -m benchmarks.page --browser /usr/bin/chromium    # and what a reader waits for

Exit codes: 0 fine, 1 a target was missed.
"""

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks import command
from dory_orchestrator import logs
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.page.handlers import Page
from dory_orchestrator.api.page.live import VIEWERS_MAX, Pictures, Stream
from dory_orchestrator.api.protocol import Connections
from dory_orchestrator.api.server import listen, make_server, url_of
from dory_orchestrator.api.service import build
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import PictureQuery
from dory_orchestrator.store.migrate import upgrade
from dory_orchestrator.store.views import PostgresViews

_SIZES = ((10, 100), (1_000, 10_000))
_ROUNDS = 7
_CHANGES = 100
_UPDATE_MS_MAX = 200.0
_BLOCK_MS_MAX = 20.0
_RENDER_GROWTH_MAX = 10.0
_PAINT_MS_MAX = 2000.0
_MEMORY_MB_MAX = 30.0

_FILL = """
INSERT INTO orchestrator.nodes (name, kind, ready, unschedulable, cpu_millicores, memory_bytes,
    gpu_count, pods_max, pods, utilisation)
SELECT name, kind, n > 3, false, 4000, 8000000000, 0, 110, 10, 0.5 FROM bench_nodes;
INSERT INTO edge_nodes (id, organization_id, name, last_heartbeat_at)
SELECT id, '00000000-0000-0000-0000-000000000001', name, now() FROM bench_nodes
WHERE kind = 'edge';
INSERT INTO orchestrator.node_health (key, name, edge_node_id, state, reason, detail, since)
SELECT 'edge ' || id, name, id, CASE WHEN n > 3 THEN 'online' ELSE 'offline' END, 'well', '', 0
FROM bench_nodes WHERE kind = 'edge';
INSERT INTO processors (id, name, processor_template_id, status, health_status,
    last_health_check_at)
SELECT id, 'camera-' || n, id, 'running', 'healthy', now() FROM bench_processors;
INSERT INTO edge_node_apps (edge_node_id, processor_id, status)
SELECT home_id, id, CASE WHEN home_n > 3 THEN 'active' ELSE 'failed_over' END
FROM bench_processors WHERE home_kind = 'edge';
INSERT INTO orchestrator.processor_states (processor_id, state, reason, detail, node_name, pod_name,
    pod_uid, epoch, restart_count)
SELECT id, 'running', 'running', '', CASE WHEN home_n > 3 THEN home ELSE 'cloud-1' END, 'pod-' || n,
    'uid-' || n, 1, 0 FROM bench_processors;
INSERT INTO orchestrator.checkpoints (processor_id, epoch, incarnation, pod_uid, pod_name,
    captured_at, sha256, size_bytes, body)
SELECT id, 1, k, 'uid', 'pod', 0, '', 0, '' FROM bench_processors, generate_series(1, 3) k;
INSERT INTO orchestrator.moves (processor_id, kind, detail, from_node, to_node, epoch, began_at,
    last_alive_at, suspect_at, state_at, ended_at, outcome, rto_seconds, rpo_seconds)
SELECT id, 'failover', '', home, 'cloud-1', 2, now() - interval '1 h',
    now() - interval '3690 s', now() - interval '3630 s', now() - interval '3691 s',
    now() - interval '3598 s', 'done', 92, 4.2 FROM bench_processors WHERE home_n <= 3;
UPDATE orchestrator.leader SET term = 1, holder = 'bench', expires_at = now() + interval '1 day';
UPDATE orchestrator.fleet SET shown_term = 1;
"""


@dataclass(slots=True)
class Result:
    """Of one size: milliseconds, bytes."""

    nodes: int
    processors: int
    read: list[float] = field(default_factory=list)
    mark: list[float] = field(default_factory=list)
    render: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    block: list[float] = field(default_factory=list)
    page_bytes: int = 0
    memory_mb: float = 0.0
    paint_ms: float | None = None
    swap_ms: float | None = None


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", type=Path, help="a Chromium, to measure what a reader waits")
    browser: Path | None = parser.parse_args().browser
    logs.configure("error", "text")
    return command.run(lambda: _bench(browser))


def _bench(browser: Path | None) -> int:
    results = []
    for nodes, processors in _SIZES:
        with (
            tempfile.TemporaryDirectory(prefix="dory-bench-") as folder,
            command.postgres(Path(folder)) as url,
        ):
            upgrade(url)
            results.append(asyncio.run(_measure(url, Result(nodes, processors), browser)))
    for result in results:
        _print(result)
    return _judge(*results)


async def _measure(url: str, result: Result, browser: Path | None) -> Result:
    connection = await asyncpg.connect(url)
    await _fill(connection, result)
    metrics = Metrics()
    views = PostgresViews(url, metrics=metrics, timeout_seconds=10)
    page = Page(views, health=Health(metrics), operator_token=None, cluster="bench")
    try:
        await _time(views, page, result)
        await _watch(connection, page, result)
        if browser is not None:
            async with _served(page, metrics) as address:
                await _look(connection, address, browser, result)
    finally:
        page.close()
        await views.close()
        await connection.close()
    return result


async def _fill(connection: Any, result: Result) -> None:
    """A hundredth of the nodes is in the cloud; three edge nodes are dead."""
    await connection.execute(
        "CREATE TEMPORARY TABLE bench_nodes AS"
        " SELECT n, gen_random_uuid() AS id,"
        " CASE WHEN n > $1 THEN 'cloud-' || n - $1 ELSE 'edge-' || lpad(n::text, 4, '0') END AS name,"
        " CASE WHEN n > $1 THEN 'application' ELSE 'edge' END AS kind"
        " FROM generate_series(1, $2::int) n".replace("$2", str(result.nodes)).replace(
            "$1", str(result.nodes - max(1, result.nodes // 100))
        )
    )
    await connection.execute(
        "CREATE TEMPORARY TABLE bench_processors AS"
        " SELECT p AS n, gen_random_uuid() AS id, b.n AS home_n, b.name AS home, b.id AS home_id,"
        f" b.kind AS home_kind FROM generate_series(1, {result.processors}) p"
        f" JOIN bench_nodes b ON b.n = 1 + p % {result.nodes}"
    )
    await connection.execute(_FILL)
    await connection.execute("VACUUM ANALYZE")


async def _time(views: PostgresViews, page: Page, result: Result) -> None:
    renderer = page.pictures._renderer
    for _ in range(_ROUNDS):
        picture, took = await _timed(lambda: views.picture(PictureQuery()))
        result.read.append(took)
        _, took = await _timed(views.picture_mark)
        result.mark.append(took)
        drawn, took = await _timed(partial(renderer.map, picture, 0, 40))
        moves_at = time.perf_counter()
        moves = renderer.moves(picture.moves, picture.summary.at, more=False, filters={})
        result.render.append(took + (time.perf_counter() - moves_at) * 1000)
        result.page_bytes = len((drawn + moves).encode())


async def _timed(work: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
    began_at = time.perf_counter()
    found = await work()
    return found, (time.perf_counter() - began_at) * 1000


async def _watch(connection: Any, page: Page, result: Result) -> None:
    """As many viewers as there may be, and change after change: how long the loop is held up at
    most, and what memory is left behind."""
    stream = Stream(page.pictures)
    leave = asyncio.Event()
    viewers = [asyncio.create_task(_viewer(stream, leave)) for _ in range(VIEWERS_MAX)]
    await asyncio.sleep(2.5)
    for viewer in viewers:
        if viewer.done():
            viewer.result()
    process = psutil.Process()
    gc.collect()
    gc.freeze()
    before = process.memory_info().rss
    for number in range(_CHANGES):
        await _change(connection, number)
        beside = asyncio.create_task(_longest_block())
        frame_before = page.pictures._number
        began_at = time.perf_counter()
        await _looked(page.pictures)
        result.update.append((time.perf_counter() - began_at) * 1000)
        if page.pictures._number == frame_before:
            raise TimeoutError("a change was not seen")
        beside.cancel()
        result.block.append(await beside)
    gc.collect()
    result.memory_mb = (process.memory_info().rss - before) / 1e6
    leave.set()
    await asyncio.gather(*viewers)


async def _looked(pictures: Pictures) -> None:
    """The next look, now."""
    while pictures._looking is not None:
        await asyncio.shield(pictures._looking)
    pictures._looked_at = -1e9
    await pictures.latest()
    await asyncio.sleep(0)  # viewers are told


async def _change(connection: Any, number: int) -> None:
    await connection.execute(
        "UPDATE orchestrator.processor_states SET state = $1, updated_at = clock_timestamp()"
        " WHERE pod_name = 'pod-7'",
        "error" if number % 2 else "waiting",
    )


async def _viewer(stream: Stream, leave: asyncio.Event) -> None:
    async def receive() -> Any:
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        await asyncio.sleep(0)

    await stream({"type": "http", "method": "GET", "headers": []}, receive, send)


async def _longest_block() -> float:
    """Milliseconds of CPU for which nobody else had a turn, until cancelled: by the clock it
    would be what else runs on the machine."""
    longest, last = 0.0, time.thread_time()
    try:
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return longest * 1000


@asynccontextmanager
async def _served(page: Page, metrics: Metrics) -> AsyncIterator[str]:
    app = build(health=Health(metrics), render_metrics=metrics.render, edge=None, page=page)
    sock = listen("127.0.0.1", 0)
    server = make_server(app, shared=Connections(metrics), keep_alive_seconds=75)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield url_of(sock)
    finally:
        page.close()
        server.should_exit = True
        await serving
        sock.close()


async def _look(connection: Any, address: str, browser: Path, result: Result) -> None:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = await chromium.new_page()
        await tab.goto(address)
        await _until(tab, "performance.getEntriesByName('first-contentful-paint').length > 0")
        result.paint_ms = await tab.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        await tab.wait_for_timeout(1500)
        await tab.evaluate(
            "document.addEventListener('htmx:sseBeforeMessage', e => {"
            " if (e.target.id === 'map') window.began = performance.now() });"
            "document.addEventListener('htmx:sseMessage', e => { if (e.target.id === 'map')"
            " requestAnimationFrame(() => setTimeout("
            " () => { window.took = performance.now() - window.began })) })"
        )
        await _change(connection, 0)
        await _until(tab, "window.took !== undefined")
        result.swap_ms = await tab.evaluate("window.took")
        await chromium.close()


async def _until(tab: Any, expression: str) -> None:
    """The policy of the page forbids what the driver would wait with."""
    async with asyncio.timeout(20):
        while not await tab.evaluate(expression):
            await tab.wait_for_timeout(20)


def _print(result: Result) -> None:
    def ms(values: list[float]) -> str:
        return f"{statistics.median(values):8.1f} ms (to {max(values):.1f})"

    print(f"{result.nodes:,} nodes, {result.processors:,} processors; medians")
    print(f"  is anything new?      {ms(result.mark)}")
    print(f"  read the fleet        {ms(result.read)}")
    print(f"  render it             {ms(result.render)}, {result.page_bytes / 1000:.0f} kB")
    print(f"  a change, {VIEWERS_MAX} viewers  {ms(result.update)}")
    print(f"  longest turn, of CPU  {ms(result.block)}")
    print(f"  memory after {_CHANGES} changes: {result.memory_mb:+.1f} MB")
    if result.paint_ms is not None and result.swap_ms is not None:
        print(f"  first paint {result.paint_ms:.0f} ms; a change drawn in {result.swap_ms:.0f} ms")


def _judge(small: Result, large: Result) -> int:
    growth = statistics.median(large.render) / statistics.median(small.render)
    update = statistics.median(large.update)
    targets = [
        ("a change, ms", update, _UPDATE_MS_MAX),
        ("longest turn of a change, ms of CPU", max(large.block), _BLOCK_MS_MAX),
        ("rendering by that of the small fleet", growth, _RENDER_GROWTH_MAX),
        ("memory left behind, MB", large.memory_mb, _MEMORY_MB_MAX),
    ]
    if large.paint_ms is not None and large.swap_ms is not None:
        targets.append(("first paint, ms", large.paint_ms, _PAINT_MS_MAX))
        targets.append(("a change drawn by the browser, ms", large.swap_ms, _UPDATE_MS_MAX))
    for name, value, most in targets:
        print(f"{name}: {value:.1f}, at most {most:g}: {'met' if value <= most else 'MISSED'}")
    return 0 if all(value <= most for _, value, most in targets) else 1


if __name__ == "__main__":
    sys.exit(main())

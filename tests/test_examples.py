"""The examples, with the published SDK: what the tutorial says is what happens."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import jsonschema_rs
import pytest
import yaml
from aiohttp import web
from tests.acceptance.real import clean_environment, eventually, free_port
from tests.patience import patient

from dory_orchestrator.core.fleet import Table
from dory_orchestrator.core.runtime_config import read
from dory_orchestrator.fleet_file import load, schema

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = ("counter.py", "sensor.py")
HEADERS = {"Authorization": "Bearer secret"}


class Orchestrator:
    """Hears heartbeats, and answers with `directive`."""

    def __init__(self) -> None:
        self.directive = "continue"
        self.status = 200
        self.beats: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.beats.append(await request.json())
        self.tokens.add(request.headers.get("Authorization"))
        answer = {"acknowledged": True, "orchestrator_time": 1.0, "directive": self.directive}
        return web.json_response(answer, status=self.status)


class Pod:
    """An example as a child process, like a pod."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{port}"
        self._log = log
        self.http: aiohttp.ClientSession = None  # type: ignore[assignment]

    def log(self) -> str:
        return self._log.read_text()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(self._url + path, headers=HEADERS) as answer:
            return answer.status, await answer.json()

    async def is_ready(self) -> bool:
        assert self.process.returncode is None, self.log()
        try:
            return (await self.get("/ready"))[0] == 200
        except aiohttp.ClientError:
            return False

    async def state(self) -> dict[str, Any]:
        status, answer = await self.get("/state")
        assert status == 200
        assert "error" not in answer, answer
        state: dict[str, Any] = answer["data"]
        return state

    async def set_state(self, state: dict[str, Any]) -> None:
        body = {"data": state}
        async with self.http.post(f"{self._url}/state", json=body, headers=HEADERS) as answer:
            assert answer.status == 200

    async def counts_beyond(self, least: int) -> bool:
        return bool((await self.state())["count"] > least)

    async def ended(self) -> int:
        async with asyncio.timeout(patient(10)):
            return await self.process.wait()


@pytest.fixture
async def orchestrator() -> AsyncIterator[Orchestrator]:
    fake = Orchestrator()
    app = web.Application()
    app.router.add_post("/api/v1/edge/heartbeat", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    await runner.cleanup()


@pytest.fixture
def processor_id() -> Any:
    """The SDK keeps local state in one fixed folder of the machine: nothing stays behind."""
    key = uuid4()
    yield key
    for folder in ("/data", "/tmp"):
        Path(folder, f"dory-state-{key}.json").unlink(missing_ok=True)


@asynccontextmanager
async def running(
    program: str, key: UUID, url: str, log: Path, folder: Path = EXAMPLES, **environment: str
) -> AsyncIterator[Pod]:
    port = free_port()
    variables = {
        "PROCESSOR_ID": str(key),
        "DORY_POD_NAME": "pod-1",
        "POD_NAME": "pod-1",
        "NODE_NAME": "edge-7",
        "RESTART_COUNT": "0",
        "DORY_STATE_BACKEND": "local",
        "DORY_HEALTH_PORT": str(port),
        "DORY_STATE_TOKEN": "secret",
        "DORY_ORCHESTRATOR_URL": url,
        "OTEL_CONSOLE_EXPORT": "false",
        **environment,
    }
    with log.open("ab") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            program,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=clean_environment() | variables,
        )
    pod = Pod(process, port, log)
    try:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=patient(5))
        ) as pod.http:
            await eventually(pod.is_ready)
            yield pod
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("program", PROGRAMS)
async def test_it_beats_counts_and_continues(program, orchestrator, processor_id, tmp_path):
    log = tmp_path / "log"
    async with running(program, processor_id, orchestrator.url, log) as pod:
        await eventually(lambda: orchestrator.beats)
        beat = orchestrator.beats[0]
        assert (beat["processor_id"], beat["node_id"]) == (str(processor_id), "edge-7")
        assert orchestrator.tokens == {"Bearer secret"}
        await eventually(lambda: pod.counts_beyond(2))
        last = await pod.state()
        status, _ = await pod.get("/prestop")
        assert status == 200
        assert await pod.ended() == 0
        assert "State snapshot saved" in pod.log()

    async with running(program, processor_id, orchestrator.url, log) as pod:
        first = await pod.state()
        assert first["count"] >= last["count"] >= 3
        # An orchestrator gives it a newer state while it runs.
        await pod.set_state({"count": 1_000_000})
        assert (await pod.state())["count"] >= 1_000_000


@pytest.mark.parametrize("program", PROGRAMS)
async def test_told_to_shut_down_it_leaves_and_saves_nothing(
    program, orchestrator, processor_id, tmp_path
):
    async with running(program, processor_id, orchestrator.url, tmp_path / "log") as pod:
        orchestrator.directive = "shutdown"
        assert await pod.ended() == 0
        assert "told to shut down" in pod.log()
        assert "State snapshot saved" not in pod.log()


@pytest.mark.parametrize("program", PROGRAMS)
async def test_without_an_orchestrator_it_works_on(program, processor_id, tmp_path):
    nobody = f"http://127.0.0.1:{free_port()}"
    async with running(program, processor_id, nobody, tmp_path / "log") as pod:
        await eventually(lambda: "Heartbeat failed" in pod.log())
        count = (await pod.state())["count"]
        await eventually(lambda: pod.counts_beyond(count))
        # A short loop: no grace period is needed.
        pod.process.terminate()
        assert await pod.ended() == 0


async def test_an_orchestrator_that_fails_stops_nobody(orchestrator, processor_id, tmp_path):
    orchestrator.status, orchestrator.directive = 500, "shutdown"
    async with running("counter.py", processor_id, orchestrator.url, tmp_path / "log") as pod:
        await eventually(lambda: orchestrator.beats)
        count = (await pod.state())["count"]
        await eventually(lambda: pod.counts_beyond(count + 5))


async def test_state_is_whole_while_it_is_counted(orchestrator, processor_id, tmp_path):
    """get_state() runs in a thread beside run(): many reads, none broken, none backwards."""
    async with running(
        "counter.py", processor_id, orchestrator.url, tmp_path / "log", STEP="3"
    ) as pod:
        counts = []
        for _ in range(300):
            state = await pod.state()
            assert state["count"] % 3 == 0
            assert len(state["history"]) <= 30
            counts.append(state["count"])
        assert counts == sorted(counts)


async def test_the_sensor_knows_its_place(orchestrator, processor_id, tmp_path):
    async with running(
        "sensor.py",
        processor_id,
        orchestrator.url,
        tmp_path / "log",
        BASE_CELSIUS="100",
        SPREAD_CELSIUS="0.1",
    ) as pod:
        await eventually(lambda: pod.counts_beyond(2))
        state = await pod.state()
        assert 99 < state["least"] <= state["mean"] <= state["most"] < 101


def test_the_example_fleet():
    fleet = load(EXAMPLES / "fleet.yaml", UUID(int=1))
    assert [node.name for node in fleet.nodes] == ["edge-1", "edge-2", "cloud-1", "cloud-2"]
    assert len(fleet.of(Table.TEMPLATES)) == 3
    assert len(fleet.of(Table.PROCESSORS)) == 8
    users = [row.columns["processor_template_id"] for row in fleet.of(Table.PROCESSORS)]
    assert all(users.count(row.id) >= 2 for row in fleet.of(Table.TEMPLATES))
    assert len(fleet.of(Table.LINKS)) == 6
    for row in fleet.of(Table.VERSIONS):
        config = read(str(row.columns["runtime_config_template"]))
        assert (config.requests.cpu_millicores, config.requests.memory_bytes) == (100, 64 * 2**20)
        folder = Path(config.environment["DORY_LOCAL_WORKING_DIR"])
        program, script = config.command
        assert (program, folder) == ("python", EXAMPLES)
        assert (folder / script).is_file()


@pytest.fixture(scope="module")
def blocks() -> list[tuple[str, str]]:
    """The blocks of code of the page, with their languages."""
    text = (EXAMPLES.parent / "docs" / "processors.md").read_text(encoding="utf-8")
    kinds_and_bodies = [block.partition("\n") for block in text.split("```")[1::2]]
    return [(kind, body) for kind, _, body in kinds_and_bodies]


async def test_the_program_of_the_docs_runs(blocks, orchestrator, processor_id, tmp_path):
    program = next(body for kind, body in blocks if kind == "python")
    (tmp_path / "mine.py").write_text(program, encoding="utf-8")
    shutil.copy(EXAMPLES / "heartbeats.py", tmp_path)
    async with running(
        "mine.py", processor_id, orchestrator.url, tmp_path / "log", tmp_path
    ) as pod:
        await eventually(lambda: orchestrator.beats)
        await eventually(lambda: pod.counts_beyond(5))
        await pod.get("/prestop")
        assert await pod.ended() == 0


def test_the_blocks_of_the_docs_are_right(blocks, tmp_path):
    """Each YAML can be loaded and fits the schema; each program compiles."""
    fits = jsonschema_rs.validator_for(schema())
    kinds = [kind for kind, _ in blocks]
    assert kinds.count("yaml") >= 2
    assert kinds.count("python") >= 2
    for number, (kind, body) in enumerate(blocks):
        if kind == "yaml":
            file = tmp_path / f"{number}.yaml"
            file.write_text(body, encoding="utf-8")
            assert load(file, UUID(int=1)).of(Table.PROCESSORS)
            fits.validate(yaml.safe_load(body))
        elif kind == "python":
            compile(body, f"docs/processors.md, block {number}", "exec")


def test_the_example_fleet_fits_the_schema():
    content = yaml.safe_load((EXAMPLES / "fleet.yaml").read_text(encoding="utf-8"))
    jsonschema_rs.validator_for(schema()).validate(content)

"""The demonstration: what it tells is consistent, and nothing of it is left over."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from tests.acceptance.real import COMMAND, clean_environment, eventually, is_gone
from tests.patience import patient

from dory_orchestrator.app.demo_fleet import cast
from dory_orchestrator.app.demo_judge import Observed, Reading, Trip, allowed_loss, judge, rate_of
from dory_orchestrator.app.dev_fleet import example
from dory_orchestrator.cluster.local import states
from dory_orchestrator.fleet_file import load, parse

RUN_SECONDS = 150
_SERVERS = Path("/var/lib/dory-orchestrator")
_VALUE = r"^  (before|given|after|allowed)\s+(\d+)  "


# Judging --------------------------------------------------------------------------------------


def reading(count: int, node: str, epoch: int, at: float = 0.0) -> Reading:
    return Reading(at, count, f"pod-{epoch}", node, epoch)


GOOD = Observed(
    node="edge-1",
    counter="counter",
    rate=10.0,
    residents=("counter", "sensor"),
    out=Trip(
        before=reading(100, "edge-1", 1, at=50.0),
        after=reading(81, "cloud-1", 2, at=59.5),
        seeded=80,
        rto_seconds=9.0,
        rpo_seconds=2.0,
    ),
    back=Trip(before=reading(200, "cloud-1", 2), after=reading(200, "edge-1", 3), seeded=200),
    away={"counter": "cloud-1", "sensor": "cloud-2"},
    home={"counter": "edge-1", "sensor": "edge-1"},
)


def out(**changes: object) -> Observed:
    return replace(GOOD, out=replace(GOOD.out, **changes))  # type: ignore[arg-type]


def back(**changes: object) -> Observed:
    return replace(GOOD, back=replace(GOOD.back, **changes))  # type: ignore[arg-type]


def test_a_state_that_went_out_and_home_within_the_bound_is_a_success():
    assert judge(GOOD) == []
    assert allowed_loss(GOOD) == 23
    assert GOOD.out.lost == 20
    assert GOOD.out.silent_seconds == 9.5
    assert judge(out(seeded=None)) == []  # a document that was not seen proves nothing


@pytest.mark.parametrize(
    ("observed", "said"),
    [
        (replace(GOOD, residents=()), "was not on edge-1"),
        (replace(GOOD, residents=("sensor",)), "was not on edge-1"),
        (replace(GOOD, rate=0.0), "did not count"),
        (out(before=None), "was not seen before it went away"),
        (out(after=None), "was not seen away from home"),
        (out(after=reading(76, "cloud-1", 2)), "more was lost than the 23 counts"),
        (out(after=reading(1, "cloud-1", 2)), "more was lost"),
        (out(after=reading(120, "cloud-1", 2), seeded=70), "was given 70: more was lost"),
        (out(after=reading(100, "cloud-1", 1)), "no later epoch away"),
        (out(after=reading(100, "edge-1", 2)), "did not go on elsewhere"),
        (out(rpo_seconds=None), "knew no state"),
        (out(rpo_seconds=10.0), "starts from nothing would pass"),
        (back(before=None), "was not seen before it went at home"),
        (back(after=None), "was not seen at home again"),
        (back(after=reading(199, "edge-1", 3)), "something was lost on the way"),
        (back(seeded=199), "was given 199 at home"),
        (back(after=reading(200, "edge-1", 2)), "no later epoch at home"),
        (back(after=reading(200, "edge-2", 3)), "is on edge-2, not on edge-1"),
        (replace(GOOD, away={"counter": "cloud-1"}), "sensor did not move away"),
        (
            replace(GOOD, away={"counter": "cloud-1", "sensor": "edge-1"}),
            "sensor did not move away",
        ),
        (replace(GOOD, home={"counter": "edge-1"}), "sensor did not come home"),
        (
            replace(GOOD, home={"counter": "edge-1", "sensor": "cloud-2"}),
            "sensor did not come home",
        ),
    ],
)
def test_whatever_was_not_as_promised_is_no_success(observed, said):
    problems = judge(observed)
    assert any(said in problem for problem in problems), problems


def test_every_problem_is_told():
    assert len(judge(replace(GOOD, out=Trip(), back=Trip(), away={}, home={}))) == 6


def test_a_rate_needs_two_moments():
    assert rate_of([]) == 0
    assert rate_of([reading(5, "edge-1", 1)]) == 0
    assert rate_of([reading(5, "edge-1", 1), reading(9, "edge-1", 1)]) == 0
    assert rate_of([reading(5, "edge-1", 1, at=1.0), reading(25, "edge-1", 1, at=3.0)]) == 10


def test_the_first_edge_node_with_a_counter_is_chosen():
    fleet = load(example(), UUID(int=0))
    assert (cast(fleet, None).node, cast(fleet, None).counter) == ("edge-1", "counter-berlin")
    assert (cast(fleet, "edge-2").node, cast(fleet, "edge-2").counter) == (
        "edge-2",
        "counter-lagos",
    )
    for wanted in ("cloud-1", "nowhere"):
        with pytest.raises(LookupError, match="there is: edge-1, edge-2"):
            cast(fleet, wanted)
    empty = parse(b"", name="empty", folder=Path(), namespace=UUID(int=0))
    with pytest.raises(LookupError, match="there is: none"):
        cast(empty, None)


# The real thing -------------------------------------------------------------------------------


class Show:
    """A running demonstration, whose temporary folder is in a folder of ours."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, output: Path) -> None:
        self.process = process
        self.folder = folder
        self._output = output
        self._processor_ids: set[UUID] = set()
        self._server_ids: set[str] = set()

    def output(self) -> str:
        return self._output.read_text()

    def says(self, text: str) -> bool:
        """Whether it has said so. What it has started is noted meanwhile."""
        self.note()
        assert self.process.returncode is None, self.output()
        return text in self.output()

    def note(self) -> None:
        """Look at what there is now, so as to know later whether it is gone."""
        for process in self.processes():
            try:
                key = process.environ().get("DORY_PROCESSOR_ID")
            except psutil.Error:
                continue
            if key:
                self._processor_ids.add(UUID(key))
        for file in self.folder.glob("*/data/instance-id"):
            self._server_ids.add(file.read_text().strip())

    def processes(self) -> list[psutil.Process]:
        """All that have to do with it, whoever is their parent."""
        marks = [str(self.folder), *(str(_SERVERS / key) for key in self._server_ids if key)]
        return [p for p in psutil.process_iter() if _names_any(p, marks)]

    def left_over(self) -> list[object]:
        """What is there that should be gone."""
        return [
            *(p for p in self.processes() if p.pid != self.process.pid),
            *self.folder.iterdir(),
            *(p for p in map(states.state_file, self._processor_ids) if p.exists()),
            *(p for key in self._server_ids if key and (p := _SERVERS / key).exists()),
        ]

    def assert_has_started(self) -> None:
        """That `left_over` means something."""
        assert len(self._processor_ids) == 8
        assert len(self._server_ids) == 1


def _names_any(process: psutil.Process, marks: list[str]) -> bool:
    try:
        if is_gone(process):
            return False
        words = [*process.cmdline(), *process.environ().values()]
    except psutil.Error:
        return False
    return any(mark in word for word in words for mark in marks)


@asynccontextmanager
async def show(tmp_path: Path, *arguments: str) -> AsyncIterator[Show]:
    folder, output = tmp_path / "temporary", tmp_path / "output"
    folder.mkdir()
    # What somebody exported for another orchestrator is none of its business.
    others = {"TMPDIR": str(folder), "DORY_CLUSTER": "kubernetes", "DORY_HEARTBEAT_STALE": "1h"}
    with output.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("demo", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=clean_environment() | others,
        )
    try:
        yield Show(process, folder, output)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(patient(40)):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


@pytest.mark.timeout(RUN_SECONDS + 60)
async def test_a_node_dies_and_its_state_goes_to_the_cloud_and_home(tmp_path):
    async with show(tmp_path) as demo:
        await eventually(lambda: demo.says("KILL"), RUN_SECONDS)
        async with asyncio.timeout(patient(RUN_SECONDS)):
            code = await demo.process.wait()
        text = demo.output()
        assert code == 0, text
        demo.assert_has_started()
        assert demo.left_over() == []

    assert "\x1b" not in text
    assert text.rstrip().splitlines()[-1].startswith("  PASSED: ")
    assert re.search(r"heartbeat_stale +12s +60s$", text, re.MULTILINE)
    assert re.search(
        r"edge-1 +edge +ready +cellar-berlin, counter-berlin, roof-berlin$", text, re.M
    )
    assert "3 of 3 processors of edge-1 moved, 3 came home" in text

    values = [(name, int(count)) for name, count in re.findall(_VALUE, text, re.MULTILINE)]
    assert [name for name, _ in values] == [
        *("before", "given", "after", "allowed"),
        *("before", "given", "after"),
    ]
    before, given, after, allowed, cloud, home_given, home = (count for _, count in values)
    assert 0 < before - allowed <= after
    assert given <= after
    assert after <= cloud <= home_given <= home

    # Each step came after the one before it, and none before the kill.
    steps = [
        (float(seconds), name)
        for seconds, name in re.findall(r"^ +\+([\d.]+) s  (\S+)", text.split("returns")[0], re.M)
    ]
    order = [name for _, name in steps]
    first = [order.index(name) for name in ("KILL", "suspect", "dead", "failover", "moved")]
    assert first == sorted(first)
    moments = [steps[place][0] for place in first]
    assert moments == sorted(moments)
    assert order.count("moved") == 3

    # The summary says the same once more.
    summary = dict(re.findall(r"^  (\S.+?)  +(.+)$", text.split("\nSummary\n")[1], re.MULTILINE))
    assert summary["epoch"].split("  ")[0] == "1 -> 2"
    assert pair(summary["count read last before"]) == [before, cloud]
    assert pair(summary["count given"]) == [given, home_given]
    assert pair(summary["count read first after"]) == [after, home]
    assert pair(summary["counts lost"]) == [max(0, before - given), 0]


def pair(text: str) -> list[int]:
    return [int(word) for word in text.split()]


@pytest.mark.timeout(RUN_SECONDS)
@pytest.mark.parametrize("moment", ["SHORTER", "KILL"])
async def test_ctrl_c_leaves_nothing_behind(tmp_path, moment):
    async with show(tmp_path, "--edge-node", "edge-2") as demo:
        await eventually(lambda: demo.says(moment), 60)
        demo.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(patient(40)):
            assert await demo.process.wait() == 130, demo.output()
        assert demo.left_over() == []
        assert "interrupted" in demo.output().splitlines()[-1]


@pytest.mark.timeout(RUN_SECONDS)
async def test_an_orchestrator_that_dies_is_a_failure_and_leaves_nothing_behind(tmp_path):
    async with show(tmp_path) as demo:
        await eventually(lambda: demo.says("Before:"), 60)
        (dev,) = (p for p in psutil.Process(demo.process.pid).children() if "dev" in p.cmdline())
        dev.kill()
        async with asyncio.timeout(patient(40)):
            assert await demo.process.wait() == 1, demo.output()
        assert demo.left_over() == []
        last = demo.output().splitlines()[-1]
        assert "FAILED: `dev` has ended by itself" in last


@pytest.mark.timeout(RUN_SECONDS)
async def test_when_nobody_listens_any_more_it_clears_away(tmp_path):
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "demo"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=write_end,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment() | {"TMPDIR": str(tmp_path)},
    )
    os.close(write_end)
    with os.fdopen(read_end) as heard:
        await asyncio.to_thread(lambda: next(line for line in heard if "setting" in line))
    async with asyncio.timeout(patient(60)):
        _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")
    assert list(tmp_path.iterdir()) == []


async def test_a_node_without_a_counter_is_refused_at_once(tmp_path):
    async with show(tmp_path, "--edge-node", "cloud-1") as demo:
        async with asyncio.timeout(patient(10)):
            assert await demo.process.wait() == 2
        assert "no edge node cloud-1 with a counter (there is: edge-1, edge-2)" in demo.output()
        assert demo.left_over() == []

"""`demo`: an edge node is killed, and its processors move to the cloud and home again.

It runs the real `dev`, and shows nothing but what it measured, read from pods, or was told by
the orchestrator. What it started is gone when it ends, whatever happened.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec

from dory_orchestrator.app.demo_fleet import Cast, DemoFleet, NoAnswer, cast
from dory_orchestrator.app.demo_judge import (
    SLACK_SECONDS,
    Observed,
    Reading,
    Trip,
    allowed_loss,
    judge,
    rate_of,
)
from dory_orchestrator.app.demo_words import Words
from dory_orchestrator.app.dev import ENDPOINTS
from dory_orchestrator.app.dev_fleet import example
from dory_orchestrator.cluster.local import states
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.messages import Timing
from dory_orchestrator.fleet_file import FleetFileError, load
from dory_orchestrator.loops.supervise import Signals
from dory_orchestrator.ports import ClusterError, StoreError
from dory_orchestrator.settings import Settings, environment_name, flag_name, shown
from dory_orchestrator.store.embedded import EmbeddedPostgres

PASSED, FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130
SHORT: Mapping[str, float] = {
    "heartbeat_stale": 12.0,
    "node_failure_grace": 3.0,
    "failback_stable": 6.0,
    "health_poll_interval": 1.0,
    "checkpoint_interval": 2.0,
}
"""Settings that are shorter than their defaults, so that nobody waits for minutes."""

_UP_SECONDS = 60.0
_READY_SECONDS = 45.0
_AWAY_SECONDS = 45.0
_HOME_SECONDS = 45.0
_STORY_SECONDS = 110.0
_STOP_SECONDS = 25.0
_URGED_SECONDS = 5.0
_LOOK_SECONDS = 0.1
_GROW_SECONDS = 3.0
_GROW_SECONDS_MAX = 30.0
_INTERVALS_MIN = 2
_SHOWN_SECONDS = 1.0
_API_SECONDS = 5.0
_CLUSTER_SECONDS = 3.0
_FAILURES_MAX = 50
_LOG_LINES = 20

_STYLES = {
    "node_suspect": ("suspect", "bold yellow"),
    "node_offline": ("dead", "bold red"),
    "failover": ("failover", "bold cyan"),
    "delete": ("old pod", "dim"),
    "moved": ("moved", "bold green"),
    "ready": ("ready", "green"),
    "node_recovering": ("recovering", "bold yellow"),
    "node_online": ("online", "bold green"),
    "failback": ("failback", "bold cyan"),
    "create": ("created", "cyan"),
    "document_refused": ("note", "dim"),
}


class DemoFailed(Exception):
    """The demonstration cannot go on."""


@dataclass(frozen=True, slots=True)
class DemoWishes:
    """What was asked of `demo`. Without an `edge_node` the first one with a counter is killed;
    `keep` leaves everything running until a signal comes."""

    edge_node: str | None
    keep: bool
    plain: bool


def demo(wishes: DemoWishes) -> int:
    """Show it; returns the exit code."""
    try:
        chosen = cast(load(example(), UUID(int=0)), wishes.edge_node)
    except FleetFileError as error:
        return _complain(WRONG_CALL, *error.problems)
    except LookupError as error:
        return _complain(WRONG_CALL, str(error.args[0]))
    if importlib.util.find_spec("dory") is None:
        return _complain(
            FAILED,
            "the example processors are built with the client library, which is not installed:"
            ' pip install "dory-orchestrator[examples]"',
        )
    return asyncio.run(_demo(wishes, chosen))


async def _demo(wishes: DemoWishes, chosen: Cast) -> int:
    signals = Signals()
    signals.listen()
    words = Words(plain=wishes.plain)
    stage = Stage.new()
    story = asyncio.create_task(_story(wishes, chosen, words, stage))
    asked = asyncio.create_task(signals.asked.wait())
    try:
        await asyncio.wait({story, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if signals.asked.is_set():
            story.cancel()
        code, last = await _result(story, stage)
    finally:
        left = await stage.clear(signals)
    if left:
        code, last = FAILED, f"not everything could be removed: {'; '.join(left)}"
    words.line()
    words.line(last, style="bold green" if code == PASSED else "bold red")
    return code


async def _result(story: asyncio.Task[list[str]], stage: "Stage") -> tuple[int, str]:
    """The exit code, and what is said last."""
    try:
        problems = await story
    except asyncio.CancelledError:
        return INTERRUPTED, "interrupted: everything that was started is gone"
    except BrokenPipeError:
        return FAILED, "FAILED: nobody listens"
    except (DemoFailed, NoAnswer, ClusterError, TimeoutError) as error:
        _complain(FAILED, *stage.last_log_lines())
        said = str(error) or f"it took longer than {_STORY_SECONDS:g} s"
        return FAILED, f"FAILED: {said}"
    if problems:
        return FAILED, f"FAILED: {'; '.join(problems)}"
    return PASSED, "PASSED: the state went to the cloud and home again"


def _complain(code: int, *problems: str) -> int:
    for problem in problems:
        print(f"dory-orchestrator: {problem}", file=sys.stderr)  # noqa: T201 - a command speaks
    return code


# The stage: what is started, and cleared away -------------------------------------------------


class Stage:
    """A folder of our own, with a `dev` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.processor_ids: set[UUID] = set()
        self._log = folder / "dev.log"
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    def new(cls) -> "Stage":
        """One in a temporary folder."""
        return cls(Path(tempfile.mkdtemp(prefix="dory-demo-")).resolve())

    async def start(self) -> None:
        """Start `dev` on a free port, whatever our environment says of settings."""
        settings = [
            word for name, value in SHORT.items() for word in (flag_name(name), f"{value:g}s")
        ]
        names = {environment_name(name) for name in Settings.model_fields}
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in names and not name.startswith("DORY_")
        }
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dory_orchestrator.cli", "dev"),
                *("--data-dir", str(self.data_dir), "--port", "0", *settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C in the terminal is for us: we end it in order.
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises DemoFailed when `dev` has ended."""
        if self._process is None or self._process.returncode is not None:
            code = None if self._process is None else self._process.returncode
            raise DemoFailed(f"`dev` has ended by itself, with exit code {code}")

    async def url(self) -> str:
        """Where it is, once it is up. Raises DemoFailed."""
        deadline = time.monotonic() + _UP_SECONDS
        while not (self.data_dir / ENDPOINTS).exists():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"`dev` was not up within {_UP_SECONDS:g} s")
            await asyncio.sleep(_LOOK_SECONDS)
        return str(msgspec.json.decode((self.data_dir / ENDPOINTS).read_bytes())["http"])

    def token(self) -> str:
        """The token that `dev` made for its pods."""
        return (self.data_dir / "state-token").read_text().strip()

    def last_log_lines(self) -> list[str]:
        """What `dev` said last."""
        try:
            return self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            return []

    async def clear(self, signals: Signals) -> list[str]:
        """End and remove everything; returns what is left, in words."""
        left: list[str] = []
        if self._process is not None:
            await self._learn_processors()
            await self._stop(self._process, signals)
            try:
                await LocalCluster(self.data_dir).stop(immediate=True)
            except ClusterError as error:
                left.append(f"the local cluster: {error}")
            try:
                await asyncio.to_thread(EmbeddedPostgres(self.data_dir).destroy)
            except StoreError as error:
                left.append(f"the embedded PostgreSQL: {error}")
            # The client library keeps these outside of every data directory.
            for key in self.processor_ids:
                states.state_file(key).unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        if self.folder.exists():
            left.append(f"the folder {self.folder}")
        return left

    async def _stop(self, process: asyncio.subprocess.Process, signals: Signals) -> None:
        """In order, so that pods say goodbye; at once, when we are asked a second time."""
        if process.returncode is not None:
            return
        process.terminate()
        ended = asyncio.create_task(process.wait())
        urged = asyncio.create_task(signals.urged.wait())
        await asyncio.wait({ended, urged}, timeout=_STOP_SECONDS, return_when="FIRST_COMPLETED")
        urged.cancel()
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait({ended}, timeout=_URGED_SECONDS)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await ended

    async def _learn_processors(self) -> None:
        """Of pods that were created before we knew of them. Who cannot tell has none."""
        cluster = LocalCluster(self.data_dir)
        with contextlib.suppress(ClusterError, TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(_CLUSTER_SECONDS), cluster.observe() as pictures:
                picture = await anext(pictures)
                self.processor_ids |= {
                    pod.processor_id for pod in picture.pods.values() if pod.processor_id
                }
        await cluster.close()


# The story ------------------------------------------------------------------------------------


async def _story(wishes: DemoWishes, chosen: Cast, words: Words, stage: Stage) -> list[str]:
    """Tell it; returns what went wrong. Raises DemoFailed, NoAnswer, ClusterError, TimeoutError."""
    _introduce(words, chosen, stage)
    with words.waiting("starting a database, a cluster and a fleet"):
        await stage.start()
        url = await stage.url()
    timeout = aiohttp.ClientTimeout(total=_API_SECONDS)
    cluster = LocalCluster(stage.data_dir)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        fleet = DemoFleet(url, stage.token(), session, cluster)
        story = Story(words, chosen, stage, fleet, cluster)
        reading = asyncio.create_task(story.read())
        try:
            async with asyncio.timeout(_STORY_SECONDS):
                problems = await story.tell()
            if wishes.keep:
                _invite(words, stage, url, problems)
                await asyncio.Event().wait()
        finally:
            reading.cancel()
            await cluster.close()
    return problems


def _introduce(words: Words, chosen: Cast, stage: Stage) -> None:
    words.heading(f"An edge node dies: {chosen.node}")
    words.line(
        "The real orchestrator, with a PostgreSQL, a local cluster and example processors of"
    )
    words.line(f"its own on this machine, in {stage.folder}, which is removed at the end.")
    words.line("So that nobody waits for minutes, these times are SHORTER than their defaults:")
    words.line()
    rows = [
        (name, shown(name, value), shown(name, Settings.model_fields[name].default))
        for name, value in SHORT.items()
    ]
    words.table(("setting", "here", "default"), rows)
    if chosen.interval_seconds is not None:
        words.line(
            f"For {chosen.counter} its template asks for a checkpoint each"
            f" {chosen.interval_seconds:g} s; that counts."
        )
    words.line(
        f"The local cluster calls a node not ready after {Timing().not_ready_after_seconds:g} s"
        " without a sign of it; Kubernetes takes longer."
    )


def _invite(words: Words, stage: Stage, url: str, problems: list[str]) -> None:
    words.heading("It goes on running until Ctrl-C")
    if problems:
        words.line(f"FAILED: {'; '.join(problems)}", style="bold red")
    words.line(f"{url}   --data-dir {stage.data_dir}")
    words.line(f"dory-orchestrator events -f --data-dir {stage.data_dir}")


class Story:
    """What is told, from a fleet that comes up until its node is home again."""

    def __init__(
        self, words: Words, chosen: Cast, stage: Stage, fleet: DemoFleet, cluster: LocalCluster
    ) -> None:
        self._words = words
        self._node = chosen.node
        self._counter = chosen.counter
        self._interval_seconds = chosen.interval_seconds
        self._stage = stage
        self._fleet = fleet
        self._cluster = cluster
        self._readings: list[Reading] = []
        self._rows: list[dict[str, Any]] = []
        self._moves: list[dict[str, Any]] = []
        self._residents: list[str] = []
        self._seeded: dict[str, int] = {}
        self._told_moves: set[int] = set()
        self._created: set[str] = set()
        self._after = 0
        self._zero = 0.0
        self._last_beat: float | None = None
        self._suspect_at: float | None = None
        self._no_answers = 0

    async def read(self) -> None:
        """Ask the counter for its value, ten times a second, for as long as this runs."""
        while True:
            with contextlib.suppress(NoAnswer):
                found = await self._fleet.reading(self._counter)
                if found is not None:
                    self._readings.append(found)
            await asyncio.sleep(_LOOK_SECONDS)

    async def tell(self) -> list[str]:
        """From the beginning to the summary; returns what went wrong."""
        if not await self._wait("the fleet comes up", self._all_run, _READY_SECONDS):
            raise DemoFailed(f"not all processors were ready within {_READY_SECONDS:g} s")
        self._residents = sorted(r["name"] for r in self._rows if r["node_name"] == self._node)
        self._stage.processor_ids |= {UUID(row["id"]) for row in self._rows}
        await self._show_fleet()
        rate = await self._grow("Before", self._count_min())
        _, self._after = await self._fleet.events(self._after)

        killed_at = await self._kill()
        late = []
        if not await self._wait("the processors move", self._all_away, _AWAY_SECONDS):
            late = [f"the processors were not elsewhere within {_AWAY_SECONDS:g} s"]
        else:
            self._show_carried(self._observed(rate), killed_at)
            await self._grow("In the cloud")
            await self._restore()
            if not await self._wait("the processors come home", self._all_home, _HOME_SECONDS):
                late = [f"the processors were not at home within {_HOME_SECONDS:g} s"]
            else:
                self._show_returned(self._observed(rate))
                await self._grow("At home")
        observed = self._observed(rate)
        self._summarize(observed, killed_at)
        return [*late, *judge(observed)]

    # Waiting

    async def _wait(self, what: str, done: Callable[[], bool], limit_seconds: float) -> bool:
        """Look on until it is done; False: it takes too long."""
        deadline = time.monotonic() + limit_seconds
        with self._words.waiting(what):
            while True:
                await self._look()
                if done():
                    return True
                if time.monotonic() > deadline:
                    return False
                self._words.meanwhile(f"{what} · {self._counter_in_words()}")
                await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        """Take in what is new, and tell it. A few answers may fail to come."""
        self._stage.check()
        try:
            events, self._after = await self._fleet.events(self._after)
            self._rows = await self._fleet.processors()
            self._moves = await self._fleet.moves()
        except NoAnswer:
            self._no_answers += 1
            if self._no_answers > _FAILURES_MAX:
                raise
            return
        self._no_answers = 0
        if not self._zero:
            return
        for event in events:
            self._tell_event(event)
        await self._tell_seeded()

    def _counter_in_words(self) -> str:
        if not self._readings:
            return f"{self._counter} does not answer yet"
        last = self._readings[-1]
        age = time.time() - last.at
        said = f"{self._counter} = {last.count} on {last.node_name}"
        return said if age < 1 else f"{said}, silent for {age:.0f} s"

    def _all_run(self) -> bool:
        running = [row["state"] == "running" for row in self._rows]
        return bool(running) and all(running) and bool(self._readings)

    def _all_away(self) -> bool:
        return self._have_moved("failover", self._nodes_after("failover")) and (
            self._readings[-1].node_name != self._node
        )

    def _all_home(self) -> bool:
        return self._have_moved("failback", self._nodes_after("failback")) and (
            self._readings[-1].node_name == self._node
        )

    def _have_moved(self, kind: str, places: Mapping[str, str]) -> bool:
        ready = {row["name"] for row in self._rows if row["state"] == "running"}
        away = kind == "failover"
        return all(
            name in ready and (places.get(name, self._node if away else "") == self._node) != away
            for name in self._residents
        )

    def _nodes_after(self, kind: str) -> dict[str, str]:
        """Where each of our processors is by its last move of this kind, if that ended well."""
        last = {move["processor_name"]: move for move in self._moves if move["kind"] == kind}
        return {
            name: str(last[name]["to_node"])
            for name in self._residents
            if name in last and last[name]["outcome"] == "done"
        }

    # Telling

    def _tell_event(self, event: Mapping[str, Any]) -> None:
        kind, name = event["kind"], event["processor_name"]
        if name not in self._residents and event["node_name"] != self._node:
            return
        at = datetime.fromisoformat(event["at"]).timestamp()
        word, style = _STYLES.get(kind, (kind, "magenta"))
        self._words.step(at - self._zero, word, self._event_in_words(event), style)
        if kind == "create":
            self._created.add(name)
        if kind == "node_suspect":
            self._suspect_at = at
            self._explain(self._why_suspect(event["reason"]))
        if kind == "node_offline" and self._suspect_at is not None:
            self._explain(
                f"suspect for {at - self._suspect_at:.1f} s by then;"
                f" node_failure_grace is {SHORT['node_failure_grace']:g} s"
            )

    def _event_in_words(self, event: Mapping[str, Any]) -> str:
        kind, name, node = event["kind"], event["processor_name"], event["node_name"]
        detail = event["detail"]
        if kind == "failover":
            return f"{name}: replacement on {node}, epoch {event['epoch']}"
        if kind in ("create", "ready"):
            return f"{name}: on {node}, epoch {event['epoch']}"
        return f"{name or node}: {detail or event['reason']}"

    def _explain(self, text: str) -> None:
        self._words.line(f"{'':22}{text}", style="dim")

    def _why_suspect(self, reason: str) -> str:
        if "ready" in reason or "missing" in reason:
            return (
                "noticed by: the cluster, which heard nothing of the node for"
                f" {Timing().not_ready_after_seconds:g} s"
            )
        beat = "never" if self._last_beat is None else f"{self._last_beat - self._zero:+.1f} s"
        return (
            f"noticed by: the missing heartbeats (the last: {beat}; heartbeat_stale is"
            f" {SHORT['heartbeat_stale']:g} s)"
        )

    async def _tell_seeded(self) -> None:
        """The state that a move gives: when it was seen, and of the counter how much it is."""
        for move in self._moves:
            name, state_at = move["processor_name"], move["state_at"]
            if move["id"] in self._told_moves or state_at is None or name not in self._residents:
                continue
            # Of a planned move the state is final once the old pod has ended.
            if move["kind"] == "failback" and name not in self._created:
                continue
            self._told_moves.add(move["id"])
            seen = datetime.fromisoformat(state_at).timestamp() - self._zero
            said = f"{name}: given the state seen at {seen:+.1f} s"
            if name == self._counter and (count := await self._given(move)) is not None:
                self._seeded[move["kind"]] = count
                said += f": count {count}"
            self._words.step(time.time() - self._zero, "seeded", said, "bold cyan")

    async def _given(self, move: Mapping[str, Any]) -> int | None:
        """The counter's value in what the pod of before told or saved."""
        row = next(row for row in self._rows if row["name"] == self._counter)
        names = {r.pod_name for r in self._readings if r.node_name == move["from_node"]}
        return await self._fleet.seeded(row, sorted(names))

    async def _show_fleet(self) -> None:
        self._words.heading("The fleet")
        nodes = await self._fleet.nodes()
        rows = [
            (
                node["name"],
                node["kind"],
                "ready" if node["ready"] else "not ready",
                ", ".join(r["name"] for r in self._rows if r["node_name"] == node["name"]) or "-",
            )
            for node in nodes
        ]
        self._words.table(("node", "kind", "", "processors"), rows)

    def _count_min(self) -> int:
        """So high that a counter which starts from nothing is far below what may be lost.

        It is told ten times a second, and counts about as often.
        """
        interval = self._interval_seconds or SHORT["checkpoint_interval"]
        return round(_INTERVALS_MIN * interval / _LOOK_SECONDS)

    async def _grow(self, title: str, count_min: int = 0) -> float:
        """Show that the counter counts; returns its rate."""
        self._words.heading(f"{title}: {self._counter}, asked of its pod itself")
        start, shown_until = len(self._readings), time.monotonic()
        soonest = time.monotonic() + _GROW_SECONDS + _LOOK_SECONDS
        latest = time.monotonic() + _GROW_SECONDS_MAX
        while time.monotonic() < soonest or (
            self._readings[-1].count < count_min and time.monotonic() < latest
        ):
            await self._look()
            if time.monotonic() >= shown_until and len(self._readings) > start:
                last = self._readings[-1]
                self._words.line(
                    f"count {last.count} on {last.node_name} (pod {last.pod_name},"
                    f" epoch {last.epoch})"
                )
                shown_until += _SHOWN_SECONDS
            await asyncio.sleep(_LOOK_SECONDS)
        return rate_of(self._readings[start:])

    async def _kill(self) -> float:
        for node in await self._fleet.nodes():
            if node["name"] == self._node and node["last_heartbeat_at"] is not None:
                self._last_beat = datetime.fromisoformat(node["last_heartbeat_at"]).timestamp()
        self._words.heading(f"{self._node} dies (times: seconds since the kill)")
        self._zero = killed_at = time.time()
        await self._cluster.crash_node(self._node)
        self._words.step(
            0.0,
            "KILL",
            f"{self._node}: SIGKILL to every process of its {len(self._residents)} pods, and the"
            " node is gone; nobody says goodbye",
            "bold red",
        )
        return killed_at

    async def _restore(self) -> None:
        self._words.heading(f"{self._node} returns (times: seconds since then)")
        self._zero = time.time()
        await self._cluster.restore_node(self._node)
        self._words.step(0.0, "RETURN", f"{self._node}: is up again, empty", "bold green")

    def _show_carried(self, observed: Observed, killed_at: float) -> None:
        trip, allowed = observed.out, allowed_loss(observed)
        if trip.before is None or trip.after is None:
            return
        self._words.line()
        self._words.line(
            f"before  {trip.before.count}  last value of {trip.before.node_name}, read at"
            f" {trip.before.at - killed_at:+.1f} s"
        )
        if trip.seeded is not None and trip.lost is not None:
            self._words.line(
                f"given   {trip.seeded}  {trip.lost} counts lost, {trip.lost / observed.rate:.1f} s"
                f" at {observed.rate:.1f} counts a second"
            )
        self._words.line(
            f"after   {trip.after.count}  first value of {trip.after.node_name}, read at"
            f" {trip.after.at - killed_at:+.1f} s: {trip.after.count - trip.before.count:+d}"
        )
        if allowed is not None:
            self._words.line(
                f"allowed {allowed:.0f}  counts may be lost: RPO at most {trip.rpo_seconds:.1f} s, and"
                f" {SLACK_SECONDS} s as a checkpoint may be late"
            )

    def _show_returned(self, observed: Observed) -> None:
        trip = observed.back
        if trip.before is None or trip.after is None:
            return
        self._words.line()
        self._words.line(
            f"before  {trip.before.count}  last value of {trip.before.node_name}, read at"
            f" {trip.before.at - self._zero:+.1f} s"
        )
        if trip.seeded is not None and trip.lost is not None:
            said = f"{trip.lost} counts lost" if trip.lost else "nothing was lost on the way home"
            self._words.line(f"given   {trip.seeded}  {said}")
        self._words.line(
            f"after   {trip.after.count}  first value of {trip.after.node_name}, read at"
            f" {trip.after.at - self._zero:+.1f} s: {trip.after.count - trip.before.count:+d}"
        )

    # In the end

    def _observed(self, rate: float) -> Observed:
        stays = [list(group) for _, group in groupby(self._readings, key=lambda r: r.pod_name)]
        out, back = Trip(), Trip()
        if len(stays) >= 2:
            out = self._trip("failover", stays[0], stays[1])
        elif stays:
            out = self._trip("failover", stays[0], [])
        if len(stays) >= 3:
            back = self._trip("failback", stays[-2], stays[-1])
        elif len(stays) == 2:
            back = self._trip("failback", stays[1], [])
        return Observed(
            node=self._node,
            counter=self._counter,
            rate=rate,
            residents=self._residents,
            out=out,
            back=back,
            away=self._nodes_after("failover"),
            home=self._nodes_after("failback"),
        )

    def _trip(self, kind: str, before: list[Reading], after: list[Reading]) -> Trip:
        moves = [
            move
            for move in self._moves
            if move["processor_name"] == self._counter and move["kind"] == kind
        ]
        last = moves[-1] if moves else {}
        return Trip(
            before=before[-1],
            after=after[0] if after else None,
            seeded=self._seeded.get(kind),
            rto_seconds=last.get("rto_seconds"),
            rpo_seconds=last.get("rpo_seconds"),
        )

    def _summarize(self, observed: Observed, killed_at: float) -> None:
        self._words.heading("Summary")
        out, back = observed.out, observed.back
        words = zip(*(_trip_in_words(trip) for trip in (out, back)), strict=True)
        rows = [(title, *pair) for title, pair in zip(_TRIP_TITLES, words, strict=True)]
        self._words.table(("", "the node was killed", "the way home"), rows)
        self._words.line()
        away = sum(node != self._node for node in observed.away.values())
        home = sum(node == self._node for node in observed.home.values())
        count = len(observed.residents)
        self._words.line(f"{away} of {count} processors of {self._node} moved, {home} came home")
        self._words.line("RTO counts from the last sign of life that the orchestrator had")
        self._words.line(f"in all {time.time() - killed_at:.0f} s since the kill")


_TRIP_TITLES = (
    "from, to",
    "epoch",
    "count read last before",
    "count given",
    "count read first after",
    "counts lost",
    "time between these two readings",
    "RTO, says the orchestrator",
    "RPO, says the orchestrator",
)


def _trip_in_words(trip: Trip) -> tuple[str, ...]:
    before, after = trip.before, trip.after
    return (
        " -> ".join(r.node_name if r else "?" for r in (before, after)),
        " -> ".join(str(r.epoch) if r else "?" for r in (before, after)),
        _or_nothing(None if before is None else before.count),
        _or_nothing(trip.seeded),
        _or_nothing(None if after is None else after.count),
        _or_nothing(trip.lost),
        _seconds(trip.silent_seconds),
        _seconds(trip.rto_seconds),
        "-" if trip.rpo_seconds is None else f"at most {_seconds(trip.rpo_seconds)}",
    )


def _or_nothing(value: int | None) -> str:
    return "-" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"

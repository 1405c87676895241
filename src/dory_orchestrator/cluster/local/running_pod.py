"""One pod on its node: its container, restarted in place until the pod ends."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dory_orchestrator.cluster.local.container import Container, group_gone, trim_log
from dory_orchestrator.cluster.local.environment import WORKING_DIR, Surroundings, environment_of
from dory_orchestrator.cluster.local.fronts import Front, Slots
from dory_orchestrator.cluster.local.messages import Timing
from dory_orchestrator.cluster.local.places import Places
from dory_orchestrator.cluster.local.probing import Caller, ProbeFailed, probe
from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.model import Pod, PodPhase, PodSpec
from dory_orchestrator.logs import get_logger

_log = get_logger(__name__)

_EXTRA_SECONDS = 2.0
"""What a container gets after SIGTERM when its hook used up the grace (as a kubelet does)."""
_SLOT_SECONDS = 5.0
_LOG_LOOK_SECONDS = 5.0


@dataclass(slots=True)
class Machine:
    """What all pods of this machine share. The token is that of pods to come."""

    places: Places
    slots: Slots
    caller: Caller
    timing: Timing
    state_token: str | None = None


class RunningPod:
    """What the kubelet knows of a pod, and does for it. `pod` is the present report."""

    def __init__(
        self,
        pod: Pod,
        spec: PodSpec,
        machine: Machine,
        orchestrator_url: str,
        on_change: Callable[[], None],
    ) -> None:
        self.pod = pod
        self.spec = spec
        self._machine = machine
        self._orchestrator_url = orchestrator_url
        self._on_change = on_change
        self._ending = asyncio.Event()
        self._powered = asyncio.Event()
        self._powered.set()
        self._dark = False
        self._front: Front | None = None
        self._container: Container | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._grace_seconds = float(spec.grace_seconds)
        self._environment: dict[str, str] = {}
        timing = machine.timing
        self._backoff = Backoff(
            timing.crash_first_seconds,
            timing.crash_most_seconds,
            timing.crash_forgotten_after_seconds,
        )
        self._failures = 0
        self.ended = False
        self.pid: int | None = None
        self._task = asyncio.create_task(self._live())

    # What is done to it ----------------------------------------------------------------

    def terminate(self, grace_seconds: float | None = None) -> None:
        """End it for good, gracefully. Nothing happens when it is ending already."""
        if not self._ending.is_set():
            if grace_seconds is not None:
                self._grace_seconds = min(self._grace_seconds, grace_seconds)
            self._ending.set()
            self._say(ready=False)
            self._stop_soon()

    def kill(self) -> None:
        """End it for good, at once."""
        self._grace_seconds = 0.0
        self._ending.set()
        self.crash()

    def crash(self) -> None:
        """Kill its processes, as if they had died by themselves."""
        if self._container is not None:
            self._container.kill()

    def power_off(self) -> None:
        """Its node loses power."""
        self._powered.clear()
        self.crash()

    def power_on(self) -> None:
        """Its node is back: a container that died is started again."""
        self._powered.set()

    def darken(self) -> None:
        """Its address answers nothing."""
        self._dark = True
        if self._front is not None:
            self._front.darken()

    def lighten(self) -> None:
        """The end of `darken`."""
        self._dark = False
        if self._front is not None:
            self._front.lighten()

    async def gone(self) -> None:
        """Wait until it has ended."""
        await asyncio.wait([self._task])

    # What it does by itself ------------------------------------------------------------

    async def _live(self) -> None:
        try:
            if not self.spec.command and not self.spec.args:
                self._say(
                    waiting_reason="CreateContainerConfigError",
                    message="the local cluster runs no images: it needs container.command",
                )
                await self._ending.wait()
            elif await self._prepare():
                await self._run_containers()
        except Exception:  # noqa: BLE001 - of ours: one pod must not take the others along
            _log.exception("a pod broke", pod=self.pod.name)
            self._say(waiting_reason="CreateContainerError", message="see the cluster's log")
            await self._ending.wait()
        finally:
            self._release()

    def _release(self) -> None:
        if self._container is not None:
            self._container.kill()
        if self._front is not None:
            self._front.close()
        self.ended = True
        self._on_change()

    async def _prepare(self) -> bool:
        """An address, folders and the environment; False when the pod ended before."""
        while not self._ending.is_set():
            try:
                slot = self._machine.slots.take()
                (self._folder / "work").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self._say(waiting_reason="CreatePodSandboxError", message=str(error))
                await _happened(self._ending, _SLOT_SECONDS)
                continue
            self._front = Front(slot, ("127.0.0.1", slot.real_port))
            await self._front.open()
            if self._dark:
                self._front.darken()
            self._environment = environment_of(self.spec, self._surroundings(slot.ip))
            self._say(ip=slot.ip, address=slot.address, waiting_reason="ContainerCreating")
            return True
        return False

    @property
    def _folder(self) -> Path:
        return self._machine.places.pod_folder(self.pod.name, self.pod.uid)

    def _surroundings(self, ip: str) -> Surroundings:
        assert self.pod.node_name is not None  # noqa: S101 - only pods with a place get here
        return Surroundings(
            uid=self.pod.uid,
            node_name=self.pod.node_name,
            ip=ip,
            health_port=self._real_port,
            orchestrator_url=self._orchestrator_url,
            state_token=self._machine.state_token,
            mark=str(self._machine.places.data_dir),
            # Not resolved: the Python of a virtual environment is a link out of it.
            programs=str(Path(sys.executable).parent),
            parent=os.environ,
        )

    @property
    def _real_port(self) -> int:
        assert self._front is not None  # noqa: S101 - there is one before there is a container
        return self._front.slot.real_port

    async def _run_containers(self) -> None:
        while not self._ending.is_set():
            ran_seconds = await self._run_container()
            if not self._powered.is_set():
                await _either(self._powered, self._ending)
                self._failures = 0
            elif not self._ending.is_set():
                self._failures = self._backoff.count(self._failures, ran_seconds)
                await self._wait_after_crash()
            if not self._ending.is_set():
                self._say(restart_count=self.pod.restart_count + 1)

    async def _wait_after_crash(self) -> None:
        if self._failures <= 1:
            return
        delay_seconds = self._backoff.delay_seconds(self._failures - 1)
        if self.pod.waiting_reason is None:
            self._say(
                waiting_reason="CrashLoopBackOff",
                message=f"back-off {delay_seconds:g} s: its container ended {self._failures} times in a row",
            )
        await _happened(self._ending, delay_seconds)
        await _either(self._powered, self._ending)

    async def _run_container(self) -> float:
        """From start to end; returns how long it ran, 0 when it could not be started."""
        try:
            container = await self._start()
        except (OSError, ValueError) as error:  # no such program; a zero byte in its name
            self._say(waiting_reason="RunContainerError", message=str(error))
            return 0.0
        self._container, self.pid = container, container.pid
        self._say(
            phase=PodPhase.RUNNING,
            started_at=container.started_at,
            waiting_reason=None,
            message=None,
        )
        # While it was being started, its end may have been decided.
        if not self._powered.is_set():
            container.kill()
        elif self._ending.is_set():
            self._stop_soon()
        await self._attend(container)
        return time.time() - container.started_at

    async def _start(self) -> Container:
        # A relative program is looked up on the PATH of the environment.
        folder = Path(self.spec.environment.get(WORKING_DIR, self._folder / "work"))
        return await Container.start(
            [*self.spec.command, *self.spec.args],
            self._environment,
            folder=folder,
            log=self._folder / "log",
            places=self._machine.places,
        )

    async def _attend(self, container: Container) -> None:
        """Probe it and keep its log short until it ends, and report its end."""
        beside = [
            asyncio.create_task(self._probe(container)),
            asyncio.create_task(self._keep_log_short()),
        ]
        code = await container.exit_code()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await group_gone(container)
        self._container, self.pid = None, None
        self._say(
            ready=False,
            started_at=None,
            exit_code=code,
            exit_reason="Completed" if code == 0 else "Error",
        )

    async def _probe(self, container: Container) -> None:
        try:
            await probe(self._machine.caller, self._real_port, self.spec.probes, self._on_ready)
        except ProbeFailed as failure:
            self._say(ready=False, message=str(failure))
            await self._stop(container)

    def _on_ready(self, ready: bool) -> None:
        # A pod that was told to end takes no more work, whatever it says.
        if ready != self.pod.ready and not (ready and self._ending.is_set()):
            self._say(ready=ready)

    async def _keep_log_short(self) -> None:
        while True:
            await asyncio.sleep(_LOG_LOOK_SECONDS)
            await asyncio.to_thread(trim_log, self._folder / "log")

    def _stop_soon(self) -> None:
        if self._container is not None and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self._container))

    async def _stop(self, container: Container) -> None:
        """GET /prestop, then SIGTERM, then SIGKILL, within the grace."""
        if self._grace_seconds <= 0:
            container.kill()
            return
        deadline = time.monotonic() + self._grace_seconds
        hook = self._machine.caller.ask(self._real_port, "/prestop", self._grace_seconds)
        await _first(hook, container.exit_code())
        container.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(deadline - time.monotonic(), _EXTRA_SECONDS)):
                await container.exit_code()
        container.kill()

    def _say(self, **changes: Any) -> None:
        if "ready" in changes and changes["ready"] != self.pod.ready:
            changes["ready_changed_at"] = time.time()
        self.pod = replace(self.pod, **changes)
        self._on_change()


async def _happened(event: asyncio.Event, timeout_seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await event.wait()


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    await _first(one.wait(), other.wait())


async def _first(*work: Any) -> None:
    """Return when the first of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

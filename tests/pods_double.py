"""Pods without sockets, for whoever asks them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dory_orchestrator.ports import PodAnswer, PodRefused, PodUnreachable

WELL = PodAnswer(ready=True, healthy=True, message="ready and healthy", sdk_version="0.0.6")


@dataclass
class FakeProgram:
    """A program built with the client library: its state, as `/state` gives and takes it.

    `ready_at` None: it has not restored its state yet. `answer` is answered in place of it;
    `refusal` and `put_refusal` are raised. `on_put` is called after a state was put.
    """

    pod_name: str
    state: dict[str, Any] = field(default_factory=dict)
    ready_at: float | None = 0.0
    clock: Callable[[], float] = lambda: 0.0
    token: str | None = None
    answer: bytes | None = None
    refusal: Exception | None = None
    put_refusal: Exception | None = None
    on_put: Callable[[], None] = lambda: None
    could_read: bool | None = None
    gets: list[float] = field(default_factory=list)
    puts: list[Any] = field(default_factory=list)

    def get(self) -> bytes:
        if self.answer is not None:
            return self.answer
        now = self.clock()
        moment = datetime.fromtimestamp(int(now), UTC)
        answer = {
            "pod_name": self.pod_name,
            "captured_at": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "data": self.state,
            "uptime_seconds": 0.0 if self.ready_at is None else now - self.ready_at,
        }
        return json.dumps(answer).encode()

    def put(self, body: bytes) -> None:
        data = json.loads(body)["data"]
        self.puts.append(data)
        # As `restore_state` does: attributes that the body lacks keep their values.
        self.state = self.state | data
        self.on_put()


class FakePods:
    """Answers by address: what `answers` says, after `delays_seconds`; others are unreachable.

    `asked` tells when and whom, `at_once_max` how many waited at the same time. `programs`
    have the states.
    """

    def __init__(self) -> None:
        self.answers: dict[str, PodAnswer] = {}
        self.programs: dict[str, FakeProgram] = {}
        self.delays_seconds: dict[str, float] = {}
        self.asked: list[tuple[float, str]] = []
        self.at_once_max = 0
        self._at_once = 0

    async def ask(self, address: str, *, timeout_seconds: float) -> PodAnswer:
        self.asked.append((asyncio.get_running_loop().time(), address))
        await self._wait(address, timeout_seconds)
        if address not in self.answers:
            raise PodUnreachable("connection refused")
        return self.answers[address]

    async def get_state(
        self, address: str, *, token: str | None, timeout_seconds: float, bytes_max: int
    ) -> bytes:
        program = await self._program(address, token, timeout_seconds)
        program.gets.append(asyncio.get_running_loop().time())
        if program.refusal is not None:
            raise program.refusal
        body = program.get()
        if len(body) > bytes_max:
            raise PodRefused(413, f"more than {bytes_max} bytes", final=True)
        return body

    async def put_state(
        self, address: str, body: bytes, *, token: str | None, timeout_seconds: float
    ) -> None:
        program = await self._program(address, token, timeout_seconds)
        if program.put_refusal is not None:
            raise program.put_refusal
        program.put(body)

    async def read_its_state(self, address: str, *, timeout_seconds: float) -> bool | None:
        program = self.programs.get(address)
        return None if program is None else program.could_read

    async def _program(
        self, address: str, token: str | None, timeout_seconds: float
    ) -> FakeProgram:
        await self._wait(address, timeout_seconds)
        program = self.programs.get(address)
        if program is None:
            raise PodUnreachable("connection refused")
        if program.token is not None and token != program.token:
            raise PodRefused(401, "Unauthorized", final=True)
        return program

    async def _wait(self, address: str, timeout_seconds: float) -> None:
        self._at_once += 1
        self.at_once_max = max(self.at_once_max, self._at_once)
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.sleep(self.delays_seconds.get(address, 0.0))
        except TimeoutError as error:
            raise PodUnreachable(f"no answer within {timeout_seconds:g} s") from error
        finally:
            self._at_once -= 1

    def moments(self, address: str) -> list[float]:
        """When this one was asked."""
        return [at for at, whom in self.asked if whom == address]

"""An orchestrator that is killed at one chosen call, with nothing after it done any more."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple


class Crossing(NamedTuple):
    """Right before or right after the `number`th call of a name was carried out; after it, its
    answer is not heard any more."""

    name: str
    number: int
    side: str

    def __str__(self) -> str:
        return f"{self.side} {self.name} {self.number}"


class Killer:
    """Kills at a crossing, if one is given; else notes the crossings. Counts while `armed`."""

    def __init__(self, at: Crossing | None = None) -> None:
        self.at = at
        self.armed = False
        self.crossed: list[Crossing] = []
        self.struck = asyncio.Event()
        self._numbers: Counter[str] = Counter()

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Carry a call out, unless the caller is dead by then."""
        if self.struck.is_set():
            await _for_ever()
        if not self.armed:
            return await call()
        self._numbers[name] += 1
        number = self._numbers[name]
        await self._cross(Crossing(name, number, "before"))
        answer = await call()
        await self._cross(Crossing(name, number, "after"))
        return answer

    async def _cross(self, crossing: Crossing) -> None:
        self.crossed.append(crossing)
        if crossing == self.at:
            self.struck.set()
        if self.struck.is_set():
            await _for_ever()


class Mortal:
    """Stands before a store, a cluster or pods; calls of these names are crossings."""

    def __init__(self, target: object, killer: Killer, *names: str) -> None:
        self._target, self._killer, self._names = target, killer, frozenset(names)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in self._names:
            return found

        async def call(*given: Any, **named: Any) -> Any:
            async def carry_out() -> Any:
                return await found(*given, **named)

            return await self._killer.around(name, carry_out)

        return call


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()

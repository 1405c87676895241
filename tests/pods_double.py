"""Pods without sockets, for whoever asks them."""

import asyncio

from dory_orchestrator.ports import PodAnswer, PodUnreachable

WELL = PodAnswer(ready=True, healthy=True, message="ready and healthy", sdk_version="0.0.6")


class FakePods:
    """Answers by address: what `answers` says, after `delays_seconds`; others are unreachable.

    `asked` tells when and whom, `at_once_max` how many waited at the same time.
    """

    def __init__(self) -> None:
        self.answers: dict[str, PodAnswer] = {}
        self.delays_seconds: dict[str, float] = {}
        self.asked: list[tuple[float, str]] = []
        self.at_once_max = 0
        self._at_once = 0

    async def ask(self, address: str, *, timeout_seconds: float) -> PodAnswer:
        self.asked.append((asyncio.get_running_loop().time(), address))
        self._at_once += 1
        self.at_once_max = max(self.at_once_max, self._at_once)
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.sleep(self.delays_seconds.get(address, 0.0))
        except TimeoutError as error:
            raise PodUnreachable(f"no answer within {timeout_seconds:g} s") from error
        finally:
            self._at_once -= 1
        if address not in self.answers:
            raise PodUnreachable("connection refused")
        return self.answers[address]

    def moments(self, address: str) -> list[float]:
        """When this one was asked."""
        return [at for at, whom in self.asked if whom == address]

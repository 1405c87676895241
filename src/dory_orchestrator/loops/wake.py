"""Waking a loop: events only wake it, state decides."""

import asyncio


class Wake:
    """Set from anywhere; taken by one loop, which then looks at everything."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._since: float | None = None

    def set(self) -> None:
        """Wake the loop, now or when its turn is over."""
        if self._since is None:
            self._since = asyncio.get_running_loop().time()
        self._event.set()

    def take(self) -> float | None:
        """Begin a turn: since when it has been wanted, on the loop's clock; None if it was not.

        What comes after this leads to another turn.
        """
        self._event.clear()
        since, self._since = self._since, None
        return since

    async def wait(self, seconds: float) -> None:
        """Sleep until set, or for so long."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            return

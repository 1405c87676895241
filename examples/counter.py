"""A counter that survives the death of its node: ten steps a second, with a short history.

    python counter.py        alone; or as in fleet.yaml, under the orchestrator

Settings: STEP (1) is what is added each time.
"""

import time
from typing import Any

from dory import BaseProcessor, DoryApp, ExecutionContext
from heartbeats import Heartbeats

HISTORY_LENGTH = 30


class Counter(BaseProcessor):
    """The state is one dict that is replaced, never changed.

    The SDK calls get_state() in a thread of its own, beside run(). A dict that run() changed at
    that moment would be read half old and half new, or fail with "changed size during iteration".
    """

    def __init__(self, context: ExecutionContext) -> None:
        super().__init__(context)
        self.step = int(context.config().get("STEP", "1"))
        self.state: dict[str, Any] = {"count": 0, "history": []}

    async def startup(self) -> None:
        self.heartbeats = Heartbeats(self)
        await self.heartbeats.start()

    async def run(self) -> None:
        # A short pause: the loop looks at the shutdown flag ten times a second.
        async for turn in self.run_loop(interval=0.1):
            self.state = self.counted(self.state, note=turn % 10 == 0)
        await self.heartbeats.stop()

    def counted(self, state: dict[str, Any], *, note: bool) -> dict[str, Any]:
        """The next state. A history with an end: a state must stay below 1 MB."""
        count = state["count"] + self.step
        history = state["history"]
        if note:
            history = [*history, {"at": round(time.time(), 1), "count": count}]
        return {"count": count, "history": history[-HISTORY_LENGTH:]}

    def get_state(self) -> dict[str, Any]:
        return self.state

    async def restore_state(self, state: dict[str, Any]) -> None:
        # Also called while run() runs. What is missing keeps its value.
        self.state = self.state | state


if __name__ == "__main__":
    DoryApp().run(Counter)

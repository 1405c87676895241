"""A counter that writes down what it counts, where neither the orchestrator nor the client library
ever looks: what it says decides what was lost.

It counts about ten times a second, from what it was given. Each count is a line in the file of its
processor, in the folder that RECORD_FOLDER names: wall clock, monotonic clock of the machine,
count, a word that each start of the process makes anew, pod. One write a line, so that two that
run beside each other do not mix theirs.
"""

import os
import secrets
import time
from pathlib import Path
from typing import Any

from dory import BaseProcessor, DoryApp, ExecutionContext
from heartbeats import Heartbeats  # type: ignore[import-not-found]  # lies beside it


class Recorder(BaseProcessor):
    def __init__(self, context: ExecutionContext) -> None:
        super().__init__(context)
        self.state: dict[str, Any] = {"count": 0}
        self.incarnation = secrets.token_hex(8)
        path = Path(os.environ["RECORD_FOLDER"]) / context.processor_id
        self.record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def startup(self) -> None:
        self.heartbeats = Heartbeats(self)
        await self.heartbeats.start()

    async def run(self) -> None:
        async for _ in self.run_loop(interval=0.1):
            # What is in the record may be in a state that was taken, and never the other way round.
            self.state = {"count": self.state["count"] + 1}
            self.write_down(self.state["count"])
        await self.heartbeats.stop()

    def write_down(self, count: int) -> None:
        words = (time.time(), time.monotonic(), count, self.incarnation, os.environ["POD_NAME"])
        os.write(self.record, (" ".join(map(str, words)) + "\n").encode())

    def get_state(self) -> dict[str, Any]:
        return self.state

    async def restore_state(self, state: dict[str, Any]) -> None:
        self.state = self.state | state


if __name__ == "__main__":
    DoryApp().run(Recorder)

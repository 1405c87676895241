"""A thermometer, simulated: what it has learnt (mean, least, most) must survive a move.

Settings: BASE_CELSIUS from the sensor's config (else from its latitude), SPREAD_CELSIUS (2).
"""

import random
from dataclasses import asdict, dataclass, replace
from typing import Any

from dory import BaseProcessor, DoryApp, ExecutionContext
from heartbeats import Heartbeats


@dataclass(frozen=True)
class Readings:
    """All readings so far, in a few numbers. Frozen, so get_state() may take it at any time."""

    count: int = 0
    mean: float = 0.0
    least: float | None = None
    most: float | None = None

    def with_one_more(self, celsius: float) -> "Readings":
        count = self.count + 1
        return Readings(
            count=count,
            mean=self.mean + (celsius - self.mean) / count,
            least=celsius if self.least is None else min(self.least, celsius),
            most=celsius if self.most is None else max(self.most, celsius),
        )


class Thermometer(BaseProcessor):
    def __init__(self, context: ExecutionContext) -> None:
        super().__init__(context)
        settings = context.config()
        # config() holds no DORY_ variables: those are asked for by name.
        latitude = float(context.get_env("DORY_LATITUDE") or 50)
        self.base = float(settings.get("BASE_CELSIUS", 30 - 0.4 * abs(latitude)))
        self.spread = float(settings.get("SPREAD_CELSIUS", "2"))
        self.readings = Readings()

    async def startup(self) -> None:
        self.heartbeats = Heartbeats(self)
        await self.heartbeats.start()

    async def run(self) -> None:
        async for _ in self.run_loop(interval=0.25):
            celsius = round(random.gauss(self.base, self.spread), 2)
            self.readings = self.readings.with_one_more(celsius)
        await self.heartbeats.stop()

    def get_state(self) -> dict[str, Any]:
        return asdict(self.readings)

    async def restore_state(self, state: dict[str, Any]) -> None:
        known = {name: state[name] for name in asdict(self.readings) if name in state}
        self.readings = replace(self.readings, **known)


if __name__ == "__main__":
    DoryApp().run(Thermometer)

"""What happened to a fleet of programs that write down what they count (`recorder.py`), and whether
it may have happened."""

import asyncio
import json
import sys
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import aiohttp
from tests.acceptance.real import eventually
from tests.acceptance.record import Loss
from tests.acceptance.test_fleet import Fleet
from tests.patience import patient

_LOOK_SECONDS = 0.25
LATE_SECONDS = patient(0.2)
"""How much later than an interval after the one before it a checkpoint may be taken: a pod is
visited at the next tick of a tenth of a second, and that takes milliseconds."""
SETTLED_SECONDS = 15.0
"""A wait, not a promise: for a visit to who has just begun."""
_ACCEPTED = """
    CREATE TABLE public.accepted_checkpoints (
        number bigserial, processor_id uuid, epoch bigint, incarnation bigint, sequence bigint,
        pod_name text, body bytea, accepted_at double precision
    );
    CREATE FUNCTION public.note_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.accepted_checkpoints
            (processor_id, epoch, incarnation, sequence, pod_name, body, accepted_at)
        VALUES (NEW.processor_id, NEW.epoch, NEW.incarnation, NEW.sequence, NEW.pod_name, NEW.body,
            extract(epoch FROM clock_timestamp()));
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_checkpoint AFTER INSERT OR UPDATE OF sequence
        ON orchestrator.checkpoints FOR EACH ROW EXECUTE FUNCTION public.note_checkpoint();
"""
_KEPT = """
    SELECT extract(epoch FROM c.confirmed_at)::float8
    FROM orchestrator.ownership o
    JOIN orchestrator.incarnations i ON i.processor_id = o.processor_id
        AND i.epoch = o.epoch AND i.pod_uid = o.pod_uid AND i.given_at IS NOT NULL
    JOIN orchestrator.checkpoints c ON c.processor_id = o.processor_id
        AND c.epoch = i.epoch AND c.incarnation = i.number AND c.pod_uid = i.pod_uid
    WHERE o.processor_id = $1::text::uuid
"""
"""When the newest checkpoint of the present incarnation was asked for."""


class Seen(NamedTuple):
    """An owner."""

    pod_uid: str
    epoch: int


class Accepted(NamedTuple):
    """A checkpoint. `at` is by the wall clock of the database, which is on this machine."""

    place: tuple[int, int, int]
    counted: int
    at: float


@dataclass
class History:
    """Looks at owners all the time; `check` compares what the programs wrote down with what was
    stored and stated."""

    fleet: Fleet
    seen: dict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))

    async def watch(self) -> None:
        """Look until cancelled; what does not answer right now is looked at again later."""
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, AssertionError, OSError):
                await self._look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        async with asyncio.timeout(patient(2)):
            rows = await self.fleet.rows()
        await asyncio.gather(*(self._look_at(row) for row in rows.values()))

    async def _look_at(self, row: dict[str, Any]) -> None:
        if row["state"] != "running" or row["pod_ip"] is None:
            return
        with suppress(aiohttp.ClientError, TimeoutError, AssertionError, OSError):
            async with asyncio.timeout(patient(1)):
                # Of a database that was just restored the rows tell of pods that are not there.
                await self.fleet.state(row)
            self.seen[row["id"]].append(Seen(row["pod_uid"], row["epoch"]))

    async def check(self) -> None:
        """Fails with what was broken."""
        assert any(len(seen) > 1 for seen in self.seen.values()), "nothing was seen"
        for processor in self.seen:
            # What is to be given to who has begun last was given by then.
            await eventually(partial(settled, self.fleet, processor), SETTLED_SECONDS)
        await self._one_owner_of_each_epoch()
        await self._no_accepted_checkpoint_lost()
        await self._no_more_lost_than_stated()
        for processor in self.seen:
            assert self.fleet.record(processor).set_back() == [], processor

    async def _one_owner_of_each_epoch(self) -> None:
        twice = await self.fleet.fetch(
            "SELECT processor_id, epoch FROM orchestrator.events"
            " WHERE kind IN ('create', 'failover') GROUP BY 1, 2 HAVING count(*) > 1"
        )
        assert twice == []
        for processor, seen in self.seen.items():
            owners = defaultdict(set)
            for each in seen:
                owners[each.epoch].add(each.pod_uid)
            assert all(len(uids) == 1 for uids in owners.values()), (processor, owners)
            epochs = [each.epoch for each in seen]
            assert epochs == sorted(epochs), (processor, epochs)

    async def _no_accepted_checkpoint_lost(self) -> None:
        """None is replaced by an older one, and whoever begins goes on from the newest, or from
        what is newer than that."""
        for processor, history in (await self._accepted()).items():
            for before, after in pairwise(history):
                assert before.place < after.place, (processor, before, after)
                assert before.counted <= after.counted, (processor, before, after)
            for loss in self.fleet.record(processor).losses():
                stored = [each.counted for each in history if each.at < loss.before.wall_at]
                assert loss.base >= max(stored, default=0), (processor, loss)

    async def _accepted(self) -> dict[str, list[Accepted]]:
        rows = await self.fleet.fetch(
            "SELECT processor_id::text AS id, epoch, incarnation, sequence, body, accepted_at"
            " FROM public.accepted_checkpoints ORDER BY number"
        )
        accepted = defaultdict(list)
        for row in rows:
            count = json.loads(zlib.decompress(row["body"]))["count"]
            place = (row["epoch"], row["incarnation"], row["sequence"])
            accepted[row["id"]].append(Accepted(place, count, row["accepted_at"]))
        return accepted

    async def _no_more_lost_than_stated(self) -> None:
        """A move without a figure knew of no state: everything is lost then, and said so."""
        rows = await self.fleet.fetch(
            "SELECT processor_id::text AS id, old_uid, rpo_seconds FROM orchestrator.moves"
            " WHERE outcome = 'done' AND rpo_seconds IS NOT NULL"
        )
        names = await self._pod_names()
        for row in rows:
            for loss in self.fleet.record(row["id"]).losses():
                if loss.before.pod == names.get(row["old_uid"]) != loss.after.pod:
                    assert loss.seconds <= row["rpo_seconds"] + LATE_SECONDS, (loss, row)

    async def _pod_names(self) -> dict[str, str]:
        """By uid, of pods that were ever seen to be owners."""
        rows = await self.fleet.fetch(
            "SELECT DISTINCT pod_uid, pod_name FROM orchestrator.checkpoints"
            " UNION SELECT pod_uid, pod_name FROM orchestrator.events WHERE pod_name IS NOT NULL"
        )
        return {row["pod_uid"]: row["pod_name"] for row in rows}


@asynccontextmanager
async def recorded(fleet: Fleet) -> AsyncIterator[History]:
    """Record what happens inside the block, and check it at its end."""
    await fleet.execute(_ACCEPTED)
    history = History(fleet)
    watching = asyncio.create_task(history.watch())
    try:
        yield history
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    await history.check()


async def settled(fleet: Fleet, processor_id: str) -> bool:
    """Whether a checkpoint of who began last is stored: by then it was given what it is to be
    given, and nothing that comes later is of its start."""
    kept = await fleet.fetch(_KEPT, processor_id)
    record = fleet.record(processor_id)
    if not kept or record.last is None:
        return False
    began = record.first_of(record.incarnations[-1])
    return bool(kept[0][0] > began.wall_at)


async def lost_since(fleet: Fleet, name: str, since: float) -> Loss:
    """What the worst start or giving since a moment has cost the program, by its own record, once
    it works on. There must have been one."""
    processor_id = (await fleet.rows())[name]["id"]
    await eventually(lambda: settled(fleet, processor_id), SETTLED_SECONDS)
    worst = fleet.record(processor_id).worst(since)
    assert worst is not None, "nothing began anew since"
    sys.stderr.write(f"{name}: {worst}\n")
    return worst

"""What happened to a fleet of counters, and whether it may have happened."""

import asyncio
import json
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import aiohttp
from tests.acceptance.test_fleet import Fleet
from tests.patience import patient

_LOOK_SECONDS = 0.25
_PER_SECOND = 10.0
"""How fast the counters of the examples count at most."""
_ACCEPTED = """
    CREATE TABLE public.accepted_checkpoints (
        number bigserial, processor_id uuid, epoch bigint, incarnation bigint, sequence bigint,
        pod_name text, body bytea
    );
    CREATE FUNCTION public.note_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.accepted_checkpoints
            (processor_id, epoch, incarnation, sequence, pod_name, body)
        VALUES (NEW.processor_id, NEW.epoch, NEW.incarnation, NEW.sequence, NEW.pod_name, NEW.body);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_checkpoint AFTER INSERT OR UPDATE OF sequence
        ON orchestrator.checkpoints FOR EACH ROW EXECUTE FUNCTION public.note_checkpoint();
"""


class Seen(NamedTuple):
    """An owner, and what it had counted."""

    pod_uid: str
    epoch: int
    restart_count: int
    counted: int


@dataclass
class History:
    """Looks at owners and their counters all the time; `check` compares it with what was stored
    and stated."""

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
                count = (await self.fleet.state(row))["count"]
            found = Seen(row["pod_uid"], row["epoch"], row["restart_count"], count)
            self.seen[row["id"]].append(found)

    async def check(self) -> None:
        """Fails with what was broken."""
        assert any(len(seen) > 1 for seen in self.seen.values()), "nothing was seen"
        await self._one_owner_of_each_epoch()
        await self._no_accepted_checkpoint_lost()
        await self._no_more_lost_than_stated()

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
        """None is replaced by an older one, and each pod goes on from the newest."""
        rows = await self.fleet.fetch(
            "SELECT processor_id::text AS id, epoch, incarnation, sequence, body"
            " FROM public.accepted_checkpoints ORDER BY number"
        )
        accepted = defaultdict(list)
        for row in rows:
            count = json.loads(zlib.decompress(row["body"]))["count"]
            place = (row["epoch"], row["incarnation"], row["sequence"])
            accepted[row["id"]].append((place, count))
        for processor, history in accepted.items():
            for before, after in pairwise(history):
                assert before[0] < after[0], (processor, before, after)
                # Each began from the one before: also where the pod is another one.
                assert before[1] <= after[1], (processor, before, after)

    async def _no_more_lost_than_stated(self) -> None:
        rows = await self.fleet.fetch(
            "SELECT old_uid, rpo_seconds FROM orchestrator.moves WHERE outcome = 'done'"
        )
        stated = {row["old_uid"]: row["rpo_seconds"] for row in rows}
        for seen in self.seen.values():
            for before, after in pairwise(seen):
                lost = before.counted - after.counted
                if before.pod_uid == after.pod_uid:
                    # It may have been given its state in between, if it had just begun.
                    continue
                rpo_seconds = stated.get(before.pod_uid)
                if rpo_seconds is not None:
                    assert lost <= _PER_SECOND * rpo_seconds + 1, (before, after, rpo_seconds)


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

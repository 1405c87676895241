"""The process of a local cluster: `python -m dory_orchestrator.cluster.local.process DATA_DIR`.

It belongs to no orchestrator: one that was killed finds its pods again. There is one for each
data directory, and no pod outlives it.
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from uuid import uuid4

import msgspec
from aiohttp import web

from dory_orchestrator import logs
from dory_orchestrator.cluster.local import leftovers
from dory_orchestrator.cluster.local.control_plane import ControlPlane
from dory_orchestrator.cluster.local.fronts import Slots
from dory_orchestrator.cluster.local.messages import Timing, decode
from dory_orchestrator.cluster.local.places import Places, Whereabouts, write_whole
from dory_orchestrator.cluster.local.probing import Caller
from dory_orchestrator.cluster.local.running_pod import Machine
from dory_orchestrator.cluster.local.server import Server
from dory_orchestrator.ports import ClusterUnavailable

_LOCK_SECONDS = 2.0
_log = logs.get_logger(__name__)


class _Ending:
    """`asked` for the end; `urged` when it shall be at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.urged = asyncio.Event()

    def ask(self, immediate: bool = False) -> None:
        """The second time is an urge too."""
        if immediate or self.asked.is_set():
            self.urged.set()
        self.asked.set()


def main() -> int:
    """Run until told to end; returns the exit code."""
    places = Places(Path(sys.argv[1]))
    timing = decode(os.fsencode(sys.argv[2]), Timing) if len(sys.argv) > 2 else Timing()
    logs.configure("info", "json")
    try:
        places.make()
        with places.claimed("running", _LOCK_SECONDS):
            if places.cluster_id() is None:
                write_whole(places.id_file, str(uuid4()).encode())
            _end_leftovers(places)
            try:
                asyncio.run(_run(places, timing))
            finally:
                places.forget()
                _end_leftovers(places)
    except (OSError, ClusterUnavailable) as error:
        _log.error("the local cluster cannot run", error=str(error), data_dir=sys.argv[1])
        return 1
    return 0


def _end_leftovers(places: Places) -> None:
    if count := leftovers.end_all(places):
        _log.warning("ended processes that nobody looked after", count=count)


async def _run(places: Places, timing: Timing) -> None:
    ending = _Ending()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.ask)
    caller = Caller()
    plane = ControlPlane(Machine(places, Slots(places.data_dir), caller, timing))
    await plane.open()
    working = asyncio.create_task(plane.loop())
    # Whatever of ours breaks the loop must not leave a cluster that only seems to work.
    working.add_done_callback(lambda _: ending.ask())
    server = Server(plane, ending.ask)
    runner = await _listen(places, server)
    _log.info("the local cluster is up", data_dir=str(places.data_dir))
    try:
        await ending.asked.wait()
        server.ending = True
        await _stop(plane, ending)
    finally:
        await runner.cleanup()
        await caller.close()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    _log.info("the local cluster has ended")


async def _listen(places: Places, server: Server) -> web.AppRunner:
    socket = places.socket()
    socket.unlink(missing_ok=True)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    whereabouts = Whereabouts(os.getpid(), str(socket))
    write_whole(places.whereabouts_file, msgspec.json.encode(whereabouts))
    return runner


async def _stop(plane: ControlPlane, ending: _Ending) -> None:
    _log.info("stopping", at_once=ending.urged.is_set())
    if not ending.urged.is_set():
        gentle = asyncio.create_task(plane.stop(immediate=False))
        urged = asyncio.create_task(ending.urged.wait())
        await asyncio.wait({gentle, urged}, return_when=asyncio.FIRST_COMPLETED)
        urged.cancel()
        gentle.cancel()
    await plane.stop(immediate=True)


if __name__ == "__main__":
    sys.exit(main())

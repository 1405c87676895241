"""Commands that hurt the local cluster, and show what its pods print."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar
from uuid import UUID

import click

from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.fleet_file import FleetFileError, load
from dory_orchestrator.ports import ClusterError

T = TypeVar("T")
_FAILED, _WRONG_CALL = 1, 2
_FOLLOW_SECONDS = 0.2
_PIECE_BYTES = 65_536
_EXAMPLES = {"node": "edge-1", "pod": "counter-0123abcd"}

_data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=".dory",
    show_default=True,
    envvar="DORY_LOCAL_DIR",
    help="Data directory of the local cluster.",
)


@click.group("local")
def local_group() -> None:
    """Hurt the local cluster, and look into it.

    \b
    Examples:
      dory-orchestrator local crash-node edge-1     # as if its power was cut
      dory-orchestrator local cut-node edge-1       # it goes on, and nobody hears it
      dory-orchestrator local restore-node edge-1
      dory-orchestrator local logs counter-0123abcd -f
    """


def _command(
    name: str, noun: str, text: str, work: Callable[[LocalCluster, str], Awaitable[None]]
) -> None:
    """A command that does one thing to one node or pod."""

    example = f"dory-orchestrator local {name} {_EXAMPLES[noun]}"

    @local_group.command(name, help=f"{text}\n\n\b\nExamples:\n  {example}")
    @click.argument(noun)
    @_data_dir_option
    def command(data_dir: Path, **named: str) -> None:
        target = named[noun]
        _run(data_dir, lambda cluster: work(cluster, target))
        click.echo(f"{name}: {target}")


_command(
    "crash-node",
    "node",
    "Kill every process of a node's pods at once, and the node with them.",
    LocalCluster.crash_node,
)
_command(
    "cut-node",
    "node",
    "Cut a node off: its processes go on, and nobody hears them.",
    LocalCluster.cut_node,
)
_command(
    "restore-node",
    "node",
    "Bring a crashed node up again, or connect one that was cut off.",
    LocalCluster.restore_node,
)
_command("crash-pod", "pod", "Kill the processes of a pod at once.", LocalCluster.crash_pod)
_command(
    "stop-pod", "pod", "Delete a pod gracefully, as kubectl delete does.", LocalCluster.stop_pod
)


@local_group.command("start")
@click.option(
    "--fleet",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Fleet file that declares its nodes. Without it: the nodes of last time.",
)
@_data_dir_option
def start_command(fleet: Path | None, data_dir: Path) -> None:
    """Start a local cluster for `run --cluster local`; `dev` has its own.

    \b
    Examples:
      dory-orchestrator local start --fleet fleet.yaml --data-dir /var/lib/dory
    """

    async def begin(_cluster: LocalCluster) -> None:
        cluster = await start(data_dir)
        try:
            if fleet is not None:
                await cluster.declare_nodes(load(fleet, UUID(int=0)).nodes)
        finally:
            await cluster.close()

    _run(data_dir, begin)
    click.echo(f"the local cluster of {data_dir} runs")


@local_group.command("stop")
@_data_dir_option
def stop_command(data_dir: Path) -> None:
    """Stop a local cluster, with all its pods.

    \b
    Examples:
      dory-orchestrator local stop --data-dir /var/lib/dory
    """
    _run(data_dir, LocalCluster.stop)
    click.echo(f"the local cluster of {data_dir} is stopped")


@local_group.command("logs")
@click.argument("pod")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on.")
@_data_dir_option
def logs_command(pod: str, follow: bool, data_dir: Path) -> None:
    """Print what a pod printed.

    \b
    Examples:
      dory-orchestrator local logs counter-0123abcd -f
    """
    path = _run(data_dir, lambda cluster: cluster.log_path(pod))
    try:
        for piece in _pieces(path, follow):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        _exit(_FAILED, f"the log of {pod} cannot be read: {error.strerror}")


def _pieces(path: Path, follow: bool) -> Iterator[bytes]:
    """The content; a log that is begun anew is followed from its new beginning."""
    place = 0
    while True:
        size = path.stat().st_size
        place = 0 if size < place else place
        with path.open("rb") as log:
            log.seek(place)
            while piece := log.read(_PIECE_BYTES):
                place += len(piece)
                yield piece
        if not follow:
            return
        time.sleep(_FOLLOW_SECONDS)


def _run(data_dir: Path, work: Callable[[LocalCluster], Awaitable[T]]) -> T:
    async def connected() -> T:
        cluster = LocalCluster(data_dir)
        try:
            return await work(cluster)
        finally:
            await cluster.close()

    try:
        return asyncio.run(connected())
    except ClusterError as error:
        _exit(_FAILED, str(error))
    except FleetFileError as error:
        _exit(_WRONG_CALL, *error.problems)


def _exit(code: int, *problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"dory-orchestrator: {problem}", err=True)
    sys.exit(code)

"""The fleet of `dev`: loading it, telling of it in the terminal, and restarting on save."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec

import dory_orchestrator
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.core.fleet import Fleet, Table
from dory_orchestrator.core.model import Observation
from dory_orchestrator.fleet_file import WORKING_DIR, FleetFileError, load, parse
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    ClusterError,
    ClusterRefused,
    RequestRefused,
    StoreBusy,
    StoreDataError,
)
from dory_orchestrator.store.fleet import apply_fleet, has_processors

_log = get_logger(__name__)
_TELL_SECONDS = 0.5
_LOOK_SECONDS = 0.3
_SOURCES_MAX = 2_000


def example() -> Path:
    """The example fleet: beside the sources, or in the installed package."""
    package = Path(dory_orchestrator.__file__).parent
    beside = package.parents[1] / "examples" / "fleet.yaml"
    return beside if beside.exists() else package / "examples" / "fleet.yaml"


async def load_fleet(
    database_url: str, cluster: LocalCluster, namespace: UUID, file: Path | None
) -> Fleet:
    """Write the file's fleet to the database, and its nodes to the cluster.

    The example is written only where there is nothing yet: what was changed since stays.
    A file that cannot be applied is told, and the fleet is what the database has: a mistake in it
    is no reason to leave what runs alone. Raises StoreError, ClusterError.
    """
    is_wanted = file is not None or not await has_processors(database_url)
    try:
        fleet = load(file or example(), namespace)
    except FleetFileError as error:
        _tell_refused(file, *error.problems)
        fleet, is_wanted = parse(b"", name="", folder=Path(), namespace=namespace), False
    if is_wanted or not (await _observe_once(cluster)).nodes:
        await cluster.declare_nodes(fleet.nodes)
    if is_wanted:
        try:
            changes = await apply_fleet(database_url, fleet)
        except (RequestRefused, StoreDataError, StoreBusy) as error:
            _tell_refused(file, str(error))
            return fleet
        for note in changes.notes:
            _log.warning("of the fleet file", note=note)
        _log.info("fleet loaded", file=str(file or example()), changes=len(changes.changes))
    return fleet


def _tell_refused(file: Path | None, *problems: str) -> None:
    path = str(file or example())
    for problem in problems:
        _log.error("the fleet file cannot be applied", file=path, problem=problem)
    _log.error(
        "the fleet is what the database has; mend the file, then apply it",
        command=f"dory-orchestrator fleet apply {path}",
    )


# Telling


async def keep_telling(url: str) -> None:
    """Say in one line how the fleet is, each time it is another way."""
    told = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
        while True:
            summary = await _summary(session, url)
            line = told if summary is None else in_words(summary)
            if line != told:
                told = line
                _log.info(line)
            await asyncio.sleep(_TELL_SECONDS)


async def _summary(session: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    """None while it cannot be had: the log tells why."""
    try:
        async with session.get(f"{url}/api/v1/fleet/summary") as answer:
            if answer.status != 200:
                return None
            content: dict[str, Any] = await answer.json()
    except (aiohttp.ClientError, TimeoutError):
        return None
    return content


def in_words(summary: Mapping[str, Any]) -> str:
    """One line: processors, then what is not as it should be, then nodes."""
    if not summary["current"]:
        return "fleet: nobody looks at it yet"
    desired, is_ready = summary["desired"], summary["ready"]
    if desired == 0:
        said = ["no processors"]
    elif is_ready == desired == 1:
        said = ["the only processor is ready"]
    elif is_ready == desired:
        said = [f"all {desired} processors are ready"]
    else:
        said = [f"{is_ready} of {desired} processors are ready"]
    said += [
        f"{count} {state}"
        for state, count in sorted(summary["states"].items())
        if state != "running" and count
    ]
    said.append(f"{summary['nodes_ready']} of {summary['nodes']} nodes ready")
    if summary["guard_held"]:
        held = summary["states"].get("held", 0)
        said.append(
            f"THE DELETION GUARD HOLDS: {held} pods run on, {desired} desired: put the rows back,"
            " or: dory-orchestrator guard confirm"
        )
    return "fleet: " + ", ".join(said)


# Restarting on save


@dataclass(frozen=True, slots=True)
class Source:
    """Where a processor's program is: its folder, and the words of its command."""

    processor_id: UUID
    folder: Path
    words: frozenset[str]


def sources(fleet: Fleet) -> list[Source]:
    """Of each processor of a fleet file that has a command."""
    commands: dict[object, tuple[Path, frozenset[str]]] = {}
    for version in fleet.of(Table.VERSIONS):
        config = msgspec.json.decode(str(version.columns["runtime_config_template"]))
        container, variables = config.get("container", {}), config.get("env_vars", {})
        words = frozenset([*container.get("command", ()), *container.get("args", ())])
        folder = variables.get(WORKING_DIR)
        if words and folder:
            commands[version.columns["processor_template_id"]] = (Path(folder), words)
    return [
        Source(row.id, *commands[row.columns["processor_template_id"]])
        for row in fleet.of(Table.PROCESSORS)
        if row.columns["processor_template_id"] in commands
    ]


def touched(changed: Iterable[Path], programs: Iterable[Source]) -> set[UUID]:
    """The processors to restart. A file that a command names concerns only those; any other
    file of their folder may be a module that they import."""
    programs = list(programs)
    restarted: set[UUID] = set()
    for path in changed:
        near = [source for source in programs if path.is_relative_to(source.folder)]
        named = [source for source in near if str(path.relative_to(source.folder)) in source.words]
        restarted.update(source.processor_id for source in named or near)
    return restarted


async def restart_on_save(cluster: LocalCluster, fleet: Fleet) -> None:
    """Stop a pod gracefully when a source of it is saved: it comes back with its state."""
    programs = sources(fleet)
    folders = {source.folder for source in programs}
    before = await asyncio.to_thread(_moments, folders)
    _log.info("watching sources", folders=[str(folder) for folder in sorted(folders)])
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        now = await asyncio.to_thread(_moments, folders)
        changed = [path for path in now if before.get(path) != now[path]]
        before = now
        if changed:
            await _restart(cluster, touched(changed, programs), changed)


async def _restart(cluster: LocalCluster, processors: set[UUID], changed: Iterable[Path]) -> None:
    _log.info("sources saved", files=[path.name for path in changed], processors=len(processors))
    try:
        pods = (await _observe_once(cluster)).pods.values()
        for pod in pods:
            if pod.processor_id in processors and not pod.terminating:
                await cluster.stop_pod(pod.name)
    except ClusterRefused as error:
        _log.debug("a pod was gone before it was stopped", error=str(error))
    except ClusterError as error:
        _log.warning("pods cannot be restarted", error=str(error))


async def _observe_once(cluster: LocalCluster) -> Observation:
    async with cluster.observe() as pictures:
        async for picture in pictures:
            return picture
    return Observation()


def _moments(folders: Iterable[Path]) -> dict[Path, int]:
    """When each Python file was last written, in nanoseconds; of very large trees a part."""
    found: dict[Path, int] = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            if len(found) >= _SOURCES_MAX:
                return found
            try:
                found[path] = path.stat().st_mtime_ns
            except OSError:  # deleted between the two looks
                continue
    return found

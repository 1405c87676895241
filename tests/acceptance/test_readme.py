"""The README's story, its commands in their order: what it prints is what comes of them."""

import asyncio
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.real import clean_environment, clear, eventually, running
from tests.acceptance.test_fleet import up

# The first start, and eleven waits of which each may take its limit on a machine that is busy.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
_LIMIT_SECONDS = 120
_BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SAYS = {
    "processors": ("NAME", "running", "counter-berlin", "edge-1"),
    "events --limit 2": ("forget", "not_desired"),
    "guard status": ("HOLDS since", "7 pods are kept", "not meant: put the rows back"),
    "fleet apply examples/fleet.yaml": ("+ processor counter-berlin", "8 new"),
    "guard status again": ("the deletion guard holds nothing",),
    "/api/v1/edge/nodes": ('"name":"edge-berlin-1"', '"status":"online"'),
    "/api/v1/edge/heartbeat": ('"acknowledged":true', '"directive":"shutdown"'),
    "what-if --node-down edge-1": ("safe: if edge-1 died now: 3 would move",),
    "explain processor counter-berlin": ("waiting (node_suspect): edge-1",),
    "moves": ("failover  counter-berlin  edge-1",),
}
"""Of each command that tells something, the words of the README that must come true."""
_CUT_BEFORE = "explain processor counter-berlin"


def story() -> list[tuple[str, str]]:
    """The commands of the README behind `$`, in their order, and what it says of each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            end = next(n for n, line in enumerate(lines) if not line.endswith("\\"))
            found.append(("\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :])))
    return found


def wanted(command: str, seen: set[str]) -> tuple[str, ...]:
    names = [name for name in _SAYS if command.endswith(name) or f"{name} \\" in command]
    if not names:
        return ()
    name = max(names, key=len)
    again = f"{name} again"
    name = again if name in seen and again in _SAYS else name
    seen.add(name)
    return _SAYS[name]


async def shell(command: str) -> tuple[int, str]:
    """As somebody types it."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=clean_environment(),
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """As after a clone: with an environment, and the examples."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    yield tmp_path
    clear(tmp_path / ".dory")


async def test_its_commands_in_their_order(folder):
    data_dir = folder / ".dory"
    async with running(
        *("dev", "--data-dir", str(data_dir), "--port", "0", "--log-format", "json"), ready=False
    ) as service:
        fleet = await up(service, data_dir)
        await eventually(fleet.ready, _LIMIT_SECONDS)
        variables, seen = f"cd {shlex.quote(str(folder))}; ", set[str]()
        for command, told in story():
            words = wanted(command, seen)
            assert all(word in told for word in words), (command, told)
            real = command.replace("localhost:8080", fleet.service.url.removeprefix("http://"))
            if _CUT_BEFORE in command:
                await shell(f"{variables}.venv/bin/dory-orchestrator local cut-node edge-1")
            if re.match(r"[A-Z]+=", real):
                variables += f"{real.partition('   #')[0]}; "
                continue

            async def came_true(
                real: str = variables + real, words: tuple[str, ...] = words
            ) -> bool:
                code, said = await shell(real)
                assert code == 0, (real, said)
                return all(re.search(_spaced(word), said) for word in words)

            await eventually(came_true, _LIMIT_SECONDS, every_seconds=0.5)
        assert set(_SAYS) == seen


def _spaced(words: str) -> str:
    """Columns are as wide as what stands in them."""
    return r"\s+".join(re.escape(word) for word in words.split())

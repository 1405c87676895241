"""Operators' commands on a real `dev`: what is asked, what is wrong, and what is brought in."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.acceptance.real import COMMAND, clean_environment, eventually, running

pytestmark = pytest.mark.timeout(90)
ORGANIZATION = "7b2c1f0e-4d6a-4a53-9a51-0c2f5a9f3f11"


async def call(data_dir: Any, *arguments: str) -> tuple[int, str, str]:
    """Exit code and what was said."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, *arguments, "--data-dir", str(data_dir)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def as_json(data_dir: Any, *arguments: str) -> Mapping[str, Any]:
    code, out, err = await call(data_dir, *arguments, "-o", "json")
    assert code == 0, err
    found: Mapping[str, Any] = json.loads(out)
    return found


async def test_an_edge_node_comes_and_goes_by_command(data_dir, tmp_path):
    fleet = tmp_path / "fleet.yaml"
    fleet.touch()
    command = ("dev", "--data-dir", str(data_dir), "--port", "0", "--fleet", str(fleet))
    async with running(*command, "--log-format", "json", ready=False) as service:
        await eventually((data_dir / "endpoints.json").exists, 30)

        found = await as_json(data_dir, "doctor")
        verdicts = {one["check"]: one["verdict"] for one in found["findings"]}
        assert found["well"] is True
        assert verdicts["database rights"] == verdicts["orchestrator address"] == "ok"

        given = ("edge-9", "--organization", ORGANIZATION)
        assert (await as_json(data_dir, "register-node", *given))["status"] == "online"
        node = (await as_json(data_dir, "node", "edge-9"))["node"]
        assert (node["organization_id"], node["ready"]) == (ORGANIZATION, None)
        answer = await as_json(data_dir, "decommission-node", "edge-9", "-y")
        assert answer["status"] == "decommissioned"
        assert (await as_json(data_dir, "node", "edge-9"))["node"]["cordoned"] is True

        code, out, _ = await call(data_dir, "top", "--once")
        assert (code, "No processor is desired." in out) == (0, True)
        assert service.process.returncode is None
    code, out, _ = await call(data_dir, "doctor")
    assert (code, "dory-orchestrator dev" in out) == (1, True)

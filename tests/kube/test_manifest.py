"""Whole pods, as they go to an API server: `golden/` shows them.

After a change that is meant: `DORY_WRITE_GOLDEN=1 pytest tests/kube/test_manifest.py`.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.core.world import a_processor, a_version, hash_of

from dory_orchestrator.cluster.kubernetes.manifest import Surroundings, manifest_of
from dory_orchestrator.cluster.kubernetes.objects import KubePod, to_pod
from dory_orchestrator.core.model import Ownership, PodSpec, ProcessorConfig
from dory_orchestrator.core.specify import Blueprints, continuing, specify

GOLDEN = Path(__file__).with_name("golden")
KEY = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
AROUND = Surroundings(
    orchestrator_url="http://dory-orchestrator.dory-system:8080",
    service_account="dory-processor",
    image_pull_secret="ecr-registry-secret",
    state_token_secret="dory-state-token",
)
RUNTIME: dict[str, Any] = {
    "resources": {
        "cpu_request": "500m",
        "memory_request": "512Mi",
        "cpu_limit": "2000m",
        "memory_limit": "2Gi",
    },
    "container": {"port": 8080, "image_pull_policy": "Always"},
    "health_probes": {
        "initial_delay_sec": 60,
        "period_sec": 10,
        "timeout_sec": 3,
        "failure_threshold": 3,
    },
    "env_vars": {
        "DORY_LOG_LEVEL": "INFO",
        "DORY_STARTUP_TIMEOUT_SEC": "120",
        "DORY_SHUTDOWN_TIMEOUT_SEC": "10",
        "PRICE": "$(NAME) costs 5$",
    },
}


def processor(runtime: dict[str, Any], **changes: Any) -> ProcessorConfig:
    version = a_version("1.4.2", runtime=runtime, image_uri="registry/camera:1.4.2")
    fields: dict[str, Any] = {"processor_id": KEY, "template_slug": "camera"} | changes
    return a_processor("golden", versions=(version,), **fields)


def spec_of(config: ProcessorConfig, **changes: Any) -> PodSpec:
    blueprint = Blueprints().of(config)
    fields: dict[str, Any] = {
        "config_hash": hash_of(config),
        "fleet_id": "5a1e8cf2-0000-4000-8000-000000000001",
        "namespace": "cameras",
        "epoch": 3,
        "home": None,
        "preferred": None,
        "before": None,
    }
    return specify(config, blueprint, **(fields | changes))


EDGE = processor(RUNTIME, node_type="edge")
SENSOR = {
    "sensor_id": UUID(int=7),
    "sensor_config": '{"camera_feed_url": "rtsp://camera-7/feed"}',
    "sensor_location": "(8.54,47.37)",
}
CASES = {
    "managed": spec_of(processor(RUNTIME, **SENSOR), preferred="cloud-1"),
    "edge": spec_of(EDGE, home="edge-1"),
    "failed-over": continuing(
        spec_of(EDGE, moved_from="edge-1", epoch=4, before=Ownership(3, exit_code=137)),
        ["camera-0f8fad5b-70867728950e-3"],
    ),
    "gpu": spec_of(processor({"resources": {"gpu_required": True, "memory_limit": "8Gi"}})),
    "loosened": spec_of(
        processor(
            {
                "container": {"command": ["sh", "-c"], "args": ["echo $HOME"]},
                "security_context": {"runAsNonRoot": False, "runAsUser": 0},
            }
        )
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_whole_pod(name: str) -> None:
    path = GOLDEN / f"{name}.json"
    manifest = manifest_of(CASES[name], AROUND)
    if os.environ.get("DORY_WRITE_GOLDEN"):
        path.write_text(json.dumps(manifest, indent=1) + "\n")
    assert manifest == json.loads(path.read_text())


@pytest.mark.parametrize("name", CASES)
def test_what_is_created_is_read_again(name: str) -> None:
    spec = CASES[name]
    manifest = manifest_of(spec, AROUND)
    pod = to_pod(msgspec.convert(manifest, KubePod))
    assert (pod.name, pod.namespace, pod.processor_id) == (spec.name, spec.namespace, KEY)
    assert (pod.epoch, pod.fleet_id) == (
        int(spec.annotations["dory.io/epoch"]),
        spec.annotations["dory.io/fleet"],
    )
    assert pod.config_hash == spec.annotations["dory.io/config-hash"]
    assert pod.requests == spec.requests
    assert len(pod.name) <= 63
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", pod.name)


@pytest.mark.parametrize("name", CASES)
def test_each_variable_is_said_once(name: str) -> None:
    [container] = manifest_of(CASES[name], AROUND)["spec"]["containers"]
    names = [one["name"] for one in container["env"]]
    assert len(names) == len(set(names))


def test_rows_cannot_say_what_the_platform_says() -> None:
    """Also not the token of the state, which would open every pod to whoever writes a row."""
    lies = {"POD_NAME": "x", "DORY_STATE_TOKEN": "x", "DORY_ORCHESTRATOR_URL": "x"}
    spec = spec_of(processor({"env_vars": lies}))
    [container] = manifest_of(spec, AROUND)["spec"]["containers"]
    values = {one["name"]: one.get("value") for one in container["env"]}
    assert values["DORY_ORCHESTRATOR_URL"] == AROUND.orchestrator_url
    assert (values["POD_NAME"], values["DORY_STATE_TOKEN"]) == (None, None)


def test_without_secrets_none_is_named() -> None:
    around = Surroundings(orchestrator_url="http://x", service_account="s")
    spec = manifest_of(CASES["edge"], around)["spec"]
    assert "imagePullSecrets" not in spec
    assert not any(
        "secretKeyRef" in one.get("valueFrom", {}) for one in spec["containers"][0]["env"]
    )

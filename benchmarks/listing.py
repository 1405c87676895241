"""What a list of pods from an API server costs: the adapter over HTTP, and beside it the official
client with its models, on the same pods in the same run.

    python -m benchmarks.listing
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from aiohttp import web
from kubernetes import client

from benchmarks import command
from benchmarks.world import make_world
from dory_orchestrator.cluster.kubernetes.client import pods_of
from dory_orchestrator.cluster.kubernetes.connection import Connection
from dory_orchestrator.cluster.kubernetes.manifest import Surroundings, manifest_of
from dory_orchestrator.cluster.kubernetes.watching import USUAL_PACE, Reflection
from dory_orchestrator.core.specify import Blueprints, specify

_PODS = 10_000
_FOR_MODELS = 1_000
_ROUNDS = 5
_CPU_SECONDS_MAX = 1.0
_RATIO_MAX = 0.25
_START_SECONDS = 10.0


def main() -> int:
    """Returns the exit code: 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    serve: Path | None = parser.parse_args().serve
    if serve is not None:
        web.run_app(_served(), host="127.0.0.1", port=0, print=lambda text: _tell(serve, text))
        return 0
    return command.run(_bench)


def _bench() -> int:
    with _serving() as kubeconfig:
        ours = [asyncio.run(_listed(kubeconfig)) for _ in range(_ROUNDS)]
    theirs = [_modelled() * _PODS / _FOR_MODELS for _ in range(_ROUNDS)]
    cost, ratio = median(ours), median(ours) / median(theirs)
    print(f"{_PODS:,} pods, seconds of CPU, median of {_ROUNDS}")
    print(f"  listed over HTTP and decoded: {cost:.2f} (from {min(ours):.2f} to {max(ours):.2f})")
    print(f"  decoded by the official client's models alone: {median(theirs):.2f}")
    met = {
        f"CPU of a list of {_PODS:,}: {cost:.2f} s, at most {_CPU_SECONDS_MAX:g} s": (
            cost <= _CPU_SECONDS_MAX
        ),
        f"by the official models: {ratio:.3f}, at most {_RATIO_MAX:g}": ratio <= _RATIO_MAX,
    }
    for text, is_met in met.items():
        print(f"{text}: {'met' if is_met else 'MISSED'}")
    return 0 if all(met.values()) else 1


async def _listed(kubeconfig: Path) -> float:
    """Seconds of CPU of this process."""
    connection = Connection(str(kubeconfig))
    reflection = Reflection(connection, pods_of("default"), lambda: None, USUAL_PACE)
    try:
        await connection.send(_version, timeout_seconds=_START_SECONDS)  # imports, connects
        began_at = time.process_time()
        await reflection.read_all()
        spent = time.process_time() - began_at
    finally:
        await connection.close()
    if len(reflection.objects) != _PODS:
        raise TimeoutError(f"{len(reflection.objects)} of {_PODS} pods were listed")
    return spent


async def _version(apis: Any) -> Any:
    return await apis.version.get_code_without_preload_content()


def _modelled() -> float:
    text = json.dumps({"metadata": {}, "items": [_pod(n) for n in range(_FOR_MODELS)]})
    began_at = time.process_time()
    found = client.V1PodList.from_dict(json.loads(text))
    spent = time.process_time() - began_at
    if found is None or len(found.items) != _FOR_MODELS:
        raise TimeoutError("the models lost pods")
    return spent


# The server, in another process --------------------------------------------------------------


def _served() -> web.Application:
    pages = list(_pages())

    async def pods(request: web.Request) -> web.Response:
        number = int(request.query.get("continue", "0"))
        return web.Response(body=pages[number], content_type="application/json")

    async def version(_request: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "36"})

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/default/pods", pods)
    app.router.add_get("/version/", version)
    return app


def _pages() -> Iterator[bytes]:
    every = [_pod(number) for number in range(_PODS)]
    for number, start in enumerate(range(0, _PODS, USUAL_PACE.page)):
        metadata = {"resourceVersion": "1000"}
        if start + USUAL_PACE.page < _PODS:
            metadata["continue"] = str(number + 1)
        page = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata}
        yield json.dumps({**page, "items": every[start : start + USUAL_PACE.page]}).encode()


_CONFIGS = list(make_world(_FOR_MODELS).configs.values())
_AROUND = Surroundings(orchestrator_url="http://dory-orchestrator:8080", service_account="s")


def _pod(number: int) -> dict[str, Any]:
    """One that runs, with the status of a kubelet."""
    config = _CONFIGS[number % len(_CONFIGS)]
    blueprints = Blueprints()
    blueprint = blueprints.of(config)
    spec = specify(
        config,
        blueprint,
        config_hash=blueprints.change_hash(config, blueprint),
        fleet_id="fleet",
        namespace="default",
        epoch=number + 1,
        home=None,
        preferred=None,
        before=None,
    )
    pod = manifest_of(spec, _AROUND)
    moment = "2026-11-23T22:45:37Z"
    pod["metadata"] |= {
        "uid": f"uid-{number}",
        "resourceVersion": str(number),
        "creationTimestamp": moment,
    }
    pod["spec"]["nodeName"] = f"node-{number % 100}"
    pod["status"] = {
        "phase": "Running",
        "podIP": f"10.2.{number // 250}.{number % 250}",
        "startTime": moment,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": moment}
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": "processor",
                "state": {"running": {"startedAt": moment}},
                "lastState": {},
                "ready": True,
                "restartCount": 0,
                "image": spec.image,
                "imageID": "sha256:0",
                "started": True,
            }
        ],
        "qosClass": "Burstable",
    }
    return pod


@contextmanager
def _serving() -> Iterator[Path]:
    """The kubeconfig that leads to the server."""
    with tempfile.TemporaryDirectory(prefix="dory-bench-") as name:
        kubeconfig = Path(name) / "kubeconfig"
        call = [sys.executable, "-m", "benchmarks.listing", "--serve", str(kubeconfig)]
        process = subprocess.Popen(call)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not kubeconfig.exists():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise TimeoutError("the server did not start")
                time.sleep(0.05)
            yield kubeconfig
        finally:
            process.kill()
            process.wait()


def _tell(kubeconfig: Path, text: str) -> None:
    """Write where it listens, in one step."""
    url = next(word for word in text.split() if word.startswith("http://"))
    said = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": url}}],
        "users": [{"name": "bench", "user": {}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }
    draft = kubeconfig.with_suffix(".draft")
    draft.write_text(json.dumps(said))
    draft.replace(kubeconfig)


if __name__ == "__main__":
    sys.exit(main())

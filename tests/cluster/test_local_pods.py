"""Pods of the local cluster, as real processes."""

import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp
import psutil
import pytest
from tests.cluster.machine import SERVE, answer, eventually
from tests.contract.cluster_worlds import PROGRAM, a_node, a_spec, watching

from dory_orchestrator.core.model import MANAGED_BY, PodPhase, Probes
from dory_orchestrator.ports import ClusterRefused, Refusal

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]


def program(text: str, **changes):
    return a_spec(args=(SERVE + text,), **changes)


async def ready(cluster, *specs):
    """Create them; returns them once they are ready."""
    async with watching(cluster) as seen:
        for spec in specs:
            await cluster.create_pod(spec)
        return [await seen.pod(spec.name, ready=True) for spec in specs]


def process_of(machines, pod) -> psutil.Process:
    (found,) = [p for p in machines.pods() if p.environ()["POD_UID"] == pod.uid and is_leader(p)]
    process: psutil.Process = found
    return process


def is_leader(process: psutil.Process) -> bool:
    return os.getpgid(process.pid) == process.pid


async def test_the_environment_is_complete(machines, cluster, monkeypatch):
    await cluster.configure("http://127.0.0.1:1/base/", "secret")
    labels = {
        "managed-by": MANAGED_BY,
        "app": "cam",
        "processor-id": "77d0d2e0-1111-4111-8111-000000000001",
        "workload-location": "managed",
        "migrated-from-edge": "true",
        "original-edge-node": "edge-9",
    }
    given = {"PROCESSOR_ID": "p", "DORY_STATE_BACKEND": "configmap", "POD_IP": "1.2.3.4", "X": "y"}
    spec = program(
        "print(json.dumps(dict(os.environ)), flush=True); serve()", labels=labels, environment=given
    )
    (pod,) = await ready(cluster, spec)
    path = await cluster.log_path(spec.name)
    environment = json.loads(path.read_text().splitlines()[0])

    uplink = environment.pop("DORY_ORCHESTRATOR_URL")
    assert uplink.startswith("http://127.")
    assert uplink.endswith(":8080/base")
    assert 20_000 <= int(environment.pop("DORY_HEALTH_PORT")) < 32_768
    assert environment.pop("PATH").split(":")[0] == str(Path(sys.executable).parent)
    expected = {
        "PROCESSOR_ID": "p",
        "X": "y",
        "POD_NAME": spec.name,
        "DORY_POD_NAME": spec.name,
        "POD_NAMESPACE": "default",
        "DORY_POD_NAMESPACE": "default",
        "POD_IP": pod.ip,
        "POD_UID": pod.uid,
        "NODE_NAME": "a",
        "SERVICE_ACCOUNT": "default",
        "CONTAINER_NAME": "processor",
        "DORY_APP_NAME": "cam",
        "DORY_PROCESSOR_ID": labels["processor-id"],
        "DORY_WORKLOAD_LOCATION": "managed",
        "DORY_MIGRATED_FROM_EDGE": "true",
        "DORY_ORIGINAL_NODE": "edge-9",
        "DORY_STATE_TOKEN": "secret",
        "DORY_STATE_BACKEND": "local",
        "DORY_LOCAL_CLUSTER": str(machines.folder / "data"),
        "PYTHONUNBUFFERED": "1",
        "RESTART_COUNT": "0",
    }
    inherited = {"HOME", "LANG", "TMPDIR", "TZ", *(k for k in os.environ if k.startswith("LC_"))}
    assert {k: v for k, v in environment.items() if k not in inherited} == expected


async def test_it_runs_in_the_folder_that_is_named(machines, cluster):
    named = a_spec(
        args=(PROGRAM,), environment={"DORY_LOCAL_WORKING_DIR": str(machines.folder), "A": "b"}
    )
    own = a_spec()
    pods = await ready(cluster, named, own)
    first, second = (process_of(machines, pod) for pod in pods)
    assert first.cwd() == str(machines.folder)
    assert "DORY_LOCAL_WORKING_DIR" not in first.environ()
    assert Path(second.cwd()).is_relative_to(machines.folder / "data" / "local")


async def test_what_it_prints_stands_in_its_log_also_when_it_is_gone(machines, cluster):
    spec = program("print('out'); print('err', file=sys.stderr); serve()")
    await ready(cluster, spec)
    path = await cluster.log_path(spec.name)
    await eventually(lambda: {"out", "err"} <= set(path.read_text().split()))
    async with watching(cluster) as seen:
        await cluster.stop_pod(spec.name)
        await seen.gone(spec.name)
    assert await cluster.log_path(spec.name) == path
    assert "out" in path.read_text()
    with pytest.raises(ClusterRefused, match="there are: none") as refused:
        await cluster.log_path("missing")
    assert refused.value.reason == Refusal.NOT_FOUND


async def test_it_is_started_again_in_place(machines, cluster):
    (pod,) = await ready(cluster, a_spec())
    before = process_of(machines, pod)
    environment = before.environ()
    async with watching(cluster) as seen:
        await cluster.crash_pod(pod.name)
        again = await seen.pod(pod.name, restart_count=1, ready=True)
    assert (again.uid, again.address, again.exit_code) == (pod.uid, pod.address, 137)
    assert again.exit_reason == "Error"
    assert again.started_at > pod.started_at
    assert process_of(machines, pod).environ() == environment


async def test_crashes_in_a_row_back_off(cluster):
    spec = program("sys.exit(3)")
    async with watching(cluster) as seen:
        await cluster.create_pod(spec)
        pod = await seen.pod(spec.name, waiting_reason="CrashLoopBackOff")
        assert (pod.phase, pod.restart_count, pod.exit_code) == (PodPhase.RUNNING, 1, 3)
        assert pod.started_at is None
        began = time.monotonic()
        await seen.pod(spec.name, restart_count=2)
        await seen.pod(spec.name, restart_count=2, waiting_reason="CrashLoopBackOff")
        await seen.pod(spec.name, restart_count=3)
        assert time.monotonic() - began > 1.0
        await cluster.delete_pod(pod)
        await seen.gone(spec.name)


async def test_a_completed_container_is_started_again_too(cluster):
    spec = program("sys.exit(0)")
    async with watching(cluster) as seen:
        await cluster.create_pod(spec)
        pod = await seen.pod(spec.name, waiting_reason="CrashLoopBackOff")
    assert (pod.exit_code, pod.exit_reason) == (0, "Completed")


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"command": (), "args": ()}, "CreateContainerConfigError", "container.command"),
        ({"command": ("no-such-program",)}, "RunContainerError", "no-such-program"),
        ({"environment": {"DORY_LOCAL_WORKING_DIR": "/missing"}}, "RunContainerError", "/missing"),
    ],
)
async def test_what_cannot_run_says_why(cluster, changes, reason, message):
    spec = a_spec(**changes)
    async with watching(cluster) as seen:
        await cluster.create_pod(spec)
        pod = await seen.pod(spec.name, waiting_reason=reason)
        assert message in str(pod.message)
        assert (pod.phase, pod.ready) == (PodPhase.PENDING, False)
        await cluster.delete_pod(pod)
        await seen.gone(spec.name)


async def test_readiness_is_what_ready_says(machines, cluster):
    flag = machines.folder / "ready"
    text = f"serve(lambda path: 200 if path != '/ready' or os.path.exists({str(flag)!r}) else 503)"
    spec = program(text, probes=Probes(period_seconds=1, failure_threshold=1))
    async with watching(cluster) as seen:
        await cluster.create_pod(spec)
        pod = await seen.pod(spec.name, phase=PodPhase.RUNNING)
        assert await eventually(lambda: answer(pod.address)) in ("503", "refused")
        flag.touch()
        first = await seen.pod(spec.name, ready=True)
        flag.unlink()
        last = await seen.pod(spec.name, ready=False)
        assert last.ready_changed_at is not None
        assert first.ready_changed_at is not None
        assert last.ready_changed_at > first.ready_changed_at
        assert last.restart_count == 0


async def test_what_does_not_start_or_live_is_restarted(cluster):
    slow = program("time.sleep(60)", probes=Probes(startup_seconds=1), grace_seconds=1)
    dead = program(
        "began = time.monotonic()\n"
        "serve(lambda p: 500 if p == '/health' and time.monotonic() - began > 1 else 200)",
        probes=Probes(period_seconds=1, failure_threshold=1),
        grace_seconds=1,
    )
    async with watching(cluster) as seen:
        for spec in (slow, dead):
            await cluster.create_pod(spec)
        for spec in (slow, dead):
            assert (await seen.pod(spec.name, restart_count=1)).exit_code == 143


async def test_a_hung_pod_holds_up_nobody_and_is_killed_after_its_grace(machines, cluster):
    hung, patient_one, other = a_spec(grace_seconds=1), a_spec(grace_seconds=3_600), a_spec()
    *hung_pods, other_pod = await ready(cluster, hung, patient_one, other)
    for pod in hung_pods:
        process_of(machines, pod).send_signal(signal.SIGSTOP)
    async with watching(cluster) as seen:
        began = time.monotonic()
        for pod in hung_pods:
            await cluster.delete_pod(pod)
            await seen.pod(pod.name, terminating=True, ready=False)
        await cluster.delete_pod(other_pod)
        await seen.gone(other.name, hung.name)
        assert time.monotonic() - began > 1
        assert (await seen.pod(patient_one.name)).terminating
        await cluster.delete_pod(hung_pods[1], force=True)
    await eventually(lambda: not machines.pods())


async def test_nothing_of_a_pod_outlives_it(machines, cluster):
    deaf = program("signal.signal(signal.SIGTERM, signal.SIG_IGN); serve()", grace_seconds=1)
    sleeper = "[sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)']"
    family = program(
        f"subprocess.Popen({sleeper}); subprocess.Popen({sleeper}, start_new_session=True)\nserve()"
    )
    pods = await ready(cluster, deaf, family)
    assert len(machines.pods()) == 4
    async with watching(cluster) as seen:
        for pod in pods:
            await cluster.delete_pod(pod)
        await seen.gone(deaf.name, family.name)
    await eventually(lambda: not machines.pods())


async def test_the_hook_comes_before_the_signal(machines, cluster):
    spec = program(
        "signal.signal(signal.SIGTERM, lambda *_: (print('term', flush=True), os._exit(0)))\n"
        "serve(lambda path: print(path, flush=True) or 200)"
    )
    (pod,) = await ready(cluster, spec)
    path = await cluster.log_path(spec.name)
    async with watching(cluster) as seen:
        await cluster.delete_pod(pod)
        await seen.gone(spec.name)
    assert path.read_text().split()[-2:] == ["/prestop", "term"]


async def test_force_takes_it_away_at_once(machines, cluster):
    deaf = program("signal.signal(signal.SIGTERM, signal.SIG_IGN); serve()", grace_seconds=3_600)
    (pod,) = await ready(cluster, deaf)
    await cluster.delete_pod(pod)
    await cluster.delete_pod(pod, force=True)
    with pytest.raises(ClusterRefused):
        await cluster.delete_pod(pod)
    await eventually(lambda: not machines.pods())


async def test_its_address_is_its_own(cluster):
    await cluster.declare_nodes([a_node("a"), a_node("b")])
    pods = await ready(cluster, *(a_spec() for _ in range(5)))
    addresses = {pod.address for pod in pods}
    assert len(addresses) == 5
    for pod in pods:
        assert pod.address == f"{pod.ip}:8080"
        assert await answer(pod.address) == "200"


async def test_large_bodies_pass_both_ways(machines, cluster):
    text = r"""
from http.server import BaseHTTPRequestHandler, HTTPServer
class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
HTTPServer(("0.0.0.0", int(os.environ["DORY_HEALTH_PORT"])), Echo).serve_forever()
"""
    (pod,) = await ready(cluster, program(text, command=("python", "-I", "-u", "-c")))
    body = os.urandom(10 * 1024 * 1024)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{pod.address}/", data=io.BytesIO(body)) as found,
    ):
        assert await found.read() == body

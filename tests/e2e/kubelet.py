"""A node of a cluster whose kubelet is the test: it can die, and come back.

Its pods are small HTTP servers of this process, on addresses of this machine: they answer as the
client library does, and count.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from dory_orchestrator.cluster.kubernetes.connection import Apis, Connection
from dory_orchestrator.ports import ClusterRefused, Refusal

Object = dict[str, Any]
_LOOK_SECONDS = 0.5
_BEAT_SECONDS = 2.0
_CALL_SECONDS = 10.0
_PER_SECOND = 10.0


class Api:
    """Objects of a cluster as plain dictionaries."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, call: Callable[[Any], Awaitable[Any]]) -> Object:
        """`call` is given the core API of the official client. Raises ClusterError."""

        def with_core(apis: Apis) -> Awaitable[Any]:
            return call(apis.core)

        body = await self._connection.send(with_core, timeout_seconds=_CALL_SECONDS)
        answer: Object = msgspec.json.decode(body)
        return answer

    async def delete_pod(self, pod: Object) -> None:
        """End this very pod at once."""
        metadata = pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        await self.gone(
            lambda core: core.delete_namespaced_pod_without_preload_content(
                metadata["name"], metadata["namespace"], body=options
            )
        )

    async def gone(self, call: Callable[[Any], Awaitable[Any]]) -> None:
        """Delete something that may be gone already."""
        try:
            await self.send(call)
        except ClusterRefused as refused:
            if refused.reason not in (Refusal.NOT_FOUND, Refusal.CONFLICT):
                raise


class Program:
    """What runs in a pod. It counts from the moment that it is started, or was given a state."""

    def __init__(self, pod: Object, ip: str) -> None:
        self.uid = str(pod["metadata"]["uid"])
        self._name, self._ip = pod["metadata"]["name"], ip
        self._began_at = time.time()
        self._given, self._given_at = 0, time.time()
        self._runner: web.AppRunner | None = None

    @property
    def count(self) -> int:
        return self._given + int((time.time() - self._given_at) * _PER_SECOND)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._well)
        app.router.add_get("/ready", self._well)
        app.router.add_get("/state", self._tell)
        app.router.add_post("/state", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._ip, 8080).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _well(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "pod_name": self._name,
                "app_name": "counter",
                "captured_at": _moment(),
                "state_version": "1.0",
                "data": {"count": self.count},
                "connections": [],
                "active_sessions": 0,
                "session_data": {},
                "uptime_seconds": time.time() - self._began_at,
                "request_count": 0,
                "last_health_time": time.time(),
            }
        )

    async def _take(self, request: web.Request) -> web.Response:
        data = (await request.json())["data"]
        self._given, self._given_at = int(data["count"]), time.time()
        return web.json_response({"status": "ok"})


class Kubelet:
    """One node. `number` tells its addresses from those of others: 127.88.<number>.x."""

    def __init__(self, api: Api, name: str, labels: dict[str, str], number: int) -> None:
        self.name = name
        self.programs: dict[str, Program] = {}
        self._api, self._labels, self._number = api, labels, number
        self._addresses = 0
        self._alive = asyncio.Event()
        self._alive.set()

    # Its life ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self._alive.wait()
                await self._beat()
                until = time.monotonic() + _BEAT_SECONDS
                while time.monotonic() < until and self._alive.is_set():
                    await self._look()
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await self._stop_all()

    async def die(self) -> None:
        """Power is lost: nothing answers, and nobody hears of it."""
        self._alive.clear()
        await self._stop_all()

    def revive(self) -> None:
        """It is up again, empty: its containers start anew."""
        self._alive.set()

    async def _stop_all(self) -> None:
        programs, self.programs = self.programs, {}
        for program in programs.values():
            await program.stop()

    # As a kubelet -----------------------------------------------------------------------

    async def register(self) -> None:
        """Make the node. It is ready with its first beat."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": _named(self.name, self._labels)}
        await self._api.send(lambda core: core.create_node_without_preload_content(body))

    async def remove(self) -> None:
        """The node is gone."""
        await self._api.gone(lambda core: core.delete_node_without_preload_content(self.name))

    async def _beat(self) -> None:
        node = await self._api.send(lambda core: core.read_node_without_preload_content(self.name))
        amounts = {"cpu": "4", "memory": "8Gi", "pods": "20"}
        node["status"] = {
            **node.get("status", {}),
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [_condition(node, "Ready", "True")],
        }
        await self._api.gone(
            lambda core: core.replace_node_status_without_preload_content(self.name, node)
        )

    async def _look(self) -> None:
        """Make the programs what the cluster says of its pods."""
        listed = await self._api.send(
            lambda core: core.list_pod_for_all_namespaces_without_preload_content(
                field_selector=f"spec.nodeName={self.name}"
            )
        )
        pods = {pod["metadata"]["uid"]: pod for pod in listed.get("items") or []}
        for uid in self.programs.keys() - pods.keys():
            await self.programs.pop(uid).stop()
        for uid, pod in pods.items():
            # Others may be put on every node: they wait here for ever.
            if pod["metadata"].get("labels", {}).get("managed-by") != "dory-orchestrator":
                continue
            if pod["metadata"].get("deletionTimestamp"):
                await self._end(uid, pod)
            elif uid not in self.programs:
                await self._begin(uid, pod)

    async def _end(self, uid: str, pod: Object) -> None:
        if (program := self.programs.pop(uid, None)) is not None:
            await program.stop()
        await self._api.delete_pod(pod)

    async def _begin(self, uid: str, pod: Object) -> None:
        self._addresses += 1
        ip = f"127.88.{self._number}.{self._addresses}"
        program = self.programs[uid] = Program(pod, ip)
        await program.start()
        before = (pod["status"].get("containerStatuses") or [{"restartCount": -1}])[0]
        container = pod["spec"]["containers"][0]
        pod["status"] = {
            **pod["status"],
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": _moment(),
            "conditions": [
                _condition(pod, kind, "True")
                for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": True,
                    "started": True,
                    "restartCount": before["restartCount"] + 1,
                    "state": {"running": {"startedAt": _moment()}},
                    "lastState": {},
                }
            ],
        }
        metadata = pod["metadata"]
        await self._api.gone(
            lambda core: core.replace_namespaced_pod_status_without_preload_content(
                metadata["name"], metadata["namespace"], pod
            )
        )


def _named(name: str, labels: dict[str, str]) -> Object:
    return {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}


def _condition(found: Object, kind: str, status: str) -> Object:
    """With the moment of its last change, as far as it is known."""
    known = found.get("status", {}).get("conditions") or []
    before: Object = next((one for one in known if one["type"] == kind), {})
    same = before.get("status") == status
    changed_at = before.get("lastTransitionTime") if same else _moment()
    heartbeat = {"lastHeartbeatTime": _moment()} if found.get("kind") == "Node" else {}
    said = {"reason": "Test", "message": "", "lastTransitionTime": changed_at}
    return {"type": kind, "status": status, **said, **heartbeat}


def _moment() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def counted(kubelets: "list[Kubelet]", uid: str) -> int | None:
    """What the program of a pod has counted, wherever it runs."""
    for kubelet in kubelets:
        if (program := kubelet.programs.get(uid)) is not None:
            return program.count
    return None

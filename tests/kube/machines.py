"""Machines for the API server of the tests: what it says of pods becomes processes, and what
becomes of these it tells.

A local cluster stands for scheduler, kubelets and networks: each pod is a program on an address
of its own, and nodes can be crashed, cut off and restored.
"""

import asyncio
import copy
import json
from dataclasses import replace
from pathlib import Path

import aiohttp
from aiohttp import web
from tests.kube.api_server import ApiServer, Key, Object, timestamp
from tests.kube.control_plane import condition, raw_node, read_spec, set_condition, unplaced

from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.core.model import Node, Observation, Pod, PodSpec, Probes
from dory_orchestrator.ports import ClusterRefused, Refusal

_GATEWAY_SECONDS = 5.0
_IN_A_CONTAINER = """
import json, os, sys
kubeconfig = os.environ["TEST_KUBECONFIG"]
with open(kubeconfig, "w") as file:
    file.write(os.environ.pop("TEST_KUBECONFIG_TEXT").replace(
        "SERVER", os.environ["DORY_ORCHESTRATOR_URL"]))
os.environ["KUBECONFIG"] = os.environ.pop("TEST_KUBECONFIG")
os.environ |= json.loads(os.environ.pop("TEST_ENVIRONMENT"))
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Gives a program what only Kubernetes gives: its uid there, and a way to the API server, which is
its node's only way to anywhere."""


class Machines:
    """Behind an API server. `run` must run beside.

    `folder` is for files of pods; `state_token` is what the secret that pods refer to holds.
    """

    def __init__(
        self, server: ApiServer, local: LocalCluster, folder: Path, *, state_token: str
    ) -> None:
        self._server, self._local, self._folder = server, local, folder
        self._state_token = state_token
        self._twins: dict[str, Pod] = {}
        """Pods of the local cluster by the uid of those of the API server."""
        self._told: set[str] = set()
        """Uids there of pods whose end was asked for here."""
        self._seen: set[str] = set()
        """Uids of the newest picture here."""
        self.removed: set[str] = set()
        """Nodes that are not in the cluster any more."""
        self._changed = asyncio.Event()
        server.on_change = self._on_change

    async def declare(self, nodes: tuple[Node, ...], way_out: str) -> None:
        """These are the nodes; `way_out` is where all that their pods ask for is answered."""
        await self._local.declare_nodes(nodes)
        await self._local.configure(way_out, self._state_token)
        async with self._local.observe() as pictures:
            self._show_nodes(await anext(pictures))

    async def run(self) -> None:
        """Keep both alike, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._lead())

    # From the API server to the machines ------------------------------------------------

    def _on_change(self, key: Key) -> None:
        if key[0] == "pods":
            self._changed.set()

    async def _lead(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            pods = {pod["metadata"]["uid"]: pod for pod in self._server.all("pods")}
            for uid in self._twins.keys() - pods.keys():
                await self._end(self._twins.pop(uid), force=True)
            for uid, pod in pods.items():
                await self._settle(uid, pod)

    async def _settle(self, uid: str, pod: Object) -> None:
        is_ending = pod["metadata"].get("deletionTimestamp") is not None
        if uid not in self._twins and not is_ending:
            self._twins[uid] = await self._local.create_pod(self._spec_of(pod))
        elif is_ending and uid in self._twins and uid not in self._told:
            self._told.add(uid)
            await self._end(self._twins[uid])

    async def _end(self, twin: Pod, *, force: bool = False) -> None:
        try:
            await self._local.delete_pod(twin, force=force)
        except ClusterRefused as refused:
            if refused.reason is not Refusal.NOT_FOUND:  # it may have ended by itself
                raise

    def _spec_of(self, pod: Object) -> PodSpec:
        """What its manifest says. What a cluster adds is given by the one that runs it."""
        [container] = pod["spec"]["containers"]
        said = {one["name"]: _plain(one["value"]) for one in container["env"] if "value" in one}
        metadata = pod["metadata"]
        kubeconfig = self._folder / f"{metadata['uid']}.kubeconfig"
        ours = {
            "TEST_KUBECONFIG": str(kubeconfig),
            "TEST_KUBECONFIG_TEXT": self._server.kubeconfig("SERVER"),
            "TEST_ENVIRONMENT": json.dumps(
                {
                    "POD_UID": metadata["uid"],
                    "DORY_STATE_BACKEND": said.get("DORY_STATE_BACKEND", "configmap"),
                }
            ),
        }
        words = (*container.get("command", ()), *container.get("args", ()))
        return replace(
            read_spec(pod),
            command=("python", "-c", _IN_A_CONTAINER, *map(_plain, words)),
            environment=said | ours,
            probes=_probes_of(container),
            grace_seconds=pod["spec"]["terminationGracePeriodSeconds"],
            annotations=metadata["annotations"],
        )

    # And back -------------------------------------------------------------------------

    async def _follow(self) -> None:
        async with self._local.observe() as pictures:
            async for picture in pictures:
                self._show_nodes(picture)
                self._show_pods(picture)

    def _show_nodes(self, picture: Observation) -> None:
        known = {node["metadata"]["name"]: node for node in self._server.all("nodes")}
        for name, node in picture.nodes.items():
            if name in self.removed:
                continue
            shown = raw_node(node)
            if (before := known.get(name)) is not None:
                shown["metadata"] = {**before["metadata"], **shown["metadata"]}
                shown["status"]["conditions"] = list(before["status"]["conditions"])
            set_condition(shown, "Ready", "True" if node.ready else "Unknown")
            if shown != before:
                self._server.put("nodes", shown)

    def _show_pods(self, picture: Observation) -> None:
        for pod in self._server.all("pods"):
            twin = self._twins.get(pod["metadata"]["uid"])
            if twin is None:
                continue
            key = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            now = picture.pods.get(twin.uid)
            if now is None:
                # Not yet there, or gone: what was created later than the picture is no end.
                if twin.uid in self._seen:
                    del self._twins[pod["metadata"]["uid"]]
                    self._server.remove(key)
                continue
            shown = _with_status(pod, now)
            if shown != pod:
                self._server.put("pods", shown)
        self._seen = set(picture.pods)


class Gateway:
    """The way out of every node: to the orchestrator, once it is known where that is, and to the
    API server."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.orchestrator_url = ""
        self.unheard: set[str] = set()
        """Nodes whose heartbeats do not get through, whatever else does."""
        self.barred: set[str] = set()
        """ConfigMaps that no pod may read or write."""
        self.url = ""
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_GATEWAY_SECONDS), auto_decompress=False
        )
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        assert self._session is not None
        body = await request.read()
        target = self._server.url
        if request.path.startswith("/api/v1/edge/"):
            target = self.orchestrator_url
            if not target or json.loads(body).get("node_id") in self.unheard:
                return web.Response(status=503)
        if request.path.rpartition("/")[2] in self.barred:
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        kept = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")}
        try:
            async with self._session.request(
                request.method,
                target + request.raw_path,
                data=body,
                headers=kept,
            ) as answer:
                return web.Response(
                    body=await answer.read(),
                    status=answer.status,
                    content_type=answer.content_type,
                )
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=502)


# What is said in two ways --------------------------------------------------------------------


def _plain(text: str) -> str:
    """What a manifest means: `$$` is how it says `$`."""
    return text.replace("$$", "$")


def _probes_of(container: Object) -> Probes:
    startup, alive = container["startupProbe"], container["livenessProbe"]
    return Probes(
        initial_delay_seconds=startup.get("initialDelaySeconds", 0),
        period_seconds=alive["periodSeconds"],
        timeout_seconds=alive["timeoutSeconds"],
        failure_threshold=alive["failureThreshold"],
        startup_seconds=startup["failureThreshold"] * startup["periodSeconds"],
    )


def _with_status(pod: Object, now: Pod) -> Object:
    """The pod as its kubelet, and the scheduler, report it."""
    shown = copy.deepcopy(pod)
    [container] = shown["spec"]["containers"]
    if now.node_name is None:
        if condition(shown, "PodScheduled").get("message") != now.message:
            unplaced(shown, now.message or "")
        return shown
    shown["spec"]["nodeName"] = now.node_name
    set_condition(shown, "PodScheduled", "True")
    set_condition(shown, "Ready", "True" if now.ready else "False")
    status = shown["status"]
    status["phase"] = str(now.phase)
    if now.ip is not None:
        status |= {"podIP": now.ip, "podIPs": [{"ip": now.ip}]}
    ended: Object | None = None
    if now.exit_code is not None:
        ended = {"terminated": {"exitCode": now.exit_code, "reason": now.exit_reason}}
    if now.started_at is not None:
        state: Object = {"running": {"startedAt": timestamp(now.started_at)}}
    elif now.waiting_reason is not None or ended is None:
        reason = now.waiting_reason or "ContainerCreating"
        state = {"waiting": {"reason": reason, "message": now.message}}
    else:
        state, ended = ended, None
    status["containerStatuses"] = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": now.ready,
            "restartCount": now.restart_count,
            "started": now.started_at is not None,
            "state": state,
            "lastState": ended or {},
        }
    ]
    return shown

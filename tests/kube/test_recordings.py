"""The double answers as a real API server of version 1.36 did, and we understand what that said."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.kube.api_server import ApiServer, Object
from tests.kube.control_plane import raw_node

from dory_orchestrator.cluster.kubernetes.connection import refusal_of
from dory_orchestrator.cluster.kubernetes.objects import (
    KubeNode,
    KubePod,
    ObjectList,
    Status,
    to_node,
    to_pod,
)
from dory_orchestrator.core.model import Node, PodPhase, Resources, TaintEffect
from dory_orchestrator.ports import Refusal

pytestmark = pytest.mark.real

RECORDINGS = Path(__file__).with_name("recordings")
NAMESPACE = "dory-system"


def recorded(name: str) -> list[Object]:
    found: list[Object] = json.loads((RECORDINGS / f"{name}.json").read_text())["exchanges"]
    return found


def said(name: str, note: str) -> Any:
    """The body that was answered, in the exchange of this note."""
    return next(one for one in recorded(name) if one["note"] == note)["response"]["body"]


# The double -----------------------------------------------------------------------------------

MOVING = {"uid", "resourceVersion", "creationTimestamp", "continue", "deletionTimestamp", "message"}
"""What differs from one run to the next; of a message only that there is one."""


def shape(found: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every path into an answer, with what has to be the same there."""
    if isinstance(found, dict):
        for name, value in found.items():
            moves = name in MOVING or path.startswith("/gitVersion")
            yield from (
                [(f"{path}/{name}", type(value))] if moves else shape(value, f"{path}/{name}")
            )
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from shape(value, f"{path}/{number}")
    else:
        yield path, found


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    server.namespaces.add(NAMESPACE)
    try:
        yield server
    finally:
        await server.stop()


async def ask(server: ApiServer, request: Object, **headers: str) -> tuple[int, Any]:
    body = request.get("body")
    kind = request.get("content_type") or "application/json"
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            request["method"],
            server.url + request["path"],
            data=None if body is None else BytesIO(json.dumps(body).encode()),
            headers={"Content-Type": kind, **headers},
        ) as response,
    ):
        return response.status, await response.json()


async def replayed(server: ApiServer, exchange: Object, **headers: str) -> None:
    status, body = await ask(server, exchange["request"], **headers)
    wanted = exchange["response"]
    assert status == wanted["status"], (exchange["note"], body)
    assert dict(shape(body)) == dict(shape(wanted["body"])), exchange["note"]


def without_conditions(exchange: Object) -> Object:
    """No scheduler looks at the pods of these tests."""
    text = json.dumps(exchange)
    found = json.loads(text)
    items = found["response"]["body"].get("items", [found["response"]["body"]])
    for item in items:
        item.get("status", {}).pop("conditions", None) if item.get("kind") != "Status" else None
    return found  # type: ignore[no-any-return]


async def test_pods_are_created_read_and_listed(server):
    exchanges = recorded("pod-create-get-list")
    for name in ("p2", "p3"):
        first = json.loads(json.dumps(exchanges[0]["request"]))
        first["body"]["metadata"]["name"] = name
        first["body"]["metadata"]["labels"]["processor-id"] = name
        await ask(server, first)
    for exchange in exchanges:
        # Where a list goes on is for the server alone to understand.
        if exchange["note"] == "second page":
            path = exchange["request"]["path"].split("&continue=")[0]
            _, page = await ask(server, {"method": "GET", "path": path})
            exchange["request"]["path"] = f"{path}&continue={page['metadata']['continue']}"
        await replayed(server, without_conditions(exchange))


async def test_bad_pods_are_refused(server):
    for exchange in recorded("pod-invalid"):
        await replayed(server, exchange)


async def test_pods_are_patched(server):
    await ask(server, recorded("pod-create-get-list")[0]["request"])
    for exchange in recorded("pod-patch"):
        found = without_conditions(exchange)
        wanted = found["response"]
        status, body = await ask(server, found["request"])
        assert status == wanted["status"], found["note"]
        if status != 422:  # it shows the difference, in the words of Go
            assert dict(shape(body)) == dict(shape(wanted["body"])), found["note"]
        else:
            assert (body["reason"], body["details"]["kind"]) == ("Invalid", "Pod")


async def test_config_maps(server):
    for exchange in recorded("configmap"):
        if exchange["note"].startswith(("pod owned", "3 s later")):
            continue  # we set no owners
        if exchange["note"].startswith("state of"):
            exchange["request"]["body"] = {
                "metadata": {"name": "big"},
                "data": {"s": "x" * 1_100_000},
            }
        await replayed(server, exchange)


async def test_without_rights(server):
    server.token = "right"
    anonymous, wrong = recorded("unauthorized")
    await replayed(server, anonymous)
    await replayed(server, wrong, Authorization="Bearer wrong")


async def test_its_version(server):
    _, body = await ask(server, {"method": "GET", "path": "/version"})
    assert body.keys() == said("version", "").keys()


async def test_a_watch_tells_who_enters_and_who_leaves_a_selector(server):
    listed, watched, old = recorded("watch")
    await replayed(server, listed)
    query = "watch=1&allowWatchBookmarks=true&labelSelector=watchme%3Dyes&timeoutSeconds=1"
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    events: list[Object] = []

    async def watch() -> None:
        url = f"{server.url}{path}?{query}&resourceVersion={server.version}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            events.extend([json.loads(line) async for line in response.content])

    watching = asyncio.create_task(watch())
    pod = recorded("pod-create-get-list")[0]["request"]["body"]
    pod["metadata"] = {"name": "w1", "labels": {"watchme": "yes"}}
    await ask(server, {"method": "POST", "path": path, "body": pod})
    merge = "application/merge-patch+json"
    for labels in ({"x": "1"}, {"y": "1"}, {"watchme": "no"}, {"watchme": "yes"}):
        patch = {"metadata": {"labels": labels}}
        call = {"method": "PATCH", "path": f"{path}/w1", "content_type": merge, "body": patch}
        await ask(server, call)
    await ask(server, {"method": "DELETE", "path": f"{path}/w1", "body": {"gracePeriodSeconds": 0}})
    await watching
    assert [one["type"] for one in events] == [one["type"] for one in watched["events"]]
    bookmark, wanted = events[-1]["object"], watched["events"][-1]["object"]
    assert dict(shape(bookmark)) == dict(shape(wanted))

    server.compact()
    url = f"{server.url}{path}?watch=1&resourceVersion=1"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        [line] = [json.loads(line) async for line in response.content]
    assert response.status == old["status"]
    assert dict(shape(line)) == dict(shape(old["events"][0]))


# What we make of it ---------------------------------------------------------------------------


def node(found: Object) -> Node:
    return to_node(msgspec.json.decode(json.dumps(found), type=KubeNode))


def test_a_node_that_dies_and_comes_back():
    watched = next(one for one in recorded("edge-node-dies") if "of the node" in one["note"])
    seen = [node(one["event"]["object"]) for one in watched["events"]]
    assert [one.ready for one in seen] == [False, False, False, True, True, True]
    assert {one.ready_changed_at for one in seen[:3]} == {seen[0].ready_changed_at}
    assert [len(one.taints) for one in seen] == [1, 2, 3, 3, 2, 1]
    assert seen[2].taints[2].effect is TaintEffect.NO_EXECUTE
    first = node(said("edge-node-dies", "healthy edge node"))
    assert (first.allocatable, first.pods_max) == (Resources(4_000, 8 * 1024**3), 110)
    assert first.labels == {"node-type": "edge"}
    again = node(raw_node(first))
    assert replace(again, ready_changed_at=first.ready_changed_at) == first


def test_a_node_that_is_cordoned():
    found = node(said("cordon-and-evict", "the taint node.kubernetes.io/unschedulable follows"))
    assert found.unschedulable
    assert found.ready


def pod(found: Object) -> Any:
    return to_pod(msgspec.json.decode(json.dumps(found), type=KubePod))


def test_a_pod_of_a_dead_node():
    healthy = pod(said("edge-node-dies", "the scheduler has bound the pod"))
    assert (healthy.node_name, healthy.phase) == ("edge-1", PodPhase.PENDING)
    note = "40 s later: deletionTimestamp is set, the object is still there"
    dead = pod(said("edge-node-dies", note))
    assert (dead.phase, dead.ready, dead.terminating) == (PodPhase.RUNNING, False, True)
    assert (dead.ip, dead.address, dead.restart_count) == ("10.2.0.7", "10.2.0.7:8080", 0)
    assert dead.uid == healthy.uid


def test_a_pod_that_finds_no_place():
    found = pod(said("pending-unschedulable", ""))
    assert (found.phase, found.node_name) == (PodPhase.PENDING, None)
    assert "nodes are available" in found.message or "no nodes" in found.message
    assert found.requests == Resources(64_000)


def test_a_list_in_pages():
    first = json.dumps(said("pod-create-get-list", "first page"))
    page = msgspec.json.decode(first, type=ObjectList[KubePod])
    assert [one.metadata.name for one in page.items or ()] == ["p1", "p2"]
    assert page.metadata.continue_
    last = json.dumps(said("pod-create-get-list", "second page"))
    assert msgspec.json.decode(last, type=ObjectList[KubePod]).metadata.continue_ is None


@pytest.mark.parametrize(
    ("recording", "note", "reason"),
    [
        ("pod-create-get-list", "the same name again", Refusal.ALREADY_EXISTS),
        ("pod-create-get-list", "missing", Refusal.NOT_FOUND),
        ("pod-invalid", "label value longer than 63", Refusal.INVALID),
        ("pod-invalid", "unparsable quantity", Refusal.INVALID),
        ("pod-invalid", "namespace does not exist", Refusal.NAMESPACE_MISSING),
        ("unauthorized", "anonymous", Refusal.FORBIDDEN),
        ("configmap", "state of 1,100,000 bytes", Refusal.TOO_LARGE),
        ("lease", "stale resourceVersion", Refusal.CONFLICT),
    ],
)
def test_refusals(recording, note, reason):
    exchange = next(one for one in recorded(recording) if one["note"] == note)["response"]
    status = msgspec.convert(exchange["body"], Status)
    refused = refusal_of(exchange["status"], status, status.message or "")
    assert (refused.reason, str(refused)) == (reason, exchange["body"]["message"])

"""What `doctor` asks an API server. Nothing is changed."""

import asyncio
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any

import aiohttp
import msgspec

from dory_orchestrator.cluster.kubernetes.connection import Apis, Connection
from dory_orchestrator.cluster.kubernetes.objects import KubeNode, to_node
from dory_orchestrator.core.diagnosis import least_offset
from dory_orchestrator.core.model import Node
from dory_orchestrator.ports import ClusterUnavailable

RIGHTS: Sequence[tuple[str, str]] = (
    ("list", "nodes"),
    ("watch", "nodes"),
    ("create", "events"),
    ("list", "pods"),
    ("watch", "pods"),
    ("get", "namespaces"),
)
"""Verbs and resources that are needed in the whole cluster."""
_NAMED = {"namespaces": "kube-system"}
"""Of these only the one: its uid tells clusters apart."""
RIGHTS_OF_NAMESPACE: Sequence[tuple[str, str]] = (
    *((verb, "pods") for verb in ("list", "watch", "create", "delete")),
    *((verb, "configmaps") for verb in ("get", "create", "update", "delete")),
)
"""Those that are needed in each namespace with processors."""

_CALL_SECONDS = 4.0
_NODES_PAGE = 500


class _Status(msgspec.Struct):
    allowed: bool = False


class _Review(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


class _NodeList(msgspec.Struct):
    items: list[KubeNode] = msgspec.field(default_factory=list)


async def version_and_offset(
    connection: Connection, now: Callable[[], float]
) -> tuple[str, float | None]:
    """What the cluster is, and how many seconds its clock is before ours; None: it does not tell.

    `now` is our clock, in Unix seconds. Raises ClusterError.
    """
    offset: float | None = None

    async def call(apis: Apis) -> aiohttp.ClientResponse:
        nonlocal offset
        before = now()
        answer: aiohttp.ClientResponse = await apis.version.get_code_without_preload_content()
        offset = _offset(answer.headers.get("Date"), (before, now()))
        return answer

    body = await connection.send(call, timeout_seconds=_CALL_SECONDS)
    said = _decoded(body, dict[str, Any])
    return f"Kubernetes {said.get('major', '?')}.{said.get('minor', '?')}", offset


def _offset(date: str | None, ours: tuple[float, float]) -> float | None:
    try:
        # It is written in whole seconds.
        told = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    return least_offset((told, told + 1.0), ours)


async def missing_rights(connection: Connection, namespace: str | None) -> list[str]:
    """What we may not do there, such as `create pods`; without a namespace: in the whole cluster.

    Raises ClusterError.
    """
    needed = RIGHTS if namespace is None else RIGHTS_OF_NAMESPACE
    allowed = await asyncio.gather(
        *(_may(connection, verb, resource, namespace) for verb, resource in needed)
    )
    pairs = zip(needed, allowed, strict=True)
    return [f"{verb} {resource}" for (verb, resource), is_allowed in pairs if not is_allowed]


async def _may(connection: Connection, verb: str, resource: str, namespace: str | None) -> bool:
    attributes = {"verb": verb, "resource": resource, "group": ""}
    if namespace is not None:
        attributes["namespace"] = namespace
    if resource in _NAMED:
        attributes["name"] = _NAMED[resource]
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    library: Any = import_module("kubernetes.aio.client")

    async def call(apis: Apis) -> aiohttp.ClientResponse:
        api = library.AuthorizationV1Api(apis.core.api_client)
        answer: aiohttp.ClientResponse = (
            await api.create_self_subject_access_review_without_preload_content(body)
        )
        return answer

    answer = await connection.send(call, timeout_seconds=_CALL_SECONDS)
    review: _Review = _decoded(answer, _Review)
    return review.status.allowed


async def nodes(connection: Connection) -> list[Node]:
    """The first five hundred. Raises ClusterError."""
    body = await connection.send(
        lambda apis: apis.core.list_node_without_preload_content(limit=_NODES_PAGE),
        timeout_seconds=_CALL_SECONDS,
    )
    return [to_node(found) for found in _decoded(body, _NodeList).items]


def _decoded(body: bytes, type_: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.DecodeError as error:
        raise ClusterUnavailable(f"the API server: is none, by what it says: {error}") from error

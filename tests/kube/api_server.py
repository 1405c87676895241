"""A Kubernetes API server for tests: real HTTP, versions, watches, selectors, conflicts, and
deletions that take their time.

It answers as the one that was recorded (`recordings/`); `test_recordings.py` compares.
"""

import asyncio
import copy
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from aiohttp import web

from dory_orchestrator.core.quantity import quantity

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace (empty: none), name."""

KINDS = {
    "namespaces": "Namespace",
    "serviceaccounts": "ServiceAccount",
    "pods": "Pod",
    "nodes": "Node",
    "configmaps": "ConfigMap",
    "leases": "Lease",
    "events": "Event",
}
_GROUPS = {"leases": "coordination.k8s.io"}
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUANTITY = r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)"
_NAME_WRONG = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.',"
    " and must start and end with an alphanumeric character (e.g. 'example.com', regex used for"
    f" validation is '{_SUBDOMAIN}')"
)
_PATH = re.compile(
    r"/(?:api/v1|apis/[a-z0-9.]+/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)


def timestamp(at: float | None = None) -> str:
    """As an API server writes moments: whole seconds. Without `at`: now."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Failure(Exception):
    """A request that is not fulfilled."""

    def __init__(
        self, code: int, reason: str, message: str, details: Object | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.code, self.headers = code, headers
        self.body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({} if details is None else {"details": details}),
            "code": code,
        }


@dataclass(eq=False)
class _Watch:
    """One stream. `selects` says whether it sees an object."""

    plural: str
    namespace: str
    selects: Callable[[Object], bool]
    queue: "asyncio.Queue[Object | None]" = field(default_factory=asyncio.Queue)
    mute: bool = False
    """It stays open, and says nothing any more."""


@dataclass(frozen=True)
class _Change:
    version: int
    key: Key
    before: Object | None
    after: Object | None
    last: Object


class ApiServer:
    """Its whole content is `objects`; `put` and `remove` change it as controllers would.

    `token`: what requests must bear, if anything. `intercept(request)` may raise Failure, or
    wait, before a request is looked at. `forbidden` holds pairs of verb and plural.
    """

    def __init__(self, *, token: str | None = None) -> None:
        self.objects: dict[Key, Object] = {}
        self.namespaces: set[str] = set()
        self.terminating: set[str] = set()
        self.forbidden: set[tuple[str, str]] = set()
        self.token = token
        self.requests: list[tuple[str, str]] = []
        self.seen: set[tuple[str, str]] = set()
        """Verbs and resources that were asked for: the rights that are needed."""
        self.intercept: Callable[[web.Request], Any] | None = None
        self.admit: Callable[[str, Object], None] = lambda _plural, _body: None
        """A mutating webhook: it may change what is created."""
        self.on_delete: Callable[[Object], None] = lambda _pod: None
        self.on_change: Callable[[Key], None] = lambda _key: None
        self.reviewed: set[tuple[str, str, str]] = set()
        """Verbs, resources and namespaces for which it was asked whether they are allowed."""
        self.clock_offset_seconds = 0.0
        self.bookmark_seconds = 60.0
        self.config_map_bytes_max = 1_048_576
        self.bookmarks = 0
        """How many were told."""
        self.unauthorized = 0
        """How many requests bore another token."""
        self.version = 100
        self.url = ""
        self._changes: list[_Change] = []
        self._compacted = 0
        self.watches: set[_Watch] = set()
        self._runner: web.AppRunner | None = None
        # By its uid a cluster is told from others.
        self.put("namespaces", {"metadata": {"name": "kube-system"}})

    # Its life ---------------------------------------------------------------------------

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        host, found = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{found}"

    async def stop(self) -> None:
        """All connections end."""
        self.break_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def break_watches(self) -> None:
        """Every stream ends, as when a load balancer between has enough of it."""
        for watch in self.watches:
            watch.queue.put_nowait(None)

    def compact(self) -> None:
        """What was before cannot be watched any more."""
        self._compacted = self.version
        self._changes.clear()

    def kubeconfig(self, url: str | None = None) -> str:
        """The text of one that leads here, or to another URL of this server."""
        user = {} if self.token is None else {"token": self.token}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": {"server": url or self.url}}],
                "users": [{"name": "test", "user": user}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
            }
        )

    # Its content ------------------------------------------------------------------------

    def put(self, plural: str, found: Object) -> Object:
        """Store an object, new or changed."""
        metadata = found["metadata"]
        key = (plural, metadata.get("namespace", ""), metadata["name"])
        before = self.objects.get(key)
        self.version += 1
        metadata.setdefault("uid", str(uuid4()))
        metadata.setdefault("creationTimestamp", timestamp())
        metadata["resourceVersion"] = str(self.version)
        after = self.objects[key] = copy.deepcopy(found)
        self._tell(_Change(self.version, key, before, after, after))
        return copy.deepcopy(after)

    def change(self, key: Key, edit: Callable[[Object], None]) -> Object:
        """Edit an object in place."""
        found = copy.deepcopy(self.objects[key])
        edit(found)
        return self.put(key[0], found)

    def remove(self, key: Key) -> Object:
        """It is gone."""
        before = self.objects.pop(key)
        self.version += 1
        last = copy.deepcopy(before)
        last["metadata"]["resourceVersion"] = str(self.version)
        self._tell(_Change(self.version, key, before, None, last))
        return last

    def all(self, plural: str) -> list[Object]:
        return [found for key, found in self.objects.items() if key[0] == plural]

    def _tell(self, change: _Change) -> None:
        self._changes.append(change)
        for watch in self.watches:
            self._offer(watch, change)
        self.on_change(change.key)

    def _offer(self, watch: _Watch, change: _Change) -> None:
        plural, namespace, _ = change.key
        if plural != watch.plural or watch.namespace not in ("", namespace):
            return
        was = change.before is not None and watch.selects(change.before)
        now = change.after is not None and watch.selects(change.after)
        if was or now:
            kind = "MODIFIED" if was and now else "ADDED" if now else "DELETED"
            watch.queue.put_nowait({"type": kind, "object": copy.deepcopy(change.last)})

    # Requests ---------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, str(request.rel_url)))
        try:
            if self.intercept is not None and (waited := self.intercept(request)) is not None:
                await waited
            self._authenticate(request)
            return await self._answer(request)
        except Failure as failure:
            headers = {name.replace("_", "-"): value for name, value in failure.headers.items()}
            return web.json_response(failure.body, status=failure.code, headers=headers)

    def _authenticate(self, request: web.Request) -> None:
        if self.token is None:
            return
        given = request.headers.get("Authorization")
        if given is not None and given.lower() != f"bearer {self.token}".lower():
            self.unauthorized += 1
            raise Failure(401, "Unauthorized", "Unauthorized")
        if given is None:
            plural, namespace, name, _ = _place_of(request)
            raise _forbidden("system:anonymous", _verb(request, name), plural, namespace)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in ("/version", "/version/"):
            moment = formatdate(time.time() + self.clock_offset_seconds, usegmt=True)
            return web.json_response(VERSION, headers={"Date": moment})
        if request.path == _ACCESS_REVIEWS:
            return web.json_response(await self._review(request), status=201)
        plural, namespace, name, sub = _place_of(request)
        if plural not in KINDS:
            raise Failure(404, "NotFound", "the server could not find the requested resource")
        verb = _verb(request, name)
        self.seen.add((verb, f"{plural}/{sub}" if sub else plural))
        if (verb, plural) in self.forbidden:
            raise _forbidden("system:serviceaccount:a:b", verb, plural, namespace)
        key = (plural, namespace, name)
        if verb == "watch":
            return await self._serve_watch(request, plural, namespace)
        if verb == "list":
            return web.json_response(self._list(request, plural, namespace))
        if verb == "create" and sub == "eviction":
            return self._evict(key)
        if verb == "create":
            return web.json_response(await self._create(request, plural, namespace), status=201)
        found = self.objects.get(key)
        if found is None:
            raise _not_found(plural, name)
        if verb == "get":
            return web.json_response(found)
        body = await _json(request, plural)
        if verb == "update":
            return web.json_response(self._replace(key, found, body))
        if verb == "patch":
            return web.json_response(self._patch(key, found, body))
        return web.json_response(self._delete(key, found, body))

    async def _review(self, request: web.Request) -> Object:
        """May whoever asks do that?"""
        asked: Object = await request.json()
        attributes = asked["spec"]["resourceAttributes"]
        right = (attributes["verb"], attributes["resource"])
        self.reviewed.add((*right, attributes.get("namespace", "")))
        allowed = right not in self.forbidden
        return {**asked, "metadata": {}, "status": {"allowed": allowed}}

    def _list(self, request: web.Request, plural: str, namespace: str) -> Object:
        selects = _selector(request.query)
        found = [
            self.objects[key]
            for key in sorted(self.objects)
            if key[0] == plural and namespace in ("", key[1]) and selects(self.objects[key])
        ]
        version, start = str(self.version), 0
        if token := request.query.get("continue"):
            version, _, text = token.partition(".")
            if int(version) < self._compacted:
                message = "The provided continue parameter is too old"
                raise Failure(410, "Expired", message)
            start = int(text)
        limit = int(request.query.get("limit", "0")) or len(found)
        metadata: Object = {"resourceVersion": version}
        if (left := len(found) - start - limit) > 0:
            metadata["continue"] = f"{version}.{start + limit}"
            metadata["remainingItemCount"] = left
        items = [
            {name: value for name, value in one.items() if name not in ("kind", "apiVersion")}
            for one in found[start : start + limit]
        ]
        return {
            "kind": f"{KINDS[plural]}List",
            "apiVersion": _api_version(plural),
            "metadata": metadata,
            "items": items,
        }

    async def _create(self, request: web.Request, plural: str, namespace: str) -> Object:
        body = await _json(request, plural)
        if namespace and namespace not in self.namespaces:
            raise _not_found("namespaces", namespace)
        body.setdefault("metadata", {})
        name = body["metadata"].get("name", "")
        if namespace in self.terminating:
            message = (
                f'{plural} "{name}" is forbidden: unable to create new content in namespace'
                f" {namespace} because it is being terminated"
            )
            causes = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            details = {"name": name, "kind": plural, "causes": causes}
            raise Failure(403, "Forbidden", message, details)
        _validate(plural, name, body, self.config_map_bytes_max)
        if (plural, namespace, name) in self.objects:
            message = f'{_resource(plural)} "{name}" already exists'
            raise Failure(409, "AlreadyExists", message, _details(plural, name))
        if namespace:
            body["metadata"]["namespace"] = namespace
        if plural == "pods":
            _default_pod(body)
        if plural == "nodes":
            body = {"spec": {}, "status": {}} | body
        if plural == "namespaces":
            self.namespaces.add(name)
        self.admit(plural, body)
        ordered = {"kind": KINDS[plural], "apiVersion": _api_version(plural)}
        return self.put(plural, {**ordered, **body})

    def _replace(self, key: Key, found: Object, body: Object) -> Object:
        _check_version(key, found, body)
        _validate(key[0], key[2], body, self.config_map_bytes_max)
        fixed = {"uid", "creationTimestamp", "namespace", "resourceVersion"}
        metadata = {k: v for k, v in found["metadata"].items() if k in fixed}
        body["metadata"] = {**body.get("metadata", {}), **metadata}
        if {**body, "metadata": 0} == {**found, "metadata": 0} and _same_metadata(body, found):
            return found  # nothing changes, and the version does not either
        return self.put(key[0], body)

    def _patch(self, key: Key, found: Object, body: Object) -> Object:
        _check_version(key, found, body)
        if key[0] == "pods" and "spec" in body:
            message = (
                f'Pod "{key[2]}" is invalid: spec: Forbidden: pod updates may not change fields'
                " other than `spec.containers[*].image`"
            )
            cause = {"reason": "FieldValueForbidden", "message": "Forbidden: …", "field": "spec"}
            details = {"name": key[2], "kind": "Pod", "causes": [cause]}
            raise Failure(422, "Invalid", message, details)
        return self.put(key[0], _merged(copy.deepcopy(found), body))

    def _delete(self, key: Key, found: Object, options: Object) -> Object:
        wanted = (options.get("preconditions") or {}).get("uid")
        uid = found["metadata"]["uid"]
        if wanted is not None and wanted != uid:
            message = (
                f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
            )
            raise Failure(409, "Conflict", message, _details(key[0], key[2]))
        version = (options.get("preconditions") or {}).get("resourceVersion")
        if version is not None and version != found["metadata"]["resourceVersion"]:
            message = (
                f"Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion"
                f" in object meta: {found['metadata']['resourceVersion']}"
            )
            raise Failure(409, "Conflict", message, _details(key[0], key[2]))
        if key[0] == "namespaces":
            self._empty(key[2])
        if key[0] != "pods":
            self.remove(key)
            details = {**_details(key[0], key[2]), "uid": uid}
            success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
            return {**success, "details": details}
        return self._delete_pod(key, found, options.get("gracePeriodSeconds"))

    def _empty(self, namespace: str) -> None:
        """With a namespace goes all that is in it."""
        self.namespaces.discard(namespace)
        for key in [key for key in self.objects if key[1] == namespace]:
            self.remove(key)

    def _delete_pod(self, key: Key, found: Object, grace: int | None) -> Object:
        """Who has no node, or is not waited for, goes at once; the rest when its kubelet says
        so."""
        seconds = found["spec"].get("terminationGracePeriodSeconds", 30)
        seconds = seconds if grace is None else grace
        if not found["spec"].get("nodeName"):
            seconds = 0
        before = found["metadata"].get("deletionGracePeriodSeconds")
        if before is not None and before <= seconds:
            return found

        def end(pod: Object) -> None:
            pod["metadata"]["deletionTimestamp"] = timestamp(time.time() + seconds)
            pod["metadata"]["deletionGracePeriodSeconds"] = seconds
            pod["metadata"]["generation"] = 2

        ending = self.change(key, end)
        if seconds == 0:
            self.remove(key)
        else:
            self.on_delete(ending)
        return ending

    def _evict(self, key: Key) -> web.Response:
        found = self.objects.get(key)
        if found is None:
            raise _not_found(key[0], key[2])
        self._delete_pod(key, found, None)
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return web.json_response({**success, "code": 201}, status=201)

    # Watches ----------------------------------------------------------------------------

    async def _serve_watch(
        self, request: web.Request, plural: str, namespace: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        seconds = float(request.query.get("timeoutSeconds", "1800"))
        bookmarks = request.query.get("allowWatchBookmarks") in ("1", "true", "True")
        async with self._watching(request, plural, namespace) as (watch, expired):
            if expired is not None:
                await _write(response, {"type": "ERROR", "object": expired.body})
                return response
            await self._stream(response, watch, seconds, bookmarks)
        return response

    async def _stream(
        self, response: web.StreamResponse, watch: _Watch, seconds: float, bookmarks: bool
    ) -> None:
        end = time.monotonic() + seconds
        told_at = time.monotonic()
        while (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, self.bookmark_seconds)):
                    event = await watch.queue.get()
            except TimeoutError:
                event = {}
            if event is None:
                return
            if watch.mute:
                continue
            if event:
                await _write(response, event)
            if bookmarks and time.monotonic() - told_at >= self.bookmark_seconds:
                told_at = time.monotonic()
                await _write(response, self._bookmark(watch.plural))
        if bookmarks:
            await _write(response, self._bookmark(watch.plural))

    def _bookmark(self, plural: str) -> Object:
        kind = {"kind": KINDS[plural], "apiVersion": _api_version(plural)}
        spec = {"containers": None} if plural == "pods" else {}
        metadata = {"resourceVersion": str(self.version)}
        self.bookmarks += 1
        told = {**kind, "metadata": metadata, "spec": spec, "status": {}}
        return {"type": "BOOKMARK", "object": told}

    @asynccontextmanager
    async def _watching(
        self, request: web.Request, plural: str, namespace: str
    ) -> AsyncIterator[tuple[_Watch, Failure | None]]:
        watch = _Watch(plural, namespace, _selector(request.query))
        since = int(request.query.get("resourceVersion") or self.version)
        expired = None
        if since < self._compacted or (since < 100 and not self._changes):
            message = f"too old resource version: {since} ({self._compacted})"
            expired = Failure(410, "Expired", message)
        for change in self._changes:
            if change.version > since:
                self._offer(watch, change)
        self.watches.add(watch)
        try:
            yield watch, expired
        finally:
            self.watches.discard(watch)


VERSION: Object = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.0",
    "gitCommit": "0",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "go1.27.3",
    "compiler": "gc",
    "platform": "linux/amd64",
}


async def _write(response: web.StreamResponse, event: Object) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


def _place_of(request: web.Request) -> tuple[str, str, str, str]:
    match = _PATH.fullmatch(request.path)
    if match is None:
        raise Failure(404, "NotFound", "the server could not find the requested resource")
    parts = (match["plural"], match["namespace"], match["name"], match["sub"])
    plural, namespace, name, sub = (unquote(part or "") for part in parts)
    return plural, namespace, name, sub


def _verb(request: web.Request, name: str) -> str:
    if request.method == "GET" and not name:
        return "watch" if request.query.get("watch") in ("1", "true", "True") else "list"
    verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    return verbs[request.method]


async def _json(request: web.Request, plural: str) -> Object:
    text = await request.text()
    try:
        body = json.loads(text) if text else {}
    except ValueError as error:
        raise Failure(400, "BadRequest", f"{KINDS[plural]}: {error}") from error
    if not isinstance(body, dict):
        raise Failure(400, "BadRequest", f"{KINDS[plural]}: is no object")
    return body


def _selector(query: Mapping[str, str]) -> Callable[[Object], bool]:
    labels = [part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part]
    fields = [part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part]

    def selects(found: Object) -> bool:
        has = found["metadata"].get("labels") or {}
        return all(has.get(key) == value for key, value in labels) and all(
            _field(found, path) == value for path, value in fields
        )

    return selects


def _field(found: Object, path: str) -> str:
    value: Any = found
    for part in path.split("."):
        value = (value or {}).get(part)
    return value or ""


def _resource(plural: str) -> str:
    return f"{plural}.{_GROUPS[plural]}" if plural in _GROUPS else plural


def _api_version(plural: str) -> str:
    return f"{_GROUPS[plural]}/v1" if plural in _GROUPS else "v1"


def _details(plural: str, name: str) -> Object:
    group = {"group": _GROUPS[plural]} if plural in _GROUPS else {}
    return {"name": name, **group, "kind": plural}


def _not_found(plural: str, name: str) -> Failure:
    message = f'{_resource(plural)} "{name}" not found'
    return Failure(404, "NotFound", message, _details(plural, name))


def _forbidden(user: str, verb: str, plural: str, namespace: str) -> Failure:
    where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    message = (
        f'{plural} is forbidden: User "{user}" cannot {verb} resource "{plural}"'
        f' in API group "{_GROUPS.get(plural, "")}"{where}'
    )
    return Failure(403, "Forbidden", message, {"kind": plural})


def _check_version(key: Key, found: Object, body: Object) -> None:
    given = body.get("metadata", {}).get("resourceVersion")
    if given is not None and given != found["metadata"]["resourceVersion"]:
        message = (
            f'Operation cannot be fulfilled on {_resource(key[0])} "{key[2]}": the object has been'
            " modified; please apply your changes to the latest version and try again"
        )
        raise Failure(409, "Conflict", message, _details(key[0], key[2]))


def _same_metadata(body: Object, found: Object) -> bool:
    return all(
        (body["metadata"].get(name) or {}) == (found["metadata"].get(name) or {})
        for name in ("labels", "annotations")
    )


def _merged(found: Object, patch: Object) -> Object:
    """JSON merge patch (RFC 7386)."""
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict):
            merged = _merged(dict(found.get(name) or {}), value)
            if merged or value != dict.fromkeys(value):
                found[name] = merged
            else:
                found.pop(name, None)
        else:
            found[name] = value
    return found


def _invalid(kind: str, name: str, where: str, value: str, why: str) -> Failure:
    said = f'Invalid value: "{value}": {why}'
    cause = {"reason": "FieldValueInvalid", "message": said, "field": where}
    message = f'{kind} "{name}" is invalid: {where}: {said}'
    return Failure(422, "Invalid", message, {"name": name, "kind": kind, "causes": [cause]})


def _validate(plural: str, name: str, body: Object, config_map_bytes_max: int) -> None:
    kind = KINDS[plural]
    if not re.fullmatch(_SUBDOMAIN, name) or len(name) > 253:
        raise _invalid(kind, name, "metadata.name", name, _NAME_WRONG)
    for value in (body["metadata"].get("labels") or {}).values():
        if len(value) > 63:
            why = "must be no more than 63 bytes"
            raise _invalid(kind, name, "metadata.labels", value, why)
    if plural == "configmaps":
        size = sum(len(text.encode()) for text in (body.get("data") or {}).values())
        if size > config_map_bytes_max:
            why = f"Too long: may not be more than {config_map_bytes_max} bytes"
            cause = {"reason": "FieldValueTooLong", "message": why, "field": "[]"}
            details = {"name": name, "kind": kind, "causes": [cause]}
            raise Failure(422, "Invalid", f'{kind} "{name}" is invalid: []: {why}', details)
    if plural == "pods":
        for number, container in enumerate(body.get("spec", {}).get("containers", [])):
            _validate_resources(name, number, container.get("resources") or {})


def _validate_resources(name: str, number: int, resources: Object) -> None:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for text in (*requests.values(), *limits.values()):
        try:
            quantity(str(text))
        except ValueError as error:
            message = (
                'Pod in version "v1" cannot be handled as a Pod: quantities must match the regular'
                f" expression '^{_QUANTITY}$'"
            )
            raise Failure(400, "BadRequest", message) from error
    for what, text in requests.items():
        if what in limits and quantity(str(text)) > quantity(str(limits[what])):
            where = f"spec.containers[{number}].resources.requests"
            why = f"must be less than or equal to {what} limit of {limits[what]}"
            raise _invalid("Pod", name, where, str(text), why)


def _default_pod(body: Object) -> None:
    """What the server adds to a pod that does not say it."""
    spec = body.setdefault("spec", {})
    for container in spec.get("containers", []):
        for port in container.get("ports", []):
            port.setdefault("protocol", "TCP")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        tagged = ":" in container.get("image", "").rpartition("/")[2]
        container.setdefault("imagePullPolicy", "IfNotPresent" if tagged else "Always")
    for name, value in {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }.items():
        spec.setdefault(name, value)
    body["metadata"]["generation"] = 1
    body["status"] = {"phase": "Pending", "qosClass": _quality(spec)}


def _quality(spec: Object) -> str:
    asked = [one["resources"].get("requests") for one in spec.get("containers", [])]
    return "Burstable" if any(asked) else "BestEffort"

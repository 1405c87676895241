"""Requests to an API server: configured, authenticated and carried by the official client.

Everything that comes back is bytes, or one of our own errors.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import yaml

from dory_orchestrator.cluster.kubernetes.objects import Status, StatusDetails
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import ClusterRefused, ClusterUnavailable, Refusal

_log = get_logger(__name__)
_CONNECTIONS_MAX = 100
_CONNECT_SECONDS = 3.0
_REST_SECONDS = 1.0
_REST_SECONDS_MAX = 60.0
_UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _GONE, _TOO_LARGE, _BUSY = 401, 403, 409, 410, 413, 429


class Apis(NamedTuple):
    """Those of the official client that we use: they bear no types that are worth it."""

    core: Any
    version: Any


Call = Callable[[Apis], Awaitable[aiohttp.ClientResponse]]
"""A request, given what to make it with."""


class Expired(ClusterUnavailable):
    """What was asked for is too old to be told: list again (410)."""


class _Retired(aiohttp.ClientError):
    """A stream ends because its session does."""


class Stream:
    """The body of an answer, while it comes."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def read(self) -> bytes:
        """What has come since; nothing at the end, also when that is ours: whoever reads on opens
        the next one. Raises the errors of aiohttp."""
        try:
            return await self._content.readany()
        except _Retired:
            return b""

    def end(self) -> None:
        """Wake whoever reads: nothing more comes. aiohttp tells nobody when a session is closed."""
        self._content.set_exception(_Retired())


class _Session:
    """The official client with one set of credentials. It is closed when nobody is inside any
    more: aiohttp fails in whatever is under way on a session that is closed."""

    def __init__(self, client: Any, apis: Apis) -> None:
        self._client = client
        self._apis = apis
        self._inside = 0
        self._streams: set[Stream] = set()
        self._is_retired = self._is_closed = False

    @asynccontextmanager
    async def response(self, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request. Raises the errors of aiohttp; ClusterUnavailable on a session that was
        closed meanwhile."""
        self._inside += 1
        try:
            response = await self._request(call)
            try:
                yield response
            finally:
                response.close()
        finally:
            self._inside -= 1
            await self._close_if_unused()

    async def _request(self, call: Call) -> aiohttp.ClientResponse:
        try:
            return await call(self._apis)
        except (AssertionError, RuntimeError) as error:
            # What aiohttp raises where a session is closed under a request.
            if not self._is_closed:
                raise
            raise ClusterUnavailable("the connection was closed") from error

    @asynccontextmanager
    async def reading(self, response: aiohttp.ClientResponse) -> AsyncIterator[Stream]:
        """Its body, until it ends or the session is retired."""
        stream = Stream(response.content)
        self._streams.add(stream)
        if self._is_retired:
            stream.end()
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def retire(self) -> None:
        """No new request is made: end the streams, and let the other requests come to their end."""
        self._is_retired = True
        for stream in self._streams:
            stream.end()
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._is_retired and not self._inside:
            await self.close()

    async def close(self) -> None:
        """Whatever is under way fails."""
        if not self._is_closed:
            self._is_closed = True
            await self._client.close()


class Connection:
    """A way to one API server. Credentials that it refuses are read anew.

    `kubeconfig` is a path, or several with colons between; None: the configuration of the pod
    that this runs in. `context` is one of the kubeconfig's; None: its current one.
    """

    def __init__(self, kubeconfig: str | None, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        # Its models take half a second to import, or several on a busy machine: only who speaks to
        # a cluster waits for them, and no request does.
        client = import_module("kubernetes.aio.client")
        self._library: tuple[Any, Any] = client, import_module("kubernetes.aio.config")
        # The models are imported with the first class that is asked for.
        self._apis: tuple[Any, Any] = client.CoreV1Api, client.VersionApi
        self._session: _Session | None = None
        self._is_refused = False
        self._lock = asyncio.Lock()
        self._rests_until = 0.0

    async def send(self, call: Call, *, timeout_seconds: float) -> bytes:
        """The body of a successful answer.

        Raises ClusterUnavailable (Expired) within `timeout_seconds`; ClusterRefused.
        """
        async with (
            self._as_cluster_errors(),
            asyncio.timeout(timeout_seconds),
            self._answer(call) as (_, response),
        ):
            return await response.read()

    @asynccontextmanager
    async def stream(self, call: Call, *, timeout_seconds: float) -> AsyncIterator[Stream]:
        """The body of an answer, while it comes. `timeout_seconds` is for its head.

        Raises as `send`, at the head; whoever reads gets the errors of aiohttp.
        """
        async with AsyncExitStack() as stack:
            async with self._as_cluster_errors(), asyncio.timeout(timeout_seconds):
                session, response = await stack.enter_async_context(self._answer(call))
                stream = await stack.enter_async_context(session.reading(response))
            yield stream

    async def close(self) -> None:
        """Let go of all connections; what is under way fails."""
        session, self._session = self._session, None
        if session is not None:
            await session.retire()
            await session.close()

    # How -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answer(self, call: Call) -> AsyncIterator[tuple[_Session, aiohttp.ClientResponse]]:
        """A successful one. Where the credentials are refused, those that are read anew have one
        try."""
        for again in (True, False):
            session = await self._ready_session()
            async with session.response(call) as response:
                if 200 <= response.status < 300:
                    self._is_refused = False
                    yield session, response
                    return
                body = await response.read()
                error = self._error(response.status, body, response)
            if response.status != _UNAUTHORIZED or not again:
                raise error
            await self._forget(session, error)

    async def _ready_session(self) -> _Session:
        """Not before the moment that the server has asked us to wait for."""
        loop = asyncio.get_running_loop()
        if (rest := self._rests_until - loop.time()) > 0:
            await asyncio.sleep(rest)
        async with self._lock:
            if self._session is None:
                self._session = await self._load()
            return self._session

    async def _load(self) -> _Session:
        client, config = self._library

        configuration = client.Configuration()
        configuration.retries = None
        configuration.connection_pool_maxsize = _CONNECTIONS_MAX
        try:
            if self._kubeconfig is None:
                config.load_incluster_config(client_configuration=configuration)
            else:
                await self._load_kubeconfig(config, configuration)
        except (
            config.ConfigException,
            yaml.YAMLError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:
            raise ClusterUnavailable(f"{self._where()}: {error}") from error
        api = client.ApiClient(configuration)
        core, version = self._apis
        return _Session(api, Apis(core(api), version(api)))

    async def _load_kubeconfig(self, config: Any, configuration: Any) -> None:
        if (missing := await asyncio.to_thread(_missing, self._kubeconfig or "")) is not None:
            raise ClusterUnavailable(f"{self._where()}: there is no file {missing}")
        await config.load_kube_config(
            config_file=self._kubeconfig,
            context=self._context,
            client_configuration=configuration,
            persist_config=False,
        )

    def _where(self) -> str:
        if self._kubeconfig is None:
            return "no cluster: neither a kubeconfig is named, nor does this run in a pod"
        return f"kubeconfig {self._kubeconfig}"

    async def _forget(self, session: _Session, error: Exception) -> None:
        """Load everything anew next time, unless somebody else has done so meanwhile."""
        if self._session is not session:
            return
        self._session = None
        if not self._is_refused:
            _log.warning("the credentials are read anew", error=str(error))
        self._is_refused = True
        await session.retire()

    def _error(self, status: int, body: bytes, response: aiohttp.ClientResponse) -> Exception:
        said = _status(body)
        message = said.message or f"{status} {response.reason}"
        if status == _GONE:
            return Expired(message)
        if status == _UNAUTHORIZED:
            return ClusterUnavailable(f"the API server refuses our credentials: {message}")
        if status == _BUSY or status >= 500:
            self._rest(response)
            return ClusterUnavailable(f"the API server cannot: {message}")
        return refusal_of(status, said, message)

    def _rest(self, response: aiohttp.ClientResponse) -> None:
        """Nobody asks again before the moment that the server has named."""
        try:
            seconds = float(response.headers.get("Retry-After", ""))
        except ValueError:
            return
        now = asyncio.get_running_loop().time()
        wait = min(max(seconds, _REST_SECONDS), _REST_SECONDS_MAX)
        self._rests_until = max(self._rests_until, now + wait)
        _log.info("the API server asks us to wait", seconds=seconds)

    @asynccontextmanager
    async def _as_cluster_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise ClusterUnavailable("the API server does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ClusterUnavailable(f"the API server: {error or type(error).__name__}") from error


def refusal_of(status: int, said: Status, message: str) -> ClusterRefused:
    """What a refused request means (recorded from a server of version 1.36)."""
    details = said.details or StatusDetails()
    causes = {cause.reason for cause in details.causes or ()}
    if "NamespaceTerminating" in causes:
        return ClusterRefused(Refusal.NAMESPACE_TERMINATING, message)
    if said.reason == "AlreadyExists":
        return ClusterRefused(Refusal.ALREADY_EXISTS, message)
    if status == _CONFLICT:
        return ClusterRefused(Refusal.CONFLICT, message)
    if said.reason == "NotFound":
        missing = Refusal.NAMESPACE_MISSING if details.kind == "namespaces" else Refusal.NOT_FOUND
        return ClusterRefused(missing, message)
    if status == _TOO_LARGE or "FieldValueTooLong" in causes:
        return ClusterRefused(Refusal.TOO_LARGE, message)
    if said.reason == "Forbidden" and "exceeded quota" in message:
        return ClusterRefused(Refusal.QUOTA, message)
    if status == _FORBIDDEN:
        # It names user, verb and resource.
        return ClusterRefused(Refusal.FORBIDDEN, message)
    return ClusterRefused(Refusal.INVALID, message)


def _missing(kubeconfig: str) -> str | None:
    """The official loader passes over a file that is not there, and then misses its content."""
    parts = [part for part in kubeconfig.split(":") if part]
    return next((part for part in parts if not Path(part).expanduser().is_file()), None)


def _status(body: bytes) -> Status:
    """Also what stands between us and the server may answer, and not in its words."""
    try:
        return msgspec.json.decode(body, type=Status)
    except msgspec.DecodeError:
        return Status(message=body[:200].decode(errors="replace").strip() or None)

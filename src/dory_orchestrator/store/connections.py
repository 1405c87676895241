"""Connections to PostgreSQL: bounded in number and time, behind the circuit breaker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg

from dory_orchestrator.core.breaker import (
    Breaker,
    BreakerLimits,
    BreakerState,
    admit,
    fail,
    succeed,
)
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import RequestRefused, StoreError, StoreTimeout, StoreUnavailable
from dory_orchestrator.store.errors import DRIVER_ERRORS, translate
from dory_orchestrator.store.queries import QUERIES

Connection = Any
"""An asyncpg connection: its pool hands out proxies, which the stubs give another type."""

CONNECT_SECONDS = 2.0

T = TypeVar("T")
_log = get_logger(__name__)
_STATE_NUMBER = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_ERROR_TYPE = ((StoreTimeout, "timeout"), (StoreUnavailable, "connection"), (StoreError, "query"))


class Guard:
    """The circuit breaker of one process's database, with its metrics.

    Pools share it: what one of them learns of the database holds for all.
    """

    def __init__(self, metrics: Metrics, limits: BreakerLimits | None = None) -> None:
        self._breaker = Breaker()
        self._limits = limits or BreakerLimits()
        self._metrics = metrics
        self._last_error = ""
        self._metrics.breaker_state.labels("database").set(0)

    @contextmanager
    def observe(self, query_type: str) -> Iterator[None]:
        """Measure one call and name its errors, past the breaker: a probe asks the database
        itself, and a lock that opened the breaker must not take a sound replica out of service.
        """
        started = time.monotonic()
        try:
            yield
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        finally:
            self._metrics.query_duration.labels(query_type).observe(time.monotonic() - started)

    @contextmanager
    def call(self, query_type: str) -> Iterator[None]:
        """Admit one call, and learn from how it ends.

        Raises StoreUnavailable without calling while the breaker is open; driver errors
        come out as StoreError.
        """
        self._move(*admit(self._breaker, time.monotonic(), self._limits))
        started = time.monotonic()
        try:
            yield
        except RequestRefused:
            # The database did its part: the client is at fault, and no alert should ring.
            self._move(succeed(self._breaker))
            raise
        except (StoreError, *DRIVER_ERRORS) as error:
            raise self._learn(
                error if isinstance(error, StoreError) else translate(error)
            ) from error
        else:
            self._move(succeed(self._breaker))
        finally:
            self._metrics.query_duration.labels(query_type).observe(time.monotonic() - started)

    def _learn(self, error: StoreError) -> StoreError:
        kind = next(name for type_, name in _ERROR_TYPE if isinstance(error, type_))
        self._metrics.database_errors.labels(kind).inc()
        if isinstance(error, StoreUnavailable):
            self._last_error = str(error)
            self._move(fail(self._breaker, time.monotonic(), self._limits))
        else:
            # The database answered, if only to say no.
            self._move(succeed(self._breaker))
        return error

    def _move(self, breaker: Breaker, admitted: bool = True) -> None:
        before, self._breaker = self._breaker.state, breaker
        if breaker.state is not before:
            self._metrics.breaker_state.labels("database").set(_STATE_NUMBER[breaker.state])
            self._metrics.breaker_transitions.labels("database", before, breaker.state).inc()
            if breaker.state is BreakerState.OPEN and before is BreakerState.CLOSED:
                _log.warning("circuit breaker opens", component="database", error=self._last_error)
            elif breaker.state is BreakerState.CLOSED:
                _log.info("circuit breaker closes", component="database")
        if not admitted:
            raise StoreUnavailable(f"circuit breaker open: {self._last_error}")


class Pool:
    """At most `size` connections, opened when needed; no call outlives its timeout.

    The deadline stands outside the driver: with a frozen server the driver's own timeout
    waits once more for its cancel request, and answers after twice the time. A connection
    whose call ran out of time is cut, not returned.
    """

    def __init__(self, dsn: str, *, size: int, guard: Guard, application_name: str) -> None:
        self._guard = guard
        self._dsn = dsn
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._pool: asyncpg.Pool[Any] | None = None
        self._options: dict[str, Any] = {
            "min_size": 0,
            "max_size": size,
            "timeout": CONNECT_SECONDS,
            "command_timeout": None,
            "server_settings": {"application_name": application_name},
            "init": _limit_statements,
            # Nothing of ours changes the session, so there is nothing to reset: one round
            # trip less for each call.
            "reset": _keep,
        }

    @property
    def open_connections(self) -> int:
        return self._pool.get_size() if self._pool else 0

    async def run(
        self,
        query_type: str,
        work: Callable[[Connection], Awaitable[T]],
        *,
        timeout_seconds: float,
        past_breaker: bool = False,
    ) -> T:
        """Do `work` on a connection. Raises StoreError and its kinds."""
        with (self._guard.observe if past_breaker else self._guard.call)(query_type):
            return await self._bounded(work, timeout_seconds)

    async def _bounded(
        self, work: Callable[[Connection], Awaitable[T]], timeout_seconds: float
    ) -> T:
        held: list[Connection] = []
        task = asyncio.create_task(self._perform(work, held))
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_seconds)
        except asyncio.CancelledError:
            self._abandon(task, held)
            raise
        if not done:
            self._abandon(task, held)
            raise StoreTimeout(f"no answer within {timeout_seconds:g} s")
        return task.result()

    async def _perform(
        self, work: Callable[[Connection], Awaitable[T]], held: list[Connection]
    ) -> T:
        if self._pool is None:
            self._pool = await asyncpg.create_pool(self._dsn, **self._options)
        async with self._pool.acquire() as connection:
            held.append(connection)
            try:
                return await work(connection)
            finally:
                held.clear()

    def _abandon(self, task: asyncio.Task[Any], held: list[Connection]) -> None:
        # Cutting the connection ends the task by itself. To cancel it instead would make the
        # driver open another connection for a cancel request, to a server that may be frozen.
        if held:
            held[0].terminate()
        else:
            task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # seen: its caller was told StoreTimeout

    async def close(self) -> None:
        """Close all connections, politely for a second, then by cutting them."""
        if self._pool is None:
            return
        closing = asyncio.create_task(self._pool.close())
        done, _ = await asyncio.wait({closing}, timeout=1.0)
        if not done:
            self._pool.terminate()
            closing.cancel()
        await asyncio.gather(closing, *self._abandoned, return_exceptions=True)


class OwnConnection:
    """One connection, opened when needed and kept, for one caller at a time.

    What a pool does beside the call costs more than the call's own part in this process.
    """

    def __init__(self, dsn: str, *, guard: Guard, application_name: str) -> None:
        self._guard = guard
        self._dsn = dsn
        self._settings = {"application_name": application_name}
        self._connection: Connection = None
        self._free = asyncio.Lock()

    @property
    def open_connections(self) -> int:
        return 0 if self._connection is None or self._connection.is_closed() else 1

    async def run(
        self,
        query_type: str,
        work: Callable[[Connection], Awaitable[T]],
        *,
        timeout_seconds: float,
    ) -> T:
        """Do `work` on the connection. Raises StoreError and its kinds."""
        with self._guard.call(query_type):
            loop = asyncio.get_running_loop()
            deadline = loop.time() + timeout_seconds
            try:
                async with self._free:
                    return await self._do(work, loop, deadline)
            except DRIVER_ERRORS as error:
                if loop.time() >= deadline:
                    raise StoreTimeout(f"no answer within {timeout_seconds:g} s") from error
                raise

    async def _do(
        self,
        work: Callable[[Connection], Awaitable[T]],
        loop: asyncio.AbstractEventLoop,
        deadline: float,
    ) -> T:
        if not self.open_connections:
            async with asyncio.timeout_at(deadline):
                await self._open()
        connection = self._connection
        # Cut from outside: see Pool.
        cut = loop.call_at(deadline, connection.terminate)
        try:
            return await work(connection)
        except asyncio.CancelledError:
            connection.terminate()
            raise
        finally:
            cut.cancel()

    async def _open(self) -> None:
        connection = await asyncpg.connect(
            self._dsn, timeout=CONNECT_SECONDS, server_settings=self._settings
        )
        try:
            await _limit_statements(connection)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    async def close(self) -> None:
        """Cut it: whoever still used it has had its time."""
        if self._connection is not None:
            self._connection.terminate()


async def _limit_statements(connection: Connection) -> None:
    await connection.execute(QUERIES["limit_statements"], "10000")


async def _keep(_connection: Connection) -> None:
    """Leave the session as it is."""

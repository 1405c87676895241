"""Connections to PostgreSQL: bounded in number and time, behind the circuit breaker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import asyncpg

from dory_orchestrator.core.breaker import (
    Breaker,
    BreakerLimits,
    BreakerState,
    admit,
    fail,
    succeed,
)
from dory_orchestrator.core.database_url import DatabaseUrl
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import RequestRefused, StoreError, StoreTimeout, StoreUnavailable
from dory_orchestrator.store import driver
from dory_orchestrator.store.errors import DRIVER_ERRORS, is_lost, shows_read_only, translate
from dory_orchestrator.store.queries import QUERIES

Connection = Any
"""An asyncpg connection: its pool hands out proxies, which the stubs give another type."""

TRUSTED_SECONDS = 1.0
"""So long a connection is taken without being looked at again, for work that itself ends soon."""

T = TypeVar("T")
_log = get_logger(__name__)
_STATE_NUMBER = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_ERROR_TYPE = ((StoreTimeout, "timeout"), (StoreUnavailable, "connection"), (StoreError, "query"))


class Guard:
    """The circuit breaker of one process's database, with its metrics.

    Pools share it: what one of them learns of the database holds for all, also that it is
    another server by now.
    """

    def __init__(self, metrics: Metrics, limits: BreakerLimits | None = None) -> None:
        self._breaker = Breaker()
        self._limits = limits or BreakerLimits()
        self._metrics = metrics
        self._last_error = ""
        self._given_up_at = 0.0
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

    def is_given_up(self, connection: Connection) -> bool:
        """Was it opened before connections were given up?"""
        return bool(connection.opened_at <= self._given_up_at)

    def give_up(self, connection: Connection, why: BaseException) -> None:
        """The server behind this one does not answer, or takes no writes: no connection that
        is open now is used again."""
        if not self.is_given_up(connection):
            self._given_up_at = asyncio.get_running_loop().time()
            error = why if isinstance(why, StoreError) else translate(why)
            _log.warning("connections are opened anew", component="database", error=str(error))

    def part_with(self, connection: Connection, error: BaseException) -> None:
        """Cut the connection if the error shows that it is of no more use, and give up all if
        it shows that the server takes no writes."""
        if shows_read_only(error):
            self.give_up(connection, error)
        if is_lost(error):
            connection.terminate()

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


@dataclass(slots=True)
class _Hold:
    """What one call holds, and whether anybody still waits for it."""

    connection: Connection = None
    is_late: bool = False
    is_cancelled: bool = False


class Pool:
    """At most `size` connections, opened when needed; no call outlives its timeout.

    The deadline stands outside the driver: with a frozen server the driver's own timeout
    waits once more for its cancel request, and answers after twice the time. A connection
    whose call ran out of time is cut, not returned.

    A connection is looked at before it is used: one that carries nothing any more costs
    a moment and not the whole time of a call, and one of a server that takes no writes is
    not read from either.
    """

    def __init__(self, url: DatabaseUrl, *, size: int, guard: Guard, purpose: str) -> None:
        self._guard = guard
        self._url = url
        self._purpose = purpose
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._pool: asyncpg.Pool[Any] | None = None
        self._options: dict[str, Any] = {
            "min_size": 0,
            "max_size": size,
            "connect": self._connect,
            "connection_class": driver.Connection,
            # Nothing of ours changes the session, so there is nothing to reset: one round
            # trip less for each call.
            "reset": _keep,
        }

    async def _connect(self, _dsn: str | None, **options: Any) -> Connection:
        return await _open(self._url, self._purpose, **options)

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
        # Who may wait for long looks each time: what is lost would cost all of that.
        trusted_seconds = TRUSTED_SECONDS if timeout_seconds <= driver.CHECK_SECONDS else 0.0
        hold = _Hold()
        task = asyncio.create_task(self._perform(work, hold, trusted_seconds))
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_seconds)
        except asyncio.CancelledError:
            hold.is_cancelled = True
            self._abandon(task, hold)
            raise
        if not done:
            hold.is_late = True
            self._abandon(task, hold)
            raise StoreTimeout(f"no answer within {timeout_seconds:g} s")
        return task.result()

    async def _perform(
        self, work: Callable[[Connection], Awaitable[T]], hold: _Hold, trusted_seconds: float
    ) -> T:
        if self._pool is None:
            self._pool = await asyncpg.create_pool(**self._options)
        while not (hold.is_late or hold.is_cancelled):
            async with self._pool.acquire() as proxy:
                connection: Connection = cast(Any, proxy).itself
                hold.connection = connection
                try:
                    if await self._is_sound(connection, hold, trusted_seconds):
                        return await work(connection)
                except DRIVER_ERRORS as error:
                    self._guard.part_with(connection, error)
                    raise
                finally:
                    hold.connection = None
        raise StoreTimeout("no answer in time")

    async def _is_sound(self, connection: Connection, hold: _Hold, trusted_seconds: float) -> bool:
        """Whether it may be used; if not, it is cut."""
        now = asyncio.get_running_loop().time()
        if self._guard.is_given_up(connection):
            connection.terminate()
            return False
        if now - connection.checked_at < trusted_seconds:
            return True
        try:
            await driver.check(connection)
        except (StoreUnavailable, *DRIVER_ERRORS) as error:
            if not hold.is_cancelled:
                self._guard.give_up(connection, error)
            connection.terminate()
            return False
        connection.checked_at = now
        return True

    def _abandon(self, task: asyncio.Task[Any], hold: _Hold) -> None:
        # Cutting the connection ends the task by itself. To cancel it instead would make the
        # driver open another connection for a cancel request, to a server that may be frozen.
        if hold.connection is not None:
            hold.connection.terminate()
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

    def __init__(self, url: DatabaseUrl, *, guard: Guard, purpose: str) -> None:
        self._guard = guard
        self._url = url
        self._purpose = purpose
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
        if self.open_connections and self._guard.is_given_up(self._connection):
            self._connection.terminate()
        if not self.open_connections:
            async with asyncio.timeout_at(deadline):
                self._connection = await _open(self._url, self._purpose)
        connection = self._connection
        # Cut from outside: see Pool.
        cut = loop.call_at(deadline, connection.terminate)
        try:
            return await work(connection)
        except asyncio.CancelledError:
            connection.terminate()
            raise
        except DRIVER_ERRORS as error:
            self._guard.part_with(connection, error)
            raise
        finally:
            cut.cancel()

    async def close(self) -> None:
        """Cut it: whoever still used it has had its time."""
        if self._connection is not None:
            self._connection.terminate()


async def _open(url: DatabaseUrl, purpose: str, **options: Any) -> Connection:
    connection = await driver.connect(url, purpose, **options)
    # Cut from outside: see Pool.
    cut = asyncio.get_running_loop().call_later(driver.CHECK_SECONDS, connection.terminate)
    try:
        await connection.execute(QUERIES["limit_statements"], "10000")
    except BaseException:
        connection.terminate()
        raise
    finally:
        cut.cancel()
    return connection


async def _keep(_connection: Connection) -> None:
    """Leave the session as it is."""

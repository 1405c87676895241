"""The driver's errors, in our words."""

import asyncpg

from dory_orchestrator.ports import (
    StoreBusy,
    StoreDataError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)
"""Everything that the driver raises when the database, the way to it or a value is at fault."""

_BY_SQLSTATE: tuple[tuple[str, type[StoreError]], ...] = (
    # First match wins: a full code stands above its class.
    ("57014", StoreTimeout),  # query_canceled: statement_timeout
    ("55P03", StoreBusy),  # lock_not_available
    ("40", StoreBusy),  # deadlock, serialization
    ("25", StoreUnavailable),  # read-only transaction: a standby, or an operator's lock
    ("08", StoreUnavailable),  # connection
    ("28", StoreUnavailable),  # authorization
    ("3D", StoreUnavailable),  # no such database
    ("53", StoreUnavailable),  # too many connections, out of memory, disk full
    ("57", StoreUnavailable),  # shutting down, starting up
    ("58", StoreUnavailable),  # input or output error of the server
    ("XX", StoreUnavailable),  # corruption
    ("22", StoreDataError),
    ("23", StoreDataError),
    ("44", StoreDataError),  # a view's check option
    ("P0", StoreDataError),  # raised by a trigger of the platform's
    ("54", StoreDataError),  # program limit exceeded, such as an index row's size
)


_LOST = (
    "08",  # connection: also a pooler whose server has gone
    "57P",  # shutting down, crashed, starting up
    "58",  # input or output error of the server
    "XX",  # corruption
)


def shows_read_only(error: BaseException) -> bool:
    """Does it show that the server is not, or not any more, the one to write to?"""
    return isinstance(error, asyncpg.ReadOnlySQLTransactionError)


def is_lost(error: BaseException) -> bool:
    """Does it show that its connection is of no more use?"""
    if isinstance(error, asyncpg.PostgresError):
        return shows_read_only(error) or (error.sqlstate or "").startswith(_LOST)
    return isinstance(error, DRIVER_ERRORS) and not isinstance(error, asyncpg.DataError)


def translate(error: BaseException) -> StoreError:
    """The StoreError for an error of DRIVER_ERRORS; its text says what happened."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, asyncpg.ClientConfigurationError):
        return StoreUnavailable(f"the database URL is not usable: {text}")
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        kind = next((kind for code, kind in _BY_SQLSTATE if sqlstate.startswith(code)), StoreError)
        return kind(f"{text} (SQLSTATE {sqlstate})")
    if isinstance(error, asyncpg.DataError):
        return StoreDataError(text)
    if isinstance(error, TimeoutError):
        return StoreTimeout("no answer in time")
    return StoreUnavailable(text)

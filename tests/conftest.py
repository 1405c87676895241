"""Databases for tests: a real PostgreSQL, started once, and a fresh database for each test."""

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from tests import skips

from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.migrate import upgrade

_TEMPLATE = "dory_template"
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here, as only the first conftest of all may add one."""
    parser.addoption(
        "--with-e2e", action="store_true", help="also run tests/e2e, on the cluster of KUBECONFIG"
    )


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes says more of the machine than of the code.
    settings.register_profile(
        "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
    )
    settings.load_profile("unhurried")
    if config.getoption("hypothesis_seed") is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))
    _keep_sigint()


def pytest_report_header(config: pytest.Config) -> str:
    return f"the same examples again: --hypothesis-seed={config.getoption('hypothesis_seed')}"


def _keep_sigint() -> None:
    """A shell without job control starts what runs in the background with SIGINT ignored, and
    every child of the tests would inherit that: those that are to end by it never would."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test may ask for more time than all have, not for less: what hangs is found either way."""
    least = float(config.getoption("timeout") or config.getini("timeout") or 0)
    for item in items:
        marker = item.get_closest_marker("timeout")
        if marker is not None and marker.args[0] < least:
            item.add_marker(pytest.mark.timeout(least), append=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_if_skipped(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_if_skipped(report)


def _note_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """For `.ci/run`, which holds what is skipped against the reviewed list."""
    file = os.environ.get(skips.VARIABLE)
    if file and report.skipped and isinstance(report.longrepr, tuple):
        skips.note(file, report.nodeid, report.longrepr[2].removeprefix("Skipped: "))


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The server of the session. Tests that stop or freeze one take `own_postgres`."""
    with _Servers() as servers:
        server = servers.make()
        # Nothing of it outlives the session, so its files need not be safe: a database for a test
        # costs a sixth.
        _execute(server.start(), "ALTER SYSTEM SET fsync = off")
        _execute(server.start(), "SELECT pg_reload_conf()")
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Callable[[], EmbeddedPostgres]]:
    """Makes servers, not started, for this test alone: do with them what you like."""
    with _Servers() as servers:
        yield servers.make


@pytest.fixture
def empty_database_url(_server_url: str) -> Iterator[str]:
    """The URL of a new database without any table."""
    yield from _fresh_database(_server_url, "template0")


@pytest.fixture
def database_url(_server_url: str, _template: str) -> Iterator[str]:
    """The URL of a new database, migrated."""
    yield from _fresh_database(_server_url, _template)


@pytest.fixture
def new_database_url(_server_url: str, _template: str) -> Iterator[Callable[[], str]]:
    """Makes migrated databases, as many as a test wants."""
    with ExitStack() as made:
        fresh = contextmanager(_fresh_database)
        yield lambda: made.enter_context(fresh(_server_url, _template))


@pytest.fixture(scope="session")
def _server_url(postgres: EmbeddedPostgres) -> str:
    return postgres.start()


@pytest.fixture(scope="session")
def _template(_server_url: str) -> str:
    """A migrated database to copy: a copy takes a part of the time of the migrations."""
    _execute(_server_url, f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
    _in_a_thread(lambda: upgrade(_in_database(_server_url, _TEMPLATE)))
    return _TEMPLATE


class _Servers:
    """Servers in temporary folders; none of their processes and files outlives the block."""

    def __init__(self) -> None:
        self._made: list[tuple[EmbeddedPostgres, Path]] = []

    def make(self) -> EmbeddedPostgres:
        folder = Path(tempfile.mkdtemp(prefix="dory-test-"))
        server = EmbeddedPostgres(folder)
        self._made.append((server, folder))
        return server

    def __enter__(self) -> "_Servers":
        return self

    def __exit__(self, *_error: object) -> None:
        for server, folder in self._made:
            try:
                server.destroy()
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _fresh_database(url: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _execute(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield _in_database(url, name)
    _execute(url, f"DROP DATABASE {name} WITH (FORCE)")


def _in_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def _execute(url: str, statement: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    _in_a_thread(lambda: asyncio.run(work()))


def _in_a_thread(work: Callable[[], None]) -> None:
    """Where no event loop runs, nor is taken away from pytest-asyncio."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(work).result()

"""PgBouncer in front of a server of the tests, in session mode."""

import asyncio
import getpass
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.acceptance.real import free_port
from tests.patience import patient

from dory_orchestrator.core.database_url import read
from dory_orchestrator.store import embedded

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="there is no PgBouncer here (apt-get install pgbouncer)"
)
_START_SECONDS = 20.0


class Pooler:
    """One PgBouncer, to be killed and started again at the same port."""

    def __init__(self, url: str, folder: Path, **settings: str) -> None:
        self._database = read(url).database
        self._port = free_port()
        self._settings = folder / "pgbouncer.ini"
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self._port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "session",
            **settings,
        }
        host = read(url).places[0][0]
        self._settings.write_text(
            f"[databases]\n* = host={host} port=5432 user=postgres\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        for path in (folder, self._settings, *folder.glob("*.pem")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._log = folder / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the database through the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{self._database}"

    async def start(self) -> None:
        """Start it, and wait until it can be connected to."""
        self._process = self._launch()
        async with asyncio.timeout(patient(_START_SECONDS)):
            while not await self._answers():
                assert self._process.poll() is None, self._log.read_text()
                await asyncio.sleep(0.05)

    def _launch(self) -> "subprocess.Popen[bytes]":
        user = embedded._server_user()
        assert PROGRAM is not None
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [PROGRAM, "-u", user.pw_name if user else getpass.getuser(), str(self._settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def pooled(url: str, folder: Path, **settings: str) -> AsyncIterator[Pooler]:
    """A PgBouncer in front of a server of the tests."""
    pooler = Pooler(url, folder, **settings)
    await pooler.start()
    try:
        yield pooler
    finally:
        pooler.kill()

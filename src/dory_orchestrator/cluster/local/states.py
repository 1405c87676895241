"""State documents in the file of the client library (platform facts 12.3).

Its backend `local` knows nothing of data directories: one fixed folder of the machine holds
them all, by processor id.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from dory_orchestrator.ports import ClusterRefused, ClusterUnavailable, Refusal, StoredState

_BYTES_MAX = 64 * 1024 * 1024


def state_file(processor_id: UUID) -> Path:
    """Where the client library looks."""
    folder = Path("/data") if Path("/data").exists() else Path("/tmp")  # noqa: S108
    return folder / f"dory-state-{processor_id}.json"


def read_state(path: Path) -> StoredState | None:
    """The document there. Raises ClusterRefused, ClusterUnavailable."""
    with _as_cluster_errors(path):
        try:
            # Anybody can put something else under this name into a folder open to all.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ClusterRefused(Refusal.INVALID, f"{path} is no ordinary file")
        with os.fdopen(descriptor, "rb") as file:
            document = file.read(_BYTES_MAX + 1)
    if len(document) > _BYTES_MAX:
        raise ClusterRefused(Refusal.INVALID, f"{path} is longer than {_BYTES_MAX} bytes")
    return StoredState(document, hashlib.sha256(document).hexdigest())


def write_state(path: Path, document: bytes, version: str | None) -> None:
    """Put a document in the place of the one of `version`; None: where there must be none.

    Raises ClusterRefused (CONFLICT when something else stands there), ClusterUnavailable.
    """
    if len(document) > _BYTES_MAX:
        raise ClusterRefused(Refusal.TOO_LARGE, f"a document longer than {_BYTES_MAX} bytes")
    with _as_cluster_errors(path), _temporary(path, document) as written:
        if version is None:
            _place(written, path)
            return
        found = read_state(path)
        if found is None or found.version != version:
            raise ClusterRefused(Refusal.CONFLICT, f"{path} holds another version")
        written.replace(path)


def remove_state(path: Path, version: str) -> None:
    """Remove the document of `version`.

    Raises ClusterRefused (NOT_FOUND, CONFLICT when something else stands there),
    ClusterUnavailable.
    """
    found = read_state(path)
    if found is None:
        raise ClusterRefused(Refusal.NOT_FOUND, f"{path} is not there")
    if found.version != version:
        raise ClusterRefused(Refusal.CONFLICT, f"{path} holds another version")
    with _as_cluster_errors(path):
        path.unlink(missing_ok=True)


def _place(written: Path, path: Path) -> None:
    try:
        path.hardlink_to(written)
    except FileExistsError as error:
        raise ClusterRefused(Refusal.CONFLICT, f"{path} exists") from error


@contextlib.contextmanager
def _temporary(path: Path, content: bytes) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _as_cluster_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ClusterRefused(Refusal.FORBIDDEN, f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ClusterUnavailable(f"{path}: {error.strerror}") from error

"""Files that are whole or absent, also after a power loss."""

import contextlib
import errno
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks: what killed processes leave stays there
    fcntl = None  # type: ignore[assignment]

_CANNOT_SYNC = (errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
# Python repeats what a signal interrupts, but for close: that is then an error, though the file is closed.
_closed_anyway = contextlib.suppress(InterruptedError)


def is_full(error: OSError) -> bool:
    """Whether it is for want of space that something could not be written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_synced(path: Path, *data: bytes | memoryview) -> None:
    """Write ``data`` to a new file and sync it. For files inside a folder that is renamed when whole."""
    with _closed_anyway, path.open("wb") as file:
        for part in data:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Sync a folder's entries. A file system that knows no such thing is no error, a failing disk is one."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        with _closed_anyway:
            os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and its parents durably: what is synced in a folder that is not can be lost with it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_folder(folder.parent)


@contextlib.contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on leaving, make it durable and rename it to ``path``.

    The name is unique, so that two processes never write the same file: the later rename wins, whole.
    """
    make_folder(path.parent)
    _sweep(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        _lock(handle)  # until it is closed, at the latest by the death of this process
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would keep a shared file from its other readers
        with _closed_anyway, temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it must not hide the error that led here; the next one sweeps
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.close(handle)


def _lock(handle: int) -> bool:
    """Whether this process now holds the lock of an open file. False also where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, AttributeError):
        return False
    return True


def _sweep(path: Path) -> None:
    """Delete the temporary files of ``path`` that nobody holds: killed processes left them."""
    for litter in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), litter.open("rb") as file:
            if _lock(file.fileno()):
                litter.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: the old file or the new one is there at any instant, never a part."""
    with publish(path) as temporary:
        write_synced(temporary, data)

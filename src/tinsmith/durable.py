"""Files that are whole or absent, also after a power loss."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write ``data`` to a new file and sync it. For files inside a folder that is renamed when whole."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Sync a folder's entries; some file systems refuse, which is no error."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on leaving, make it durable and rename it to ``path``.

    The name is unique, so that two processes never write the same file: the later rename wins, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would keep a shared file from its other readers
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: the old file or the new one is there at any instant, never a part."""
    with publish(path) as temporary:
        temporary.write_bytes(data)

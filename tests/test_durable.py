"""Files that are whole or absent; what killed processes leave is swept, what live ones write is not."""

import errno
import os
from pathlib import Path

import pytest

from tinsmith.durable import make_folder, publish, replace_bytes, sync_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a[1].json"
    for data in (b"old", b"new"):
        replace_bytes(file, data)
        assert file.read_bytes() == data
        assert names(file.parent) == ["a[1].json"]
    assert file.stat().st_mode & 0o777 == 0o644


def test_an_error_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    replace_bytes(tmp_path / "a", b"old")
    with pytest.raises(IsADirectoryError), publish(tmp_path / "a") as temporary:
        temporary.write_bytes(tmp_path.read_bytes())
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_what_killed_processes_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / ".a.dead.tmp").write_bytes(b"part")
    with publish(tmp_path / "a") as mine:
        mine.write_bytes(b"mine")
        replace_bytes(tmp_path / "a", b"theirs")
        assert mine.exists()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_each_new_folder_is_synced_into_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path.name, "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


@pytest.mark.parametrize(
    ("number", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_a_folder_that_cannot_be_synced_is_no_failure_and_a_failing_disk_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fails: bool
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if fails:
        with pytest.raises(OSError, match="Input/output error"):
            replace_bytes(tmp_path / "a", b"")
    else:
        sync_folder(tmp_path)

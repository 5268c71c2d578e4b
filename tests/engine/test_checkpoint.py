"""A checkpoint is whole, or it is not there, or it is named as damaged."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from tinsmith import durable
from tinsmith.engine import checkpoint
from tinsmith.engine.checkpoint import (
    MANIFEST,
    best_checkpoint,
    find_checkpoints,
    link,
    prune,
    read_checkpoint,
    read_newest,
    write_checkpoint,
)
from tinsmith.errors import DataError, ResourceError


def state(step: int, metric: float | None = None, run: str = "a") -> dict[str, Any]:
    return {"run_id": run, "global_step": step, "saved_at": float(step), "best_here": metric}


def write(root: Path, step: int, metric: float | None = None, run: str = "a") -> Path:
    folder = root / f"step-{step:08d}-{run}"
    parts = {"model": {"w": torch.full((4,), float(step))}, "optimizer": {"m": torch.arange(3)}}
    write_checkpoint(folder, parts, state(step, metric, run))
    return folder


def steps(root: Path) -> list[int]:
    return [found.step for found in find_checkpoints(root)]


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    tied = torch.randn(3, 4)
    tensors = {
        "tied": tied,
        "also": tied,
        "turned": torch.randn(3, 4).T,
        "view": torch.randn(100)[7:9],
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "half": torch.randn(3).bfloat16(),
        "flag": torch.tensor([True, False]),
        "rng": torch.get_rng_state(),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    write_checkpoint(tmp_path / "c", {"model": tensors, "extra": {}}, {"a": [1, None, "ü"]})
    parts, values = read_checkpoint(tmp_path / "c")
    assert values == {"a": [1, None, "ü"]}
    assert parts["model"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(parts["model"][name], tensor, rtol=0, atol=0, equal_nan=True)
        assert parts["model"][name].dtype == tensor.dtype
    assert (
        tmp_path / "c" / "model.safetensors"
    ).stat().st_size < 8000  # a view does not drag its storage along


def test_no_file_is_a_pickle(tmp_path: Path) -> None:
    for file in write(tmp_path, 1).iterdir():
        assert file.suffix in (".safetensors", ".json")
        assert not file.read_bytes().startswith((b"\x80", b"PK"))


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", MANIFEST)


@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_seen_and_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, 1) / name
    whole = file.read_bytes()
    damaged = [whole[:-1], whole + b" " if name != MANIFEST else b"{}", b"", None]
    if name != MANIFEST:  # the manifest's own bits matter where they change what it says
        for at in {0, 7, 8, len(whole) // 2, len(whole) - 1}:
            for bit in (1, 128):
                damaged.append(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    for content in damaged:
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(DataError, match=f"damaged checkpoint: .*{name}"):
            read_checkpoint(file.parent)
    file.write_bytes(whole)
    assert read_checkpoint(file.parent)[1]["global_step"] == 1


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    text = (folder / MANIFEST).read_text().replace('"model.safetensors"', '"../model.safetensors"')
    (folder / MANIFEST).write_text(text)
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(DataError, match="does not describe a checkpoint"):
        read_checkpoint(folder)


def test_the_one_before_a_damaged_one_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = [write(tmp_path, step) for step in (1, 2, 3)]
    (folders[2] / "model.safetensors").write_bytes(b"x")
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest[0] == folders[1]
    assert newest[1]["model"]["w"].tolist() == [2.0] * 4
    assert "step-00000003-a/model.safetensors" in caplog.text
    for folder in folders:
        (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"every checkpoint in .* is damaged: step-00000003-a, step-00000002-a"
    ):
        read_newest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [(b'"run_id": "a"', b'"run_id": "c"'), (b'"saved_at": 3.0', b'"saved_at": "3"'), (b"{", b"[")],
    ids=str,
)
def test_a_damaged_state_orders_nothing(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    """A flipped bit in the run's name must not hide every whole checkpoint of the run."""
    folders = [write(tmp_path, step) for step in (1, 2, 3)]
    data = (folders[2] / "state.json").read_bytes()
    assert change[0] in data
    (folders[2] / "state.json").write_bytes(data.replace(*change))
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest[0] == folders[1]


def test_damaged_states_are_not_the_same_as_no_checkpoint(tmp_path: Path) -> None:
    """Or a run would start anew, silently."""
    (write(tmp_path, 1) / "state.json").write_bytes(b"")
    with pytest.raises(DataError, match=r"every checkpoint in .* is damaged: step-00000001-a\. Put back"):
        read_newest(tmp_path)


def test_where_there_is_none(tmp_path: Path) -> None:
    assert read_newest(tmp_path) is None
    assert read_newest(tmp_path / "nowhere") is None
    assert best_checkpoint(tmp_path) is None


def test_the_run_that_saved_last_is_the_one_that_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 90, run="old")
    new = tmp_path / "step-00000005-new"
    write_checkpoint(new, {"model": {}}, state(5, run="new") | {"saved_at": 1000.0})
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest[0] == new


def test_half_built_ones_and_links_are_not_seen(tmp_path: Path) -> None:
    folder = write(tmp_path, 4)
    shutil.copytree(folder, tmp_path / ".tmp-step-00000009-a-123")
    (tmp_path / "last").symlink_to(folder.name)
    (tmp_path / "empty").mkdir()
    assert steps(tmp_path) == [4]
    link(tmp_path, "last", tmp_path / "step-00000001-gone")  # a link that lies
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest[0] == folder


class Failing:
    """Lets a number of calls through, and fails from then on."""

    def __init__(self, real: Any, after: int) -> None:
        self.real, self.left = real, after

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        return self.real(*args, **options)


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("after", range(5))
def test_a_failing_disk_leaves_the_earlier_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    write(tmp_path, 1)
    with monkeypatch.context() as patch:
        if call == "rename":
            patch.setattr(Path, "rename", Failing(Path.rename, 0))
        else:  # two parts, the state, the manifest, the folder
            patch.setattr(os, "fsync", Failing(os.fsync, after))
        with pytest.raises(
            ResourceError, match=r"No space left on device\. Earlier checkpoints are untouched"
        ):
            write(tmp_path, 2)
    assert not list(tmp_path.glob(".tmp-*"))
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest[2]["global_step"] == 1


def test_no_save_is_said_to_be_done_whose_name_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", Failing(os.fsync, 5))
    with pytest.raises(ResourceError):
        write(tmp_path, 2)


def test_what_a_killed_process_of_the_same_number_left_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / f".tmp-step-00000001-a-{os.getpid()}" / "folder").mkdir(parents=True)
    (tmp_path / f".tmp-step-00000002-a-{os.getpid()}").write_bytes(b"a file")
    write(tmp_path, 1)
    write(tmp_path, 2)
    assert steps(tmp_path) == [2, 1]
    assert not list(tmp_path.glob(".tmp-*"))


def test_everything_is_synced_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file, then the folder, then the rename, then the parent."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_sync(fd: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def note_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(durable.os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    root = tmp_path / "checkpoints"
    root.mkdir()
    write(root, 1)
    at = events.index("rename")
    assert events[at - 1].startswith(".tmp-")
    assert events[at - 2] == MANIFEST
    assert set(events[: at - 2]) >= set(FILES) - {MANIFEST}
    assert events[at + 1] == "checkpoints"


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step, metric in ((1, 0.5), (2, 0.4), (3, None), (4, None), (5, None)):
        write(tmp_path, step, metric)
    other = write(tmp_path, 3, run="b")
    stale = tmp_path / ".tmp-step-00000007-a-1"
    stale.mkdir()
    prune(tmp_path, "a", keep=2)
    assert sorted(step for step in steps(tmp_path)) == [2, 3, 4, 5]
    assert other.exists()
    assert not stale.exists()
    best = best_checkpoint(tmp_path)
    assert best is None or best.name == "step-00000002-a"


def damage(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def test_damaged_ones_keep_no_whole_one_out(tmp_path: Path) -> None:
    folders = [write(tmp_path, step, metric) for step, metric in ((1, 0.9), (2, 0.5), (3, None), (4, None))]
    folders += [write(tmp_path, step, 1 / step) for step in (5, 6)]
    for folder in folders[4:]:
        damage(folder)
    prune(tmp_path, "a", keep=2)
    assert steps(tmp_path) == [6, 5, 4, 3, 2]
    assert best_checkpoint(tmp_path) == folders[1]
    for step in (7, 8):  # two whole ones later the damaged ones are of no use
        write(tmp_path, step, 1 / step)
    prune(tmp_path, "a", keep=2)
    assert steps(tmp_path) == [8, 7]


def test_the_sweep_does_not_follow_links(tmp_path: Path) -> None:
    """A process killed inside ``link`` leaves a link to a checkpoint that is in use."""
    folder = write(tmp_path, 1)
    (tmp_path / ".tmp-last-1").symlink_to(folder.name)
    prune(tmp_path, "a", keep=2)
    assert steps(tmp_path) == [1]
    assert not (tmp_path / ".tmp-last-1").is_symlink()


def test_the_sweep_leaves_what_another_thread_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", lambda path, to: (prune(tmp_path, "a", 2), os.rename(path, to)))
    write(tmp_path, 1)
    assert steps(tmp_path) == [1]


def test_a_deletion_that_fails_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", Failing(None, 0))
        prune(tmp_path, "a", keep=2)
    assert "could not delete" in caplog.text
    assert steps(tmp_path) == [3, 2]  # what is deleted in part is not seen
    prune(tmp_path, "a", keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002-a", "step-00000003-a"]


def test_at_least_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    prune(tmp_path, "a", keep=0)
    assert sorted(steps(tmp_path)) == [2, 3]


def test_the_best_one_is_the_newest_that_was_best_and_whole(tmp_path: Path) -> None:
    first, second = write(tmp_path, 1, 0.1), write(tmp_path, 2, 0.3)
    write(tmp_path, 3)
    assert best_checkpoint(tmp_path) == second
    (second / "model.safetensors").write_bytes(b"")
    assert best_checkpoint(tmp_path) == first


def test_a_file_system_without_links_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "symlink_to", Failing(None, 0))
    link(tmp_path, "last", write(tmp_path, 1))
    assert not (tmp_path / "last").exists()
    assert checkpoint.read_newest(tmp_path) is not None


def test_the_files_are_those_that_the_library_reads(tmp_path: Path) -> None:
    """Our writer puts the tensors' own memory on disk; safetensors' checks and offsets must agree."""
    tensors = {f"t{i}": torch.zeros(i, 3).to(kind) for i, kind in enumerate(checkpoint._DTYPES)}
    tensors |= {f"scalar {i}": torch.ones(()).to(kind) for i, kind in enumerate(checkpoint._DTYPES)}
    write_checkpoint(tmp_path / "c", {"model": tensors}, state(1))
    with safetensors.safe_open(tmp_path / "c" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == tensors.keys()
        for name, tensor in tensors.items():
            read = file.get_tensor(name)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            bits, expected = (t.reshape(-1).view(torch.uint8) for t in (read, tensor))
            assert torch.equal(bits, expected)

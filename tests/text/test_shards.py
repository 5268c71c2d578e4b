"""Arrays in shards: the twin of one numpy array, and every damage named."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.errors import DataError, ResourceError
from tinsmith.text.shards import Rows, damage, read_shards, shard_path, write_shard


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.data())
def test_rows_read_like_the_one_array(lengths: list[int], data: st.DataObject) -> None:
    whole = np.arange(2 * sum(lengths), dtype=np.float32).reshape(-1, 2)
    rows = Rows(np.split(whole, np.cumsum(lengths)[:-1]))
    assert (len(rows), rows.shape, rows.dtype) == (len(whole), whole.shape, whole.dtype)
    assert np.array_equal(np.asarray(rows), whole)
    bounds = st.none() | st.integers(-12, 12)
    step = data.draw(st.sampled_from([None, 1, 2, -1, -3]))
    cut = slice(data.draw(bounds), data.draw(bounds), step)
    assert np.array_equal(rows[cut], whole[cut])
    if len(whole):
        indices = data.draw(st.lists(st.integers(-len(whole), len(whole) - 1)))
        assert np.array_equal(rows[np.array(indices, int)], whole[np.array(indices, int)])
        assert np.array_equal(rows[indices[:1]], whole[np.array(indices[:1], int)])
        assert np.array_equal(rows[-1], whole[-1])
        assert np.array_equal(rows[whole[:, 0] > 3], whole[whole[:, 0] > 3])


def test_rows_out_of_range() -> None:
    rows = Rows([np.zeros((3, 2)), np.zeros((2, 2))])
    for bad in (5, -6, [0, 5], [-6]):
        with pytest.raises(IndexError, match="of 5 rows"):
            rows[bad]


def test_all_rows_of_one_shard_are_not_copied_unless_asked() -> None:
    array = np.ones((3, 2), np.float32)
    rows = Rows([array])
    assert np.shares_memory(np.asarray(rows), array)
    assert not np.shares_memory(np.array(rows), array)
    assert np.asarray(rows, np.float64).dtype == np.float64


def test_written_shards_are_read_back_mapped(tmp_path: Path) -> None:
    parts = [np.random.default_rng(i).normal(size=(3 + i, 4)).astype(np.float32) for i in range(3)]
    entries = [write_shard(tmp_path, i, len(part), {"vectors": part}) for i, part in enumerate(parts)]
    rows = read_shards(tmp_path, "vectors", 3)
    assert np.array_equal(np.asarray(rows), np.concatenate(parts))
    assert isinstance(rows._parts[0], np.memmap)
    assert [damage(tmp_path, i, entry) for i, entry in enumerate(entries)] == [None] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"vectors-0000{i}.npy" for i in range(3)]


def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    entry = write_shard(tmp_path, 0, 2, {"vectors": np.ones((2, 3), np.float32)})
    path = shard_path(tmp_path, "vectors", 0)
    good = path.read_bytes()
    for index in range(len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
        assert "vectors-00000.npy: is damaged" in str(damage(tmp_path, 0, entry))
    for length in (0, 5, len(good) - 1):
        path.write_bytes(good[:length])
        message = str(damage(tmp_path, 0, entry, verify=False))
        assert f"is cut or changed: {length} bytes, expected {len(good)}" in message
    path.unlink()
    assert "is missing" in str(damage(tmp_path, 0, entry))


def test_what_is_no_array_or_another_width_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, 2, {"vectors": np.ones((2, 3), np.float32)})
    shard_path(tmp_path, "vectors", 1).write_bytes(b"no array")
    with pytest.raises(DataError, match=r"vectors-00001\.npy: not an array"):
        read_shards(tmp_path, "vectors", 2)
    write_shard(tmp_path, 1, 2, {"vectors": np.ones((2, 4), np.float32)})
    with pytest.raises(DataError, match=r"vectors-00001\.npy: rows \(4,\) of float32"):
        read_shards(tmp_path, "vectors", 2)
    np.save(shard_path(tmp_path, "vectors", 1), np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="not an array"):
        read_shards(tmp_path, "vectors", 2)


def test_a_full_disk_is_a_resource_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ResourceError, match=r"No space left on device; free space, or set TINSMITH_CACHE"
    ) as caught:
        write_shard(tmp_path, 0, 2, {"vectors": np.ones((2, 3), np.float32)})
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tinsmith.engine.data import AugmentedDataset, BatchDataset, Loader, sample_order, to_device
from tinsmith.engine.seed import get_rng_state
from tinsmith.errors import ConfigError


class Rows(BatchDataset):
    def __init__(self, n: int) -> None:
        self.n = n
        self.fetched: list[list[int]] = []

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Tensor) -> Tensor:
        self.fetched.append(indices.tolist())
        return indices.clone()


class Drawn(AugmentedDataset):
    """Says what it was asked for."""

    def __len__(self) -> int:
        return 11

    def batch(self, indices: Tensor) -> Tensor:
        raise AssertionError("a loader asks for the augmented ones")

    def augmented(self, indices: Tensor, seed: int, epoch: int) -> Tensor:
        return torch.stack([indices, torch.full_like(indices, seed), torch.full_like(indices, epoch)], 1)


class Noisy(Dataset[Tensor]):
    """Draws from all three global generators."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor(
            [i, torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64
        )


def read(batches: Any, epoch: int = 0, cursor: int = 0) -> list[Any]:
    return [batch.tolist() for _, batch in batches.epoch(epoch, cursor)]


def generators() -> str:
    return repr(get_rng_state())


@given(st.integers(1, 60), st.integers(0, 2**40), st.integers(0, 9), st.integers(1, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_order_is_a_permutation_that_seed_and_epoch_decide(
    n: int, seed: int, epoch: int, size: int, bucketed: bool
) -> None:
    lengths = torch.arange(n) % 7 if bucketed else None
    order = sample_order(n, seed, epoch, lengths, size)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, sample_order(n, seed, epoch, lengths, size))
    if n > 20 and not bucketed:
        assert not torch.equal(order, sample_order(n, seed, epoch + 1, lengths, size))
        assert not torch.equal(order, sample_order(n, seed + 1, epoch, lengths, size))


def test_batches_of_equal_length() -> None:
    lengths = torch.randint(1, 50, (203,), generator=torch.Generator().manual_seed(0))
    order = sample_order(203, 0, 0, lengths, 10)
    spread = [(lengths[run].max() - lengths[run].min()).item() for run in order[:200].split(10)]
    assert max(spread) <= 8
    means = [lengths[run].float().mean().item() for run in order[:200].split(10)]
    assert means != sorted(means)
    left = {tuple(sample_order(203, 0, epoch, lengths, 10)[200:].tolist()) for epoch in range(5)}
    assert len(left) > 1  # which samples make the short batch changes


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("lengths", [None, list(range(23))])
@pytest.mark.parametrize("shuffle", [False, True])
def test_from_any_cursor_come_exactly_the_rest(shuffle: bool, lengths: Any, drop_last: bool) -> None:
    loader = Loader(Rows(23), 5, shuffle=shuffle, seed=3, lengths=lengths, drop_last=drop_last)
    whole = read(loader, 2)
    assert len(whole) == len(loader) == (4 if drop_last else 5)
    cursor = 0
    for i, batch in enumerate(whole):
        assert read(loader, 2, cursor) == whole[i:]
        cursor += len(batch)
    assert read(loader, 2, cursor) == []


def test_drop_last_keeps_what_is_all_there_is() -> None:
    assert len(read(Loader(Rows(3), 5, drop_last=True))) == len(Loader(Rows(3), 5, drop_last=True)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_noise_depends_on_seed_epoch_and_index_alone(workers: int) -> None:
    def samples(
        batch_size: int, shuffle: bool, epoch: int = 1, cursor: int = 0, seed: int = 7
    ) -> dict[float, Any]:
        loader = Loader(Noisy(), batch_size, shuffle=shuffle, seed=seed, num_workers=workers)
        return {row[0]: row for batch in read(loader, epoch, cursor) for row in batch}

    expected = samples(4, True)
    assert len({tuple(row[1:]) for row in expected.values()}) == 11
    assert samples(3, False) == expected
    later = samples(4, True, cursor=8)
    assert later == {index: expected[index] for index in later}
    assert samples(4, True, epoch=2)[0.0] != expected[0.0]
    assert samples(4, True, seed=8)[0.0] != expected[0.0]


def masked(samples: list[Tensor]) -> Tensor:
    """A collate that draws: a random part of the batch is masked."""
    batch = torch.stack(samples)
    return batch * (torch.rand(batch.shape) < 0.5)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dataset", [[torch.full((30,), float(i)) for i in range(1, 12)], Noisy()])
def test_noise_of_a_collate_is_that_of_its_batch(dataset: Any, workers: int) -> None:
    def batches(epoch: int = 1, cursor: int = 0) -> list[Any]:
        loader = Loader(dataset, 4, shuffle=True, seed=7, collate=masked, num_workers=workers)
        return read(loader, epoch, cursor)

    before, expected = generators(), batches()
    assert generators() == before
    assert batches() == expected
    assert batches(cursor=4) == expected[1:]
    assert batches(epoch=2) != expected
    if isinstance(dataset, list):
        masks = [[[value != 0 for value in row] for row in batch] for batch in expected[:2]]
        assert masks[0] != masks[1]


def test_workers_give_what_no_workers_give() -> None:
    for dataset in (Noisy(), Rows(11), TensorDataset(torch.arange(11.0))):
        alone = [repr(batch) for _, batch in Loader(dataset, 3, shuffle=True, seed=1).epoch(0)]
        helped = [
            repr(batch) for _, batch in Loader(dataset, 3, shuffle=True, seed=1, num_workers=2).epoch(0)
        ]
        assert alone == helped


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("lengths", [None, list(range(11))])
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_the_parts_of_a_batch_together_are_the_batch(parts: int, lengths: Any, drop_last: bool) -> None:
    loader = Loader(Noisy(), 4, shuffle=True, seed=3, lengths=lengths, drop_last=drop_last)
    for cursor in (0, 4):
        whole = list(loader.epoch(2, cursor))
        assert len(whole) == len(loader) - cursor // 4
        shares = [list(loader.epoch(2, cursor, part, parts)) for part in range(parts)]
        for (count, batch), *told in zip(whole, *shares, strict=True):
            assert {number for number, _ in told} == {count}
            pieces = [piece for _, piece in told]
            sizes = [len(piece) for piece in torch.arange(count).tensor_split(parts)]
            assert [None if piece is None else len(piece) for piece in pieces] == [n or None for n in sizes]
            assert torch.equal(torch.cat([piece for piece in pieces if piece is not None]), batch)


def test_a_part_is_all_that_is_fetched() -> None:
    rows = Rows(8)
    assert [count for count, _ in Loader(rows, 5).epoch(0, 0, 1, 2)] == [5, 3]
    assert rows.fetched == [[3, 4], [7]]


@pytest.mark.parametrize("part", [0, 4])
def test_workers_read_parts_too(part: int) -> None:
    alone, helped = (
        repr(list(Loader(Noisy(), 4, shuffle=True, num_workers=workers).epoch(1, 4, part, 5)))
        for workers in (0, 2)
    )
    assert alone == helped
    assert ("None" in alone) == (part == 4)


def test_batches_that_are_made_already_have_no_parts() -> None:
    loader = Loader([torch.arange(3), torch.arange(2)], None)
    assert read(loader) == [[0, 1, 2], [0, 1]]
    assert len(loader) == 2
    with pytest.raises(ConfigError, match="made already"):
        loader.epoch(0, 0, 0, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generators_alone(workers: int) -> None:
    before = generators()
    read(Loader(Noisy(), 3, shuffle=True, num_workers=workers))
    Loader(Noisy(), 3, shuffle=True).longest()
    assert generators() == before


def test_the_longest_batch() -> None:
    assert sorted(
        Loader(Rows(9), 3, shuffle=True, lengths=[1, 9, 1, 8, 1, 7, 1, 1, 1]).longest().tolist()
    ) == [1, 3, 5]
    assert len(Loader(Rows(9), 3).longest()) == 3


def test_tensors_are_gathered_as_collate_would() -> None:
    dataset = TensorDataset(torch.randn(10, 3), torch.arange(10))
    ours = list(Loader(dataset, 4))
    theirs = list(DataLoader(dataset, 4))
    assert all(
        torch.equal(a, b)
        for one, two in zip(ours, theirs, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(10),
        torch.arange(60.0).view(10, 2, 3),
        torch.arange(30.0).view(3, 10).T,
        torch.arange(3.0).expand(10, 3),
        torch.empty(10, 0),
        torch.arange(30).view(10, 3).bfloat16(),
        torch.arange(30).view(10, 3).to(torch.complex64),
        torch.arange(30).view(10, 3) % 2 == 0,
        torch.arange(30, dtype=torch.int32).view(10, 3).to(torch.uint16),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)}-{tensor.dtype}",
)
def test_rows_of_every_kind_are_gathered(tensor: Tensor) -> None:
    batches = [batch for (batch,) in Loader(TensorDataset(tensor), 4)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [row for batch in batches for row in batch.tolist()] == tensor.tolist()


def test_a_mapped_file_is_read_as_a_tensor_is(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "x.npy", array)
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    from_file, from_memory = (
        [batch.tolist() for (batch,) in Loader(TensorDataset(data), 6, shuffle=True, seed=1)]
        for data in (mapped, torch.from_numpy(array))
    )
    assert from_file == from_memory
    assert sorted(row for batch in from_file for row in batch) == array.tolist()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        Loader(Rows(3), 0)
    with pytest.raises(ValueError, match="empty"):
        Loader(Rows(0), 2)


def test_batches_of_every_shape_move() -> None:
    pair = torch.ones(1), {"a": [torch.ones(1), "text"], "b": 3}
    moved = to_device(pair, torch.device("meta"))
    assert moved[0].device.type == moved[1]["a"][0].device.type == "meta"
    assert moved[1]["a"][1] == "text"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_augmented_data_set_is_told_seed_and_epoch(workers: int) -> None:
    loader = Loader(Drawn(), 4, shuffle=True, seed=5, num_workers=workers)
    for epoch in (0, 3):
        rows = torch.cat([batch for _, batch in loader.epoch(epoch)])
        assert rows[:, 0].tolist() == loader.order(epoch).tolist()
        assert rows[:, 1].unique().tolist() == [5]
        assert rows[:, 2].unique().tolist() == [epoch]
    rest = torch.cat([batch for _, batch in loader.epoch(3, cursor=4)])
    assert torch.equal(rest, rows[4:])

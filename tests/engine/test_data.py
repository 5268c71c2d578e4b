import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from tinsmith.engine.data import BatchDataset, Loader, Replayed, as_batches, sample_order, to_device
from tinsmith.engine.seed import get_rng_state


class Rows(BatchDataset):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Tensor) -> Tensor:
        return indices.clone()


class Noisy(Dataset[Tensor]):
    """Draws from all three global generators."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor(
            [i, torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64
        )


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(7)


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


def test_workers_give_what_no_workers_give() -> None:
    for dataset in (Noisy(), Rows(11), TensorDataset(torch.arange(11.0))):
        alone = [repr(batch) for _, batch in Loader(dataset, 3, shuffle=True, seed=1).epoch(0)]
        helped = [
            repr(batch) for _, batch in Loader(dataset, 3, shuffle=True, seed=1, num_workers=2).epoch(0)
        ]
        assert alone == helped


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generators_alone(workers: int) -> None:
    before = generators()
    read(Loader(Noisy(), 3, shuffle=True, num_workers=workers))
    Loader(Noisy(), 3, shuffle=True).longest()
    read(Replayed(DataLoader(Noisy(), 3, shuffle=True, num_workers=workers)))
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


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        Loader(Rows(3), 0)
    with pytest.raises(ValueError, match="empty"):
        Loader(Rows(0), 2)


def test_a_dataloader_keeps_its_data_and_its_batches(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = TensorDataset(torch.arange(10.0))
    ours = as_batches(DataLoader(data, 3, shuffle=True, drop_last=True), seed=5)
    assert isinstance(ours, Loader)
    assert (ours.batch_size, ours.shuffle, ours.drop_last, ours.seed) == (3, True, True, 5)
    assert "shuffles the samples itself" in caplog.text
    caplog.clear()
    plain = as_batches(DataLoader(data, 4))
    assert isinstance(plain, Loader)
    assert [batch[0].tolist() for batch in plain] == [batch[0].tolist() for batch in DataLoader(data, 4)]
    assert not caplog.text
    single = as_batches(DataLoader([torch.ones(2), torch.zeros(2)], batch_size=None))
    assert [batch.tolist() for batch in single] == [[1, 1], [0, 0]]  # type: ignore[attr-defined]
    collated = as_batches(DataLoader([1, 2, 3], 2, collate_fn=lambda rows: torch.tensor(rows) * 10))
    assert read(collated) == [[10, 20], [30]]


def test_a_list_of_batches_is_read_in_its_order() -> None:
    batches = [torch.tensor([i]) for i in range(4)]
    assert read(as_batches(batches)) == [[0], [1], [2], [3]]
    assert read(as_batches(batches), cursor=2) == [[2], [3]]
    ours = Loader(Rows(3), 2)
    assert as_batches(ours) is ours


@pytest.mark.parametrize("kind", ["sampler", "stream", "replacement"])
def test_what_has_an_order_of_its_own_is_replayed(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    data = torch.arange(12)
    loader: Any = {
        "sampler": lambda: DataLoader(data, 3, sampler=WeightedRandomSampler([1.0] * 12, 12)),
        "stream": lambda: DataLoader(Stream(), 2),
        "replacement": lambda: DataLoader(
            data, 3, sampler=torch.utils.data.RandomSampler(range(12), replacement=True)
        ),
    }[kind]()
    batches = as_batches(loader, seed=1)
    assert isinstance(batches, Replayed)
    assert "replays it to the cursor" in caplog.text
    whole = read(batches, 1)
    assert read(batches, 1) == whole
    assert read(batches, 1, 2) == whole[2:]
    if kind != "stream":
        assert read(batches, 2) != whole
        assert len(batches) == len(whole)


def test_a_replayed_loader_keeps_its_noise_apart_from_trainings() -> None:
    batches = as_batches(DataLoader(Noisy(), 3, sampler=WeightedRandomSampler([1.0] * 11, 11)))
    whole = read(batches)
    mixed = []
    for _, batch in batches.epoch(0):
        torch.rand(5)  # training draws too
        mixed.append(batch.tolist())
    assert mixed == whole


def test_batches_of_every_shape_move() -> None:
    pair = torch.ones(1), {"a": [torch.ones(1), "text"], "b": 3}
    moved = to_device(pair, torch.device("meta"))
    assert moved[0].device.type == moved[1]["a"][0].device.type == "meta"
    assert moved[1]["a"][1] == "text"

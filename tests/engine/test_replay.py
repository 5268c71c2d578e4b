import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tinsmith.engine.data import Loader
from tinsmith.engine.replay import Replayed, as_batches
from tinsmith.engine.seed import get_rng_state
from tinsmith.errors import ConfigError


class Noisy(Dataset[Tensor]):
    """Draws from all three global generators."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor([i, torch.rand(()).item(), random.random(), np.random.rand()])


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(7)


def read(batches: Any, epoch: int = 0, cursor: int = 0) -> list[Any]:
    return [batch.tolist() for _, batch in batches.epoch(epoch, cursor)]


def weighted(data: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, 3, sampler=WeightedRandomSampler([1.0] * len(data), len(data)), **options)


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
    assert read(single) == [[1, 1], [0, 0]]
    collated = as_batches(DataLoader([1, 2, 3], 2, collate_fn=lambda rows: torch.tensor(rows) * 10))
    assert read(collated) == [[10, 20], [30]]


def test_a_list_of_batches_is_read_in_its_order() -> None:
    batches = [torch.tensor([i]) for i in range(4)]
    assert read(as_batches(batches)) == [[0], [1], [2], [3]]
    assert read(as_batches(batches), cursor=2) == [[2], [3]]
    ours = Loader(range(3), 2)
    assert as_batches(ours) is ours


@pytest.mark.parametrize("kind", ["sampler", "batch sampler", "stream", "replacement"])
def test_what_has_an_order_of_its_own_is_replayed(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    data = torch.arange(12)
    loader: Any = {
        "sampler": lambda: weighted(data),
        "batch sampler": lambda: DataLoader(
            data, batch_sampler=BatchSampler(RandomSampler(range(12)), 3, drop_last=False)
        ),
        "stream": lambda: DataLoader(Stream(), 2),
        "replacement": lambda: DataLoader(data, 3, sampler=RandomSampler(range(12), replacement=True)),
    }[kind]()
    batches = as_batches(loader, seed=1)
    assert isinstance(batches, Replayed)
    assert "replays it to the cursor" in caplog.text
    whole = read(batches, 1)
    assert [len(batch) for batch in whole] == ([2, 2, 2, 1] if kind == "stream" else [3, 3, 3, 3])
    assert read(batches, 1) == whole
    assert read(batches, 1, 2) == whole[2:]
    if kind != "stream":
        assert read(batches, 2) != whole
        assert len(batches) == len(whole)


def test_a_replayed_loader_keeps_its_noise_apart_from_trainings() -> None:
    batches = as_batches(weighted(Noisy()))
    whole = read(batches)
    mixed = []
    for _, batch in batches.epoch(0):
        torch.rand(5)  # training draws too
        mixed.append(batch.tolist())
    assert mixed == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generators_alone(workers: int) -> None:
    before = repr(get_rng_state())
    read(Replayed(DataLoader(Noisy(), 3, shuffle=True, num_workers=workers)))
    assert repr(get_rng_state()) == before


def test_only_samples_can_be_shared_among_processes() -> None:
    samples = as_batches(DataLoader(TensorDataset(torch.arange(8)), 4, shuffle=True))
    assert [len(batch) for _, (batch,) in samples.epoch(0, 0, 1, 2)] == [2, 2]
    ready = [torch.arange(4)]
    own_order = weighted(torch.arange(8)), DataLoader(Stream())
    for loader in (ready, DataLoader(ready, batch_size=None), *own_order):
        batches = as_batches(loader)
        assert list(batches.epoch(0, 0, 0, 1))
        with pytest.raises(ConfigError, match=r"cannot be shared among processes.*with a batch size"):
            batches.epoch(0, 0, 0, 2)

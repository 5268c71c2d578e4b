"""Batches whose order and noise are pure functions of (seed, epoch, position), from any cursor.

Nothing depends on workers, prefetch or what was read before, so the whole state of the data is two
integers: the epoch, and how many of its samples were consumed.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tinsmith.engine.interrupt import hold_signals
from tinsmith.engine.seed import preserve_rng
from tinsmith.errors import ConfigError

Collate = Callable[[list[Any]], Any]
Fetch = Callable[[Tensor, int, int], Any]  # indices, seed and epoch -> batch
Counted = tuple[int, Any]  # how far the cursor moves, and the batch


class Batches(Protocol):
    """What the trainer reads: ``Loader``, and ``Replayed`` for what has an order of its own."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, cursor: int = 0, part: int = 0, parts: int = 1) -> Iterator[Counted]: ...
    def samples(self, epoch: int, cursor: int, count: int) -> list[int]: ...
    def longest(self, parts: int = 1) -> Any: ...


class BatchDataset(ABC):
    """A data set that makes a whole batch at once from indices: no Python per sample."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> Any:
        """The batch of the samples ``indices`` (int64 [B])."""


class AugmentedDataset(BatchDataset):
    """A ``BatchDataset`` whose samples are drawn anew in each epoch."""

    @abstractmethod
    def augmented(self, indices: Tensor, seed: int, epoch: int) -> Any:
        """The batch of the samples ``indices``; a sample's noise is a function of (seed, epoch, index)."""


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from integers, well mixed: neighbours give unrelated streams (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def sample_order(n: int, seed: int, epoch: int, lengths: Tensor | None = None, batch_size: int = 1) -> Tensor:
    """A permutation of ``range(n)``, int64 [n], that depends on (seed, epoch) alone.

    With ``lengths`` [n], samples of nearly equal length come in runs of ``batch_size``, the runs in random
    order: a batch then needs little padding. A shorter run, if any, comes last.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    order = torch.randperm(n, generator=generator)
    if lengths is None:
        return order
    order = order[torch.argsort(lengths[order], stable=True)]  # equal lengths stay in random order
    full = n // batch_size
    # The leftover samples are drawn from anywhere, not always the longest ones.
    start = int(torch.randint(n - full * batch_size + 1, (), generator=generator)) if full else 0
    runs = order[start : start + full * batch_size].view(full, batch_size)
    runs = runs[torch.randperm(full, generator=generator)]
    return torch.cat([runs.reshape(-1), order[:start], order[start + full * batch_size :]])


class Loader:
    """Batches of a map-style data set, exactly resumable.

    Args:
        dataset: a ``BatchDataset`` (an ``AugmentedDataset`` draws anew in each epoch) or a ``TensorDataset``
            (all read without Python per sample), or anything with ``__len__`` and ``__getitem__``. What its
            ``__getitem__`` draws from the global generators (torch, numpy, random) is a function of (seed,
            epoch, index). Arrays larger than the memory:
            ``TensorDataset(torch.from_numpy(np.load(path, mmap_mode="c")))``.
        batch_size: samples in a batch; None: each is a batch already, and ``collate`` is not used.
        shuffle: a new order each epoch; else the data set's own.
        collate: list of samples -> batch; torch's ``default_collate`` if None.
        num_workers: processes that read ahead. The batches do not depend on it.
        lengths: [n] sizes of the samples, to make batches of nearly equal length.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        collate: Collate | None = None,
        num_workers: int = 0,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not allowed: 1 or more")
        if len(dataset) == 0:
            raise ValueError("the data set is empty")
        self.ready_made = batch_size is None
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size or 1, shuffle, seed
        self.drop_last, self.num_workers = drop_last, num_workers
        self.lengths = None if lengths is None else torch.as_tensor(lengths)
        self._fetch = _fetcher(dataset, _first if self.ready_made else collate)

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (1 if rest and (not self.drop_last or not full) else 0)

    def __iter__(self) -> Iterator[Any]:
        """The batches of epoch 0."""
        return (batch for _, batch in self.epoch(0))

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch, int64 [n], in the order in which they are consumed."""
        n = len(self.dataset)
        if self.shuffle:
            return sample_order(n, self.seed, epoch, self.lengths, self.batch_size)
        return torch.arange(n) if self.lengths is None else torch.argsort(self.lengths, stable=True)

    def epoch(self, epoch: int, cursor: int = 0, part: int = 0, parts: int = 1) -> Iterator[Counted]:
        """The batches of ``epoch`` from sample ``cursor`` on, each with its number of samples.

        Where ``parts`` processes share each batch, number ``part`` gets its piece, None if there are too few
        samples; order, noise and the number told are those of the whole batch.

        Raises:
            ConfigError: several parts of batches that are ready-made.
        """
        if parts > 1 and self.ready_made:
            raise ConfigError(
                "batches that are made already cannot be shared among processes. Give their samples with a "
                "batch size: a DataLoader with the standard sampler, or tinsmith's Loader."
            )
        order = self.order(epoch)
        end = min(len(order), len(self) * self.batch_size)
        whole = torch.split(order[cursor:end], self.batch_size) if cursor < end else ()
        batches = _EpochBatches(self._fetch, whole, self.seed, epoch, part, parts)
        if self.num_workers and whole:
            return self._from_workers(batches)
        return (batches[i] for i in range(len(batches)))

    def samples(self, epoch: int, cursor: int, count: int) -> list[int]:
        """The indices of the ``count`` samples from ``cursor`` on."""
        return [int(i) for i in self.order(epoch)[cursor : cursor + count]]

    def _from_workers(self, batches: _EpochBatches) -> Iterator[Counted]:
        """Fresh workers each epoch; the loader's own generator keeps the global ones untouched."""
        loader: DataLoader[Counted] = DataLoader(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=min(self.num_workers, len(batches)),
            generator=torch.Generator().manual_seed(0),
            collate_fn=_same,
            worker_init_fn=partial(_end_with, os.getpid()),
        )
        with hold_signals():
            return iter(loader)

    def longest(self, parts: int = 1) -> Any:
        """The batch of the longest samples where lengths are known, else the first of epoch 0.

        Of several parts the first, which no other exceeds.
        """
        order = self.order(0) if self.lengths is None else torch.argsort(self.lengths, descending=True)
        return self._fetch(order[: self.batch_size].tensor_split(parts)[0], self.seed, 0)


class _EpochBatches:
    """The batches of an epoch by number; for torch's worker processes, a data set."""

    def __init__(
        self, fetch: Fetch, whole: Sequence[Tensor], seed: int, epoch: int, part: int, parts: int
    ) -> None:
        self.fetch, self.whole, self.seed, self.epoch = fetch, whole, seed, epoch
        self.part, self.parts = part, parts

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, i: int) -> Counted:
        indices = self.whole[i]
        count = indices.numel()
        if self.parts > 1:
            indices = indices.tensor_split(self.parts)[self.part]
            if not indices.numel():
                return count, None
        return count, self.fetch(indices, self.seed, self.epoch)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with(parent: int, worker: int) -> None:
    """Have Linux end this worker when its parent is killed.

    torch's watchdog looks for the parent only between two batches: a worker whose batch does not fit into the
    pipe (long texts, arrays) waits for a reader for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _same(batch: Any) -> Any:
    return batch


def _first(samples: list[Any]) -> Any:
    return samples[0]


def _fetcher(dataset: Any, collate: Collate | None) -> Fetch:
    if isinstance(dataset, AugmentedDataset):
        return dataset.augmented
    if isinstance(dataset, BatchDataset):
        return _FetchBatch(dataset)
    if type(dataset) is TensorDataset and collate in (None, default_collate):
        return _FetchTensors(dataset)
    if type(dataset) in (list, tuple) and collate in (None, default_collate, _first):
        return _FetchItems(dataset, collate or default_collate)
    return _FetchSamples(dataset, collate or default_collate)


class _FetchBatch:
    def __init__(self, dataset: BatchDataset) -> None:
        self.dataset = dataset

    def __call__(self, indices: Tensor, seed: int, epoch: int) -> Any:
        return self.dataset.batch(indices)


class _FetchTensors:
    """One gather per tensor: what ``default_collate`` gives, without the samples.

    ``index_select`` copies row by row, indexing number by number. But it wants indices where the tensor is,
    and lacks some types in one dimension (uint16).
    """

    def __init__(self, dataset: TensorDataset) -> None:
        self.tensors = [(tensor, tensor.ndim > 1 and tensor.is_cpu) for tensor in dataset.tensors]

    def __call__(self, indices: Tensor, seed: int, epoch: int) -> list[Tensor]:
        return [
            tensor.index_select(0, indices) if by_row else tensor[indices] for tensor, by_row in self.tensors
        ]


class _FetchItems:
    """What lies in a list is there already: reading it draws nothing, nor do the collates that it is for."""

    def __init__(self, items: Sequence[Any], collate: Collate) -> None:
        self.items, self.collate = items, collate

    def __call__(self, indices: Tensor, seed: int, epoch: int) -> Any:
        return self.collate([self.items[i] for i in indices.tolist()])


class _FetchSamples:
    """Samples one by one. What they draw is a function of (seed, epoch, index), what ``collate`` draws one of
    (seed, epoch, first index).

    Seeding for every sample would cost more than most samples do. So a batch is first read with the
    generators watched: only if one moved is it read again, seeded sample by sample, and so is every batch
    after it. Both ways give the same batch where nothing is drawn, so the result depends on neither.
    """

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset, self.collate, self.draws = dataset, collate, False

    def __call__(self, indices: Tensor, seed: int, epoch: int) -> Any:
        with preserve_rng():
            if not self.draws:
                before = _fingerprint()
                batch = self.collate([self.dataset[i] for i in indices.tolist()])
                self.draws = _fingerprint() != before
                if not self.draws:
                    return batch
            samples = [self._seeded(i, seed, epoch) for i in indices.tolist()]
            _seed_all(derive_seed(seed, epoch, int(indices[0]), 1))
            return self.collate(samples)

    def _seeded(self, index: int, seed: int, epoch: int) -> Any:
        _seed_all(derive_seed(seed, epoch, index))
        return self.dataset[index]


def _seed_all(value: int) -> None:
    """Seed the three global generators."""
    torch.default_generator.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


def _fingerprint() -> tuple[bytes, int, tuple[bytes, int]]:
    """Changes whenever one of the three global generators is drawn from."""
    legacy: Any = np.random.get_state(legacy=False)
    return (
        torch.default_generator.get_state().numpy().tobytes(),
        hash(random.getstate()),
        (legacy["state"]["key"].tobytes(), legacy["state"]["pos"]),
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``: in dicts, lists and tuples, and objects with ``.to``."""
    if hasattr(batch, "to"):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch

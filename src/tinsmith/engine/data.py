"""Batches whose order and noise are pure functions of (seed, epoch, position), from any cursor.

Nothing depends on workers, prefetch or what was read before, so the whole state of the data is two
integers: the epoch, and how many of its samples were consumed.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from tinsmith.engine.interrupt import hold_signals
from tinsmith.engine.seed import preserve_rng

log = logging.getLogger(__name__)

Collate = Callable[[list[Any]], Any]
Counted = tuple[int, Any]  # how far the cursor moves, and the batch


class Batches(Protocol):
    """What the trainer reads: ``Loader`` and ``Replayed``."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, cursor: int = 0) -> Iterator[Counted]: ...
    def samples(self, epoch: int, cursor: int, count: int) -> list[int]: ...
    def longest(self) -> Any: ...


class BatchDataset(ABC):
    """A data set that makes a whole batch at once from indices: no Python per sample."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> Any:
        """The batch of the samples ``indices`` (int64 [B])."""


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
        dataset: a ``BatchDataset``, a ``TensorDataset`` (both read without Python per sample), or anything
            with ``__len__`` and ``__getitem__``. What its ``__getitem__`` draws from the global generators
            (torch, numpy, random) is a function of (seed, epoch, index).
        batch_size: samples in a batch.
        shuffle: a new order each epoch; else the data set's own.
        collate: list of samples -> batch; torch's ``default_collate`` if None.
        num_workers: processes that read ahead. The batches do not depend on it.
        lengths: [n] sizes of the samples, to make batches of nearly equal length.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        collate: Collate | None = None,
        num_workers: int = 0,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not allowed: 1 or more")
        if len(dataset) == 0:
            raise ValueError("the data set is empty")
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.drop_last, self.num_workers = drop_last, num_workers
        self.lengths = None if lengths is None else torch.as_tensor(lengths)
        self._fetch = _fetcher(dataset, collate)

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

    def epoch(self, epoch: int, cursor: int = 0) -> Iterator[Counted]:
        """The batches of ``epoch`` from sample ``cursor`` on, each with its number of samples."""
        order = self.order(epoch)
        end = len(self) * self.batch_size if self.drop_last else len(order)
        chunks = [
            order[i : i + self.batch_size] for i in range(cursor, min(end, len(order)), self.batch_size)
        ]
        if self.num_workers and chunks:
            return self._from_workers(epoch, chunks)
        return ((len(chunk), self._fetch(chunk, self.seed, epoch)) for chunk in chunks)

    def samples(self, epoch: int, cursor: int, count: int) -> list[int]:
        """The indices of the ``count`` samples from ``cursor`` on."""
        return [int(i) for i in self.order(epoch)[cursor : cursor + count]]

    def _from_workers(self, epoch: int, chunks: list[Tensor]) -> Iterator[Counted]:
        """Fresh workers each epoch; the loader's own generator keeps the global ones untouched."""
        loader: DataLoader[Counted] = DataLoader(
            _Chunks(self._fetch, chunks, self.seed, epoch),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=min(self.num_workers, len(chunks)),
            generator=torch.Generator().manual_seed(0),
            collate_fn=_same,
            worker_init_fn=partial(_end_with, os.getpid()),
        )
        with hold_signals():
            return iter(loader)

    def longest(self) -> Any:
        """The batch of the longest samples where lengths are known, else the first of epoch 0."""
        if self.lengths is None:
            return self._fetch(self.order(0)[: self.batch_size], self.seed, 0)
        return self._fetch(torch.argsort(self.lengths, descending=True)[: self.batch_size], self.seed, 0)


class _Chunks:
    """The chunks of an epoch as a data set, for torch's worker processes."""

    def __init__(self, fetch: Any, chunks: list[Tensor], seed: int, epoch: int) -> None:
        self.fetch, self.chunks, self.seed, self.epoch = fetch, chunks, seed, epoch

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, i: int) -> Counted:
        return len(self.chunks[i]), self.fetch(self.chunks[i], self.seed, self.epoch)


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


def _fetcher(dataset: Any, collate: Collate | None) -> Callable[[Tensor, int, int], Any]:
    if isinstance(dataset, BatchDataset):
        return _FetchBatch(dataset)
    if type(dataset) is TensorDataset and collate in (None, default_collate):
        return _FetchTensors(dataset)
    if type(dataset) in (list, tuple):
        return _FetchItems(dataset, collate or default_collate)
    return _FetchSamples(dataset, collate or default_collate)


class _FetchBatch:
    def __init__(self, dataset: BatchDataset) -> None:
        self.dataset = dataset

    def __call__(self, indices: Tensor, seed: int, epoch: int) -> Any:
        return self.dataset.batch(indices)


class _FetchTensors:
    """One gather per tensor: what ``default_collate`` gives, without the samples."""

    def __init__(self, dataset: TensorDataset) -> None:
        self.tensors = dataset.tensors

    def __call__(self, indices: Tensor, seed: int, epoch: int) -> list[Tensor]:
        return [tensor[indices] for tensor in self.tensors]


class _FetchItems:
    """What lies in a list is there already: reading it draws nothing."""

    def __init__(self, items: Sequence[Any], collate: Collate) -> None:
        self.items, self.collate = items, collate

    def __call__(self, indices: Tensor, seed: int, epoch: int) -> Any:
        return self.collate([self.items[i] for i in indices.tolist()])


class _FetchSamples:
    """Samples one by one; what they draw is a function of (seed, epoch, index).

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
                samples = [self.dataset[i] for i in indices.tolist()]
                self.draws = _fingerprint() != before
            if self.draws:
                samples = [self._seeded(i, seed, epoch) for i in indices.tolist()]
            return self.collate(samples)

    def _seeded(self, index: int, seed: int, epoch: int) -> Any:
        value = derive_seed(seed, epoch, index)
        torch.default_generator.manual_seed(value)
        random.seed(value)
        np.random.seed(value % 2**32)
        return self.dataset[index]


def _fingerprint() -> tuple[bytes, int, tuple[bytes, int]]:
    """Changes whenever one of the three global generators is drawn from."""
    legacy: Any = np.random.get_state(legacy=False)
    return (
        torch.default_generator.get_state().numpy().tobytes(),
        hash(random.getstate()),
        (legacy["state"]["key"].tobytes(), legacy["state"]["pos"]),
    )


class Replayed:
    """Batches of a loader that is not ours, replayed to the cursor, which counts batches.

    Its generators are seeded from (seed, epoch) and kept apart from training's. What it keeps to itself
    between epochs (a counter in a sampler, an open stream) cannot be restored.
    """

    def __init__(self, loader: Iterable[Any], seed: int = 0) -> None:
        self.loader, self.seed = loader, seed

    def __len__(self) -> int:
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            return 0  # an iterable without a length: the trainer then plans in epochs alone

    def epoch(self, epoch: int, cursor: int = 0) -> Iterator[Counted]:
        """The batches from number ``cursor`` on; the skipped ones are read and dropped."""
        apart = _Apart(derive_seed(self.seed, epoch))
        with apart, hold_signals():
            self._start(epoch)
            batches = iter(self.loader)
        position = 0
        while True:
            with apart:
                batch = next(batches, _END)
            if batch is _END:
                return
            position += 1
            if position > cursor:
                yield 1, batch

    def _start(self, epoch: int) -> None:
        parts: list[Any] = [self.loader]
        parts += [getattr(self.loader, name, None) for name in ("sampler", "dataset")]
        for part in parts:
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(derive_seed(self.seed, epoch))
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def samples(self, epoch: int, cursor: int, count: int) -> list[int]:
        """None: a loader of somebody else's does not tell them."""
        return []

    def longest(self) -> Any:
        """The first batch: nothing is known of the others."""
        return next((batch for _, batch in self.epoch(0)), None)


_END = object()


class _Apart:
    """Global generators of the loader's own, swapped in while it works."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.state: dict[str, Any] | None = None

    def __enter__(self) -> None:
        from tinsmith.engine.seed import get_rng_state, set_rng_state, set_seed

        self._outer = get_rng_state()
        if self.state is None:
            set_seed(self.seed % 2**32, deterministic=False)
        else:
            set_rng_state(self.state)

    def __exit__(self, *exc: object) -> None:
        from tinsmith.engine.seed import get_rng_state, set_rng_state

        self.state = get_rng_state()
        set_rng_state(self._outer)


def as_batches(loader: Any, seed: int = 0) -> Batches:
    """What the trainer can resume exactly, from what a user has.

    A ``DataLoader`` with its standard sampler gets the engine's own order (same data set, batch size,
    workers and collate); a list of batches is read in its order; anything else is replayed, with a
    warning of what that cannot promise.
    """
    if isinstance(loader, (Loader, Replayed)):
        return loader
    if isinstance(loader, (list, tuple)):
        return Loader(loader, 1, collate=_first)
    if isinstance(loader, DataLoader) and _is_standard(loader):
        single = loader.batch_sampler is None
        shuffle = isinstance(loader.sampler, RandomSampler)
        if shuffle:
            log.info(
                "the trainer shuffles the samples itself, so that a resume is exact (same data, same batches)"
            )
        return Loader(
            loader.dataset,
            1 if single else loader.batch_size or 1,
            shuffle=shuffle,
            seed=seed,
            drop_last=loader.drop_last,
            collate=_first if single else loader.collate_fn,
            num_workers=loader.num_workers,
        )
    log.warning(
        "%s has a sampler, batch sampler or stream of its own: a resume replays it to the cursor, which is "
        "exact only if it draws from the global generators or its own torch generator and nothing else",
        type(loader).__name__,
    )
    return Replayed(loader, seed)


def _first(samples: list[Any]) -> Any:
    return samples[0]


def _is_standard(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler
    random_ok = type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None
    return (
        not isinstance(loader.dataset, IterableDataset)
        and (type(sampler) is SequentialSampler or random_ok)
        and (loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler)
        and hasattr(loader.dataset, "__len__")
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

"""Loaders that people have, made into what the trainer can resume: by our own order, else by replaying."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from tinsmith.engine.data import Batches, Counted, Loader, derive_seed
from tinsmith.engine.interrupt import hold_signals
from tinsmith.engine.seed import get_rng_state, set_rng_state, set_seed
from tinsmith.errors import ConfigError

log = logging.getLogger(__name__)


def as_batches(loader: Any, seed: int = 0) -> Batches:
    """What the trainer can resume exactly, from what a user has.

    A ``DataLoader`` with its standard sampler gets the engine's own order (same data set, batch size,
    workers and collate); a list of batches is read in its order; anything else is replayed, with a
    warning of what that cannot promise.
    """
    if isinstance(loader, (Loader, Replayed)):
        return loader
    if isinstance(loader, (list, tuple)):
        return Loader(loader, None)
    if isinstance(loader, DataLoader) and _is_standard(loader):
        shuffle = isinstance(loader.sampler, RandomSampler)
        if shuffle:
            log.info(
                "the trainer shuffles the samples itself, so that a resume is exact (same data, same batches)"
            )
        return Loader(
            loader.dataset,
            loader.batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=loader.drop_last,
            collate=loader.collate_fn,
            num_workers=loader.num_workers,
        )
    log.warning(
        "%s has a sampler, batch sampler or stream of its own: a resume replays it to the cursor, which is "
        "exact only if it draws from the global generators or its own torch generator and nothing else",
        type(loader).__name__,
    )
    return Replayed(loader, seed)


def _is_standard(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler
    random_ok = type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None
    return (
        not isinstance(loader.dataset, IterableDataset)
        and (type(sampler) is SequentialSampler or random_ok)
        and (loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler)
        # A batch sampler that the user gave takes the place of both: the loader then knows no batch size.
        and (loader.batch_sampler is None or loader.batch_size is not None)
        and hasattr(loader.dataset, "__len__")
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

    def epoch(self, epoch: int, cursor: int = 0, part: int = 0, parts: int = 1) -> Iterator[Counted]:
        """The batches from number ``cursor`` on; the skipped ones are read and dropped.

        Raises:
            ConfigError: several processes want parts: what a batch is made of cannot be seen from here.
        """
        if parts > 1:
            raise ConfigError(
                f"{type(self.loader).__name__} has a sampler or a stream of its own, and cannot be shared "
                "among processes. Give its data set with a batch size: a DataLoader with the standard "
                "sampler, or tinsmith's Loader."
            )
        return self._replay(epoch, cursor)

    def _replay(self, epoch: int, cursor: int) -> Iterator[Counted]:
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

    def longest(self, parts: int = 1) -> Any:
        """The first batch: nothing is known of the others."""
        return next((batch for _, batch in self.epoch(0)), None)


_END = object()


class _Apart:
    """Global generators of the loader's own, swapped in while it works."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.state: dict[str, Any] | None = None

    def __enter__(self) -> None:
        self._outer = get_rng_state()
        if self.state is None:
            set_seed(self.seed % 2**32, deterministic=False)
        else:
            set_rng_state(self.state)

    def __exit__(self, *exc: object) -> None:
        self.state = get_rng_state()
        set_rng_state(self._outer)

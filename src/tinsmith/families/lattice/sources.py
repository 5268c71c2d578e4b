"""Where a lattice's vectors come from: texts through a teacher and its store, or files; split without leaks.

Shapes: N rows, Z embedding size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from torch import Tensor

from tinsmith.engine.data import sample_order
from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lattice.config import LatticeConfig
from tinsmith.families.lattice.datasets import AutoencoderDataset, DialogueDataset, VectorPairs
from tinsmith.families.lattice.pairs import Pair, embedded_pairs, load_pairs, split_pairs, without_leaks
from tinsmith.families.lattice.vectors import is_vector_file, load_vector_pairs, load_vectors, unit_vectors
from tinsmith.text.corpora import SPLITS, Corpus, Shares, load_corpus
from tinsmith.text.store import build_store, default_cache

log = logging.getLogger(__name__)

Rows = dict[str, list[Pair]]  # by split; a sentence to be rebuilt is its own answer


class Embedder:
    """Texts to unit vectors by a teacher, which is made at the first text; computed once and kept.

    The store below ``cache`` is the one of all families: what another run had computed is found.
    """

    def __init__(self, make: Callable[[], Any], cache: Path | None = None) -> None:
        self._make, self.cache = make, default_cache() if cache is None else cache
        self.teacher: Any = None

    def __call__(self, texts: Sequence[str], what: str = "texts") -> Tensor:
        """[N, Z] of N texts; ``what`` they are is for the log."""
        if self.teacher is None:
            self.teacher = self._make()
        store = build_store(self.cache / "vectors", texts, self.teacher, _progress(what))
        return unit_vectors(store.vectors, f"the vectors of {self.teacher.name}")

    def dataset(self, pairs: Sequence[Pair], mode: str, what: str = "texts") -> VectorPairs:
        """The data set of sentences (``mode=autoencoder``, the questions count) or of pairs."""
        questions = [pair["question"] for pair in pairs]
        if mode == "autoencoder":
            return AutoencoderDataset(self(questions, what), questions)
        answers = [pair["answer"] for pair in pairs]
        x, y = self(questions, f"{what}, questions"), self(answers, f"{what}, answers")
        return DialogueDataset(x, y, list(zip(questions, answers, strict=True)))


def load_sentences(cfg: LatticeConfig, embed: Embedder) -> dict[str, VectorPairs]:
    """The data set of each split of ``data``: what is to be rebuilt.

    Raises:
        ConfigError: settings that do not go together.
        DataError: a file is not what it should be; names the line or the row.
    """
    data = cfg.data
    files = {"train": data.path, "valid": data.valid, "test": data.test}
    if is_vector_file(data.path):
        if data.source in ("loader", "mixed"):
            raise ConfigError(
                f"data.source={data.source} computes vectors from texts, and data.path={data.path} holds "
                "vectors: set data.source=file"
            )
        vectors = {split: load_vectors(file) for split, file in files.items() if file}
        pairs = {split: (x, x) for split, x in vectors.items()}
        found = _of_vectors(pairs, _shares(cfg), data.max_samples, data.path)
        return {split: AutoencoderDataset(x) for split, (x, _) in found.items()}
    rows = _capped(_texts(cfg, embed.cache), data.max_samples, cfg.seed)
    return {split: embed.dataset(own, "autoencoder", split) for split, own in rows.items()}


def _texts(cfg: LatticeConfig, cache: Path) -> Rows:
    """The sentences of ``data.source``: ``embedded`` ones, those of files, or ``mixed``, both."""
    data = cfg.data
    if data.source in ("file", "mixed") and not data.path:
        raise ConfigError(f"data.source={data.source} needs a file: set data.path=<file>")

    def corpus(path: str, valid: str = "", test: str = "") -> Corpus:
        return load_corpus(
            path or None,
            valid or None,
            test or None,
            columns=data.columns if path else None,
            shares=_shares(cfg),
            cache_dir=cache / "corpora",
        )

    corpora = [corpus(data.path, data.valid, data.test)]
    if data.source == "mixed":
        corpora.append(corpus(""))
    parts = {
        split: [
            {"question": row["text"], "answer": row["text"]}
            for found in corpora
            for row in getattr(found, split)
        ]
        for split in SPLITS
    }
    return without_leaks(parts, data.path or "the embedded sentences")


def load_dialogues(cfg: LatticeConfig, embed: Embedder) -> dict[str, VectorPairs]:
    """The data set of each split of ``dialogue_data``: questions with their answers.

    Held-out files are those of ``data.valid`` and ``data.test`` in dialogue mode. In mixed mode those hold
    sentences, and the held-out pairs are split off the one file.

    Raises:
        ConfigError: settings that do not go together.
        DataError: a file is not what it should be; names the line or the row.
    """
    own = cfg.dialogue_data
    files = {"train": own.source_file}
    if cfg.mode == "dialogue":
        files |= {"valid": cfg.data.valid, "test": cfg.data.test}
    source = own.source_file or "the embedded pairs"
    if is_vector_file(own.source_file):
        vectors = {s: load_vector_pairs(file, own.question, own.answer) for s, file in files.items() if file}
        found = _of_vectors(vectors, _shares(cfg), own.max_pairs, source)
        return {split: DialogueDataset(x, y) for split, (x, y) in found.items()}
    if not own.source_file:
        if any(files.values()):
            raise ConfigError("held-out pairs need pairs to train on: set dialogue_data.source_file=<file>")
        rows = split_pairs(embedded_pairs(embed.cache / "corpora"), _shares(cfg), source)
    else:
        loaded = {s: load_pairs(file, own.question, own.answer) for s, file in files.items() if file}
        rows = _split(loaded, _shares(cfg), source)
    capped = _capped(rows, own.max_pairs, cfg.seed)
    return {split: embed.dataset(pairs, "dialogue", split) for split, pairs in capped.items()}


def _of_vectors(
    loaded: Mapping[str, tuple[Tensor, Tensor]], shares: Shares, limit: int, source: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Vectors [N, Z] of both sides in splits that have no vector in common."""
    rows = {split: _named_rows(*both) for split, both in loaded.items()}
    first = loaded["train"][0]
    for split, (x, _) in loaded.items():
        if x.shape[1] != first.shape[1]:
            raise DataError(
                f"{source}: vectors of {first.shape[1]} numbers, those of the {split} split "
                f"have {x.shape[1]}; all come from one teacher"
            )
    found = {}
    for split, own in _capped(_split(rows, shares, source), limit, shares.seed).items():
        origin, picked = loaded.get(split, loaded["train"]), [int(row["row"]) for row in own]
        x = origin[0][picked]
        found[split] = (x, x if origin[1] is origin[0] else origin[1][picked])
    return found


def _named_rows(x: Tensor, y: Tensor) -> list[Pair]:
    """Vectors as pairs of their digests: equal ones are found as equal texts are."""
    sides = [[xxhash.xxh3_128_hexdigest(row.tobytes()) for row in side.numpy()] for side in (x, y)]
    return [{"question": q, "answer": a, "row": str(i)} for i, (q, a) in enumerate(zip(*sides, strict=True))]


def _split(loaded: Mapping[str, list[Pair]], shares: Shares, source: str) -> Rows:
    """The splits that were given without what they have in common, or those of the one file."""
    if len(loaded) == 1:
        return split_pairs(loaded["train"], shares, source)
    return without_leaks({split: loaded.get(split, []) for split in SPLITS}, source)


def _capped(rows: Rows, limit: int, seed: int) -> Rows:
    """At most ``limit`` rows of each split, drawn with ``seed``; splits without rows are left out."""
    capped = {}
    for split, own in rows.items():
        if limit and len(own) > limit:
            picked = sample_order(len(own), seed, 0)[:limit].sort().values
            own = [own[i] for i in picked.tolist()]
        if own:
            capped[split] = own
    return capped


def _shares(cfg: LatticeConfig) -> Shares:
    return Shares(cfg.data.valid_share, cfg.data.test_share, cfg.seed)


def _progress(what: str) -> Callable[[int, int], None]:
    """Tell of a long wait: a line for each tenth."""
    shown = [0]

    def progress(done: int, of: int) -> None:
        if done * 10 // max(1, of) > shown[0] and of >= 2000:
            shown[0] = done * 10 // of
            log.info("teacher vectors (%s): %d of %d, computed once", what, done, of)

    return progress

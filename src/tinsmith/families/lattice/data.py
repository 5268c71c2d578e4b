"""A lattice's data: the loaders of a run, and data sets in one call.

Shapes: N rows, Z embedding size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tinsmith.engine.contract import Data
from tinsmith.engine.data import Loader
from tinsmith.errors import DataError
from tinsmith.families.lattice.config import LatticeConfig
from tinsmith.families.lattice.datasets import (
    AutoencoderDataset,
    DialogueDataset,
    VectorPairs,
    joined,
    mixed_loader,
)
from tinsmith.families.lattice.metrics import DIALOGUE
from tinsmith.families.lattice.pairs import embedded_pairs, load_pairs
from tinsmith.families.lattice.sources import Embedder, load_dialogues, load_sentences
from tinsmith.families.lattice.vectors import is_vector_file, load_vector_pairs, load_vectors
from tinsmith.text.corpora import SPLITS
from tinsmith.text.records import read_records
from tinsmith.text.store import default_cache
from tinsmith.text.teacher_config import TeacherConfig
from tinsmith.text.teachers import EmbeddingLoader, make_teacher

__all__ = [
    "AutoencoderDataset",
    "DialogueDataset",
    "LatticeSpec",
    "VectorPairs",
    "build_data",
    "create_autoencoder_dataset",
    "create_dialogue_dataset",
    "create_file_dataset",
    "create_text_dataset",
]

log = logging.getLogger(__name__)

GIVEN = "given"  # the teacher's name and fingerprint where vectors came in a file and no texts did


@dataclass(frozen=True)
class LatticeSpec:
    """The facts about the data that a lattice needs."""

    z_dim: int  # numbers of a vector
    teacher: str  # the name it was given
    teacher_fingerprint: str  # or "given"
    mode: str  # autoencoder | dialogue | mixed


def build_data(cfg: LatticeConfig) -> Data:
    """Sentences, pairs or both as vectors, in three splits that have no text in common.

    Vectors of texts are computed once and kept; those in ``.npy`` and ``.safetensors`` files are taken as
    they are. In mixed mode a split holds the autoencoder rows and then the dialogue rows.

    Raises:
        ConfigError: settings of the source that do not go together.
        DataError: files or vectors are not what they should be; names file and line or row.
        MissingExtraError: the teacher's package is not installed.
    """
    cache = Path(cfg.data.cache).expanduser() if cfg.data.cache else default_cache()
    embed = Embedder(partial(make_teacher, cfg.teacher, cfg.device), cache)
    parts: dict[str, list[VectorPairs]] = {split: [] for split in SPLITS}
    for mode, load in (("autoencoder", load_sentences), ("dialogue", load_dialogues)):
        if cfg.mode in (mode, "mixed"):
            for split, part in load(cfg, embed).items():
                parts[split].append(part)
    sets = {split: joined(found) for split, found in parts.items() if found}
    both = 2 if cfg.mode == "mixed" else 1
    if len(parts["train"]) < both or len(parts["valid"]) < both:
        raise DataError("a training and a validation split are needed: set data.valid, or give more rows")
    log.info("%s", ", ".join(f"{split} {len(part)}" for split, part in sets.items()))
    return as_data(cfg, sets, embed.teacher)


def as_data(cfg: LatticeConfig, sets: dict[str, VectorPairs], teacher: EmbeddingLoader | None = None) -> Data:
    """Data sets by split as the data of a run; without a teacher their vectors are given ones."""
    train = sets["train"]
    answers = (train.mode == DIALOGUE).nonzero()[:, 0]
    known = [train.texts[i][1] for i in answers.tolist()] if train.texts else []
    return Data(
        _train_loader(cfg, train),
        Loader(sets["valid"], 256),
        Loader(sets["test"], 256) if "test" in sets else None,
        LatticeSpec(
            z_dim=train.x.shape[1],
            teacher=GIVEN if teacher is None else cfg.teacher.name,
            teacher_fingerprint=GIVEN if teacher is None else teacher.fingerprint,
            mode=cfg.mode,
        ),
        {"teacher": teacher, "answers": (known, train.y[answers])},
    )


def _train_loader(cfg: LatticeConfig, train: VectorPairs) -> Loader:
    size, workers = cfg.trainer.batch_size, cfg.trainer.num_workers
    if cfg.mode == "mixed":
        return mixed_loader(train, cfg.data.mix, cfg.data.mix_by, size, cfg.seed, workers)
    return Loader(train, size, shuffle=True, seed=cfg.seed, num_workers=workers)


def create_text_dataset(
    texts: Sequence[str], teacher: str | EmbeddingLoader = "minilm", cache: str | Path | None = None
) -> AutoencoderDataset:
    """Sentences to be rebuilt.

    Args:
        texts: N sentences, none empty.
        teacher: the name of one, or one that is loaded.
        cache: folder of the teacher's vectors; None: the user's cache.

    Raises:
        DataError: no sentences, or an empty one, named by its number.
    """
    if isinstance(texts, str):
        raise TypeError("create_text_dataset takes a list of sentences, not one string")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"text {i} is {text!r:.40}: a sentence is needed; leave it out")
    if not texts:
        raise DataError("there are no texts to make a data set of")
    return AutoencoderDataset(_embedder(teacher, cache)(texts), texts)


def create_file_dataset(
    path: str | Path,
    teacher: str | EmbeddingLoader = "minilm",
    columns: Mapping[str, str] | None = None,
    max_samples: int = 10_000,
    cache: str | Path | None = None,
) -> AutoencoderDataset:
    """The sentences or vectors of a file, to be rebuilt: the first ``max_samples`` (0: all).

    Args:
        path: ``.json``, ``.jsonl``, ``.txt``, ``.csv``, ``.tsv`` (texts, also ``.gz``), ``.npy`` or
            ``.safetensors`` (vectors).
        columns: the file's own name for ``text``: ``{"text": "sentence"}``.

    Raises:
        DataError: the file is not what it should be; names the line or the row.
    """
    if is_vector_file(path):
        return AutoencoderDataset(load_vectors(path)[: max_samples or None])
    texts = [row["text"] for row in read_records(path, {"text"}, columns)]
    return create_text_dataset(texts[: max_samples or None], teacher, cache)


def create_autoencoder_dataset(
    *sources: Any,
    teacher: str | EmbeddingLoader = "minilm",
    max_samples: int = 10_000,
    cache: str | Path | None = None,
) -> AutoencoderDataset:
    """Vectors to be rebuilt, from several sources one after the other: the first ``max_samples`` (0: all).

    Args:
        sources: each a file (``create_file_dataset``), a list of sentences, or vectors [N, Z].

    Raises:
        DataError: a source is not what it should be, or their vectors are of different sizes.
    """
    if not sources:
        raise DataError("no source: give a file, a list of sentences or an array of vectors")
    parts: list[VectorPairs] = []
    for source in sources:
        if isinstance(source, str | Path):
            parts.append(create_file_dataset(source, teacher, max_samples=max_samples, cache=cache))
        elif isinstance(source, Sequence) and all(isinstance(item, str) for item in source):
            parts.append(create_text_dataset(source, teacher, cache))
        else:
            parts.append(AutoencoderDataset(source))
    whole, limit = joined(parts), max_samples or None
    texts = None if whole.texts is None else [text for text, _ in whole.texts[:limit]]
    return AutoencoderDataset(whole.x[:limit], texts)


def create_dialogue_dataset(
    source: str | Path | Iterable[tuple[str, str]] | None = None,
    teacher: str | EmbeddingLoader = "minilm",
    question: str = "question",
    answer: str = "answer",
    max_pairs: int = 5_000,
    cache: str | Path | None = None,
) -> DialogueDataset:
    """Questions and their answers: the first ``max_pairs`` (0: all).

    Args:
        source: a file of texts (``.json``, ``.jsonl``, ``.csv``, ``.tsv``) or vectors (``.npy``,
            ``.safetensors``), pairs of texts, or None: those embedded in Python itself.
        question, answer: the file's own names for the two columns or tensors.

    Raises:
        DataError: a column is missing, a text is empty, or the vectors do not belong together.
    """
    limit, embed = max_pairs or None, _embedder(teacher, cache)
    if isinstance(source, str | Path) and is_vector_file(source):
        x, y = load_vector_pairs(source, question, answer)
        return DialogueDataset(x[:limit], y[:limit])
    if source is None:
        pairs = embedded_pairs(embed.cache / "corpora")
    elif isinstance(source, str | Path):
        pairs = load_pairs(source, question, answer)
    else:
        pairs = [{"question": q, "answer": a} for q, a in source]
        for i, pair in enumerate(pairs):
            for side, text in pair.items():
                if not isinstance(text, str) or not text.strip():
                    raise DataError(f"pair {i}: the {side} is {text!r:.40}: a text is needed; leave it out")
    dataset = embed.dataset(pairs[:limit], "dialogue")
    assert isinstance(dataset, DialogueDataset)
    return dataset


def _embedder(teacher: str | EmbeddingLoader, cache: str | Path | None) -> Embedder:
    def make() -> EmbeddingLoader:
        return make_teacher(TeacherConfig(name=teacher)) if isinstance(teacher, str) else teacher

    return Embedder(make, None if cache is None else Path(cache))

"""The codec's data: sentences as ids, their teacher vectors, and the table that the student starts from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.contract import Data
from tinsmith.engine.data import BatchDataset, Loader
from tinsmith.errors import DataError
from tinsmith.families.codec.config import CodecConfig
from tinsmith.families.codec.given import given_store
from tinsmith.families.codec.model import CodecSpec
from tinsmith.families.codec.pairs import load_pairs
from tinsmith.families.codec.start import start_tokenizers
from tinsmith.families.codec.targets import Targets, fit_writer, ignores_case
from tinsmith.text.corpora import Corpus, Shares, load_corpus
from tinsmith.text.store import VectorStore, build_store, cached_token_table, default_cache
from tinsmith.text.teachers import EmbeddingLoader, make_teacher
from tinsmith.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_SIF = 1e-3  # a of smooth inverse frequency, Arora et al. 2017


class SentenceDataset(BatchDataset):
    """Sentences by index, as padded batches of ids with the teacher's vectors.

    Args:
        ids: one list of token ids a sentence.
        store: the teacher's vectors, in the same order.
        domain: index of each sentence's domain [N].
        rows: the row in the store of each sentence [N], where its order is another.

    Attributes:
        written: what a decoder learns to write, or None.
    """

    written: Targets | None = None

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        store: VectorStore,
        domain: Tensor,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.lengths = torch.tensor([len(row) for row in ids])
        self._ids = np.fromiter((i for row in ids for i in row), np.int32, int(self.lengths.sum()))
        self._offsets = np.concatenate([[0], self.lengths.numpy().cumsum()])
        self.store, self.domain = store, domain
        self._rows = np.arange(len(ids)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.lengths)

    def targets(self, indices: NDArray[np.int64]) -> Tensor:
        """The teacher's vectors of sentences, at length one: [B, Z] float32."""
        return F.normalize(torch.from_numpy(np.asarray(self.store.vectors[self._rows[indices]], np.float32)))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """``tokens``, ``mask`` [B, L]; ``z`` [B, Z]; ``domain`` [B]; with a decoder ``target`` [B, T]."""
        rows = indices.numpy()
        lengths = self.lengths[indices].numpy()
        column = np.arange(lengths.max())[None]
        mask = column < lengths[:, None]
        where = np.where(mask, self._offsets[rows][:, None] + column, 0)
        return {
            "tokens": torch.from_numpy(np.where(mask, self._ids[where], 0).astype(np.int64)),
            "mask": torch.from_numpy(mask),
            "z": self.targets(rows),
            "domain": self.domain[indices],
            **({} if self.written is None else {"target": self.written.batch(indices)}),
        }


def build_data(cfg: CodecConfig) -> Data:
    """Sentences, ids, teacher vectors (computed once and kept) and the student's starting point.

    Raises:
        DataError: the files or the store of vectors are not what they should be.
        MissingExtraError: the teacher's package is not installed.
    """
    corpus = read_corpus(cfg)
    pairs = load_pairs(cfg.data.pairs, cfg.data.pair_columns) if cfg.data.pairs else None
    teacher = make_teacher(cfg.teacher, cfg.device)
    tokenizer, writer, lower = _tokenizers(cfg, corpus, teacher)
    domains = tuple(sorted({row["domain"] for row in corpus.train}))
    cache = _cache(cfg)
    loaders: dict[str, Loader | None] = {}
    ids = {}
    for split in ("train", "valid", "test"):
        rows = getattr(corpus, split)
        if not rows:
            loaders[split] = None
            continue
        ids[split], data = _dataset(cfg, rows, split, tokenizer, teacher, cache, domains)
        if writer is not None:
            data.written = Targets.of([row["text"] for row in rows], writer, lower, cfg.decoder.max_len)
        loaders[split] = Loader(
            data,
            cfg.trainer.batch_size if split == "train" else 128,
            shuffle=split == "train",
            seed=cfg.seed,
            num_workers=cfg.trainer.num_workers if split == "train" else 0,
            lengths=data.lengths,
        )
    spec = CodecSpec(
        vocab_size=tokenizer.vocab_size,
        z_dim=teacher.size,
        max_len=cfg.data.max_len,
        teacher=cfg.teacher.name,
        teacher_fingerprint=teacher.fingerprint,
        domains=domains,
        decoder_vocab_size=writer.vocab_size if writer is not None else 0,
        lower=lower,
    )
    artifacts = {
        "tokenizer": tokenizer,
        "teacher": teacher,
        "corpus": corpus,
        "table": _table(tokenizer, teacher, cache, own=cfg.data.tokenizer == "teacher"),
        "log_weight": _log_weight(ids["train"], tokenizer.vocab_size),
        "pairs": pairs,
    }
    if writer is not None:
        written = loaders["train"].dataset.written  # type: ignore[union-attr]
        artifacts |= {"writer": writer, "words": _word_table(writer, teacher, cache)}
        artifacts["log_share"] = written.log_share(writer.vocab_size)
    return Data(loaders["train"], loaders["valid"], loaders["test"], spec, artifacts)


def read_corpus(cfg: CodecConfig) -> Corpus:
    """The sentences of a run, of which some are for training and some for validation."""
    data = cfg.data
    corpus = load_corpus(
        data.path or None,
        data.valid or None,
        data.test or None,
        columns={field: name for field, name in data.columns.items() if field != "teacher"},
        on_bad=data.on_bad_record,  # type: ignore[arg-type]
        shares=Shares(data.valid_share, data.test_share, cfg.seed),
        cache_dir=_cache(cfg) / "corpora",
    )
    log.info("%s", " ".join(f"{name} {count}" for name, count in corpus.counts().items()))
    if not corpus.train or not corpus.valid:
        raise DataError(
            "a training and a validation split are needed: set data.valid, or give more sentences"
        )
    return corpus


def _cache(cfg: CodecConfig) -> Path:
    return Path(cfg.data.cache).expanduser() if cfg.data.cache else default_cache()


def _tokenizers(
    cfg: CodecConfig, corpus: Corpus, teacher: EmbeddingLoader
) -> tuple[Tokenizer, Tokenizer | None, bool]:
    """What the encoder reads by, what the decoder writes by (None without one), and whether in lower case."""
    tokenizer, writer, lower = start_tokenizers(cfg.init)
    if tokenizer is None:
        tokenizer = _tokenizer(cfg, corpus, teacher)
    if cfg.mode == "encode":
        return tokenizer, None, False
    if writer is None:
        lower = cfg.decoder.case == "lower" or (cfg.decoder.case == "auto" and ignores_case(teacher))
        texts = [row["text"] for row in corpus.train]
        writer = fit_writer(texts, cfg.decoder.vocab_size, lower, _cache(cfg) / "writers")
    return tokenizer, writer, lower


def _tokenizer(cfg: CodecConfig, corpus: Corpus, teacher: EmbeddingLoader) -> Tokenizer:
    if cfg.data.tokenizer == "teacher":
        return Tokenizer.from_teacher(teacher.tokenizer_file.parent)
    return Tokenizer.fit([row["text"] for row in corpus.train], cfg.data.vocab_size)


def _dataset(
    cfg: CodecConfig,
    rows: Sequence[Any],
    split: str,
    tokenizer: Tokenizer,
    teacher: EmbeddingLoader,
    cache: Path,
    domains: tuple[str, ...],
) -> tuple[list[list[int]], SentenceDataset]:
    texts = [row["text"] for row in rows]
    ids = [row or [tokenizer.unk_id] for row in tokenizer.encode_batch(texts, cfg.data.max_len)]
    number = {name: i for i, name in enumerate(domains)}
    domain = torch.tensor([number.get(row["domain"], -1) for row in rows])
    given = given_store(cfg, split, teacher, cache)
    if given is not None:
        return ids, SentenceDataset(ids, given, domain, rows=given.rows_of(texts))
    return ids, SentenceDataset(ids, build_store(cache / "vectors", texts, teacher, _progress(split)), domain)


def _progress(split: str) -> Callable[[int, int], None]:
    """Tell of a long wait: a line for each tenth."""
    shown = [0]

    def progress(done: int, of: int) -> None:
        if done * 10 // max(1, of) > shown[0] and of >= 2000:
            shown[0] = done * 10 // of
            log.info("teacher vectors (%s): %d of %d, computed once", split, done, of)

    return progress


def _table(tokenizer: Tokenizer, teacher: EmbeddingLoader, cache: Path, own: bool) -> Tensor:
    """The teacher's vector of each token [V, Z], from which the student's table starts."""
    if own:
        table = cached_token_table(cache / "tables", teacher)
        missing = tokenizer.vocab_size - len(table)
        return torch.from_numpy(np.pad(table, ((0, max(0, missing)), (0, 0))).astype(np.float32))
    words = [tokenizer.decode([i]).strip() or "." for i in range(tokenizer.vocab_size)]
    vectors: NDArray[np.float32] = teacher.encode(words)
    return torch.from_numpy(vectors)


def _word_table(writer: Tokenizer, teacher: EmbeddingLoader, cache: Path) -> Tensor:
    """The teacher's vector of each id's text [V, Z]: what a decoder starts to write by."""
    words = [writer.decode([i]).strip() or "." for i in range(writer.vocab_size)]
    vectors = build_store(cache / "vectors", words, teacher, _progress("words")).vectors
    return torch.from_numpy(np.asarray(vectors[np.arange(len(words))], np.float32))


def _log_weight(ids: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """log a / (a + p(token)): smooth inverse frequency [V]."""
    count = np.bincount(np.fromiter((i for row in ids for i in row), np.int64), minlength=vocab_size)
    return torch.from_numpy(np.log(_SIF / (_SIF + count / count.sum()))).float()

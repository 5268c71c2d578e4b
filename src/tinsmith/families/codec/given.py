"""Teacher vectors that come with the sentences, in a field ``teacher`` of their records."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tinsmith.errors import DataError
from tinsmith.families.codec.config import CodecConfig
from tinsmith.text.given_vectors import store_from_records
from tinsmith.text.records import read_records
from tinsmith.text.store import VectorStore
from tinsmith.text.teachers import EmbeddingLoader

log = logging.getLogger(__name__)

_SPOT = 8  # texts whose given vectors are held against the teacher's own
_SAME = 0.95  # the cosine that they must reach: rounding to fewer digits leaves more than .99


def given_store(cfg: CodecConfig, split: str, teacher: EmbeddingLoader, cache: Path) -> VectorStore | None:
    """The vectors in the file of a split, or None if its first record has none.

    Raises:
        DataError: a record lacks its vector, or has one of another size or not finite (the message names
            file and line), or the vectors are not the teacher's.
    """
    data = cfg.data
    path = {"train": data.path, "valid": data.valid, "test": data.test}[split] or data.path
    text = {"text": data.columns["text"]} if "text" in data.columns else {}
    if not path:
        return None
    first = list(islice(read_records(path, {"text"}, text, data.on_bad_record), _SPOT))  # type: ignore[arg-type]
    field = data.columns.get("teacher", "teacher")
    if field not in first[0]:
        return None
    store = store_from_records(cache / "vectors", path, {**text, "teacher": field}, size=teacher.size)
    texts = [row["text"] for row in first]
    given = torch.from_numpy(np.asarray(store.vectors[store.rows_of(texts)], np.float32))
    cosine = float(F.cosine_similarity(given, torch.from_numpy(teacher.encode(texts))).mean())
    if cosine < _SAME:
        raise DataError(
            f"{path}: the vectors in its field '{field}' are not those of teacher.name={cfg.teacher.name} "
            f"(cosine {cosine:.2f} over the first {len(texts)} texts). Name the teacher that made them, or "
            "leave the field out."
        )
    log.info("%s: the teacher's vectors of the %s split are those of the file", path, split)
    return store

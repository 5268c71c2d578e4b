"""The codec as one row of the table of families."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.contract import Data, Family, Task
from tinsmith.errors import DataError
from tinsmith.families.codec import measure
from tinsmith.families.codec.config import CodecConfig
from tinsmith.families.codec.data import SentenceDataset, build_data
from tinsmith.families.codec.model import CodecSpec, build_model
from tinsmith.families.codec.predict import Codec, save_model
from tinsmith.families.codec.task import build_task
from tinsmith.families.codec.write_rows import add_to_first, rewritings, writing_rows

_TIMED = 256  # sentences over which rates are taken
_FITTED = 20_000  # sentences that the linear baseline sees


def table(predictor: Codec, data: Data, split: str) -> list[dict[str, Any]]:
    """The student, its static tier, and what it has to beat, over one split.

    ``untrained`` is the starting point (the teacher's vectors of single tokens, averaged), ``linear`` ridge
    regression from that average to the teacher's vector, ``constant`` the mean teacher vector. Rates are
    sentences a second, tokenising included, measured one after another in this process; ``spearman`` is the
    correlation of cosines with people's scores, where the run has ``data.pairs``. A codec that writes has the
    rows of ``write_rows.writing_rows`` too; its first row then holds the decoder's metrics.

    Raises:
        DataError: the split is empty, or the vectors are another teacher's.
    """
    loader = getattr(data, split)
    if loader is None:
        raise DataError(f"there is no {split} split: set data.{split} to a file of sentences")
    _check_teacher(predictor.spec, data.spec)
    texts = [row["text"] for row in getattr(data.artifacts["corpus"], split)]
    own = data.artifacts["teacher"]
    encoders: dict[str, Callable[[list[str]], Tensor]] = {
        "codec": predictor.encode,
        "static tier": lambda texts: predictor.encode(texts, tier="static"),
        "teacher": lambda texts: torch.from_numpy(own.encode(texts)),
    }
    teacher = _vectors(loader.dataset, len(loader.dataset))
    start, start_train = _average(data, loader.dataset), _average(data, data.train.dataset, _FITTED)
    linear = measure.fit_linear(start_train, _vectors(data.train.dataset, len(start_train)))
    mean = F.normalize(_vectors(data.train.dataset, _FITTED).mean(0), dim=0).expand_as(teacher)
    rows = {
        "codec": predictor.encode(texts),
        "static tier": predictor.encode(texts, tier="static"),
        "untrained static": F.normalize(start, dim=-1),
        "linear": measure.apply_linear(linear, start),
        "constant": mean,
        "teacher": teacher,
    }
    domain, domains = loader.dataset.domain, data.spec.domains
    result = []
    for name, vectors in rows.items():
        row = {"name": name, **measure.score(vectors, teacher, domain, domains)}
        if name in encoders:
            if data.artifacts["pairs"] is not None:
                row["spearman"] = data.artifacts["pairs"].correlation(encoders[name])
            row["sentences_per_sec"] = _rate(encoders[name], texts[:_TIMED])
        result.append(row)
    return add_to_first(result, writing_rows(predictor, data, split))


def _check_teacher(trained: CodecSpec, here: CodecSpec) -> None:
    if trained.teacher_fingerprint != here.teacher_fingerprint:
        raise DataError(
            f"this student learned from another teacher ({trained.teacher}, "
            f"{trained.teacher_fingerprint[:12]}) than "
            f"the one of these vectors ({here.teacher}, {here.teacher_fingerprint[:12]}). "
            f"Evaluate with the teacher it was trained on, or train anew with teacher.name={here.teacher}."
        )


def _vectors(dataset: SentenceDataset, limit: int) -> Tensor:
    return dataset.targets(np.arange(min(limit, len(dataset))))


def _average(data: Data, dataset: SentenceDataset, limit: int | None = None) -> Tensor:
    """The weighted mean of the starting table's rows: [N, Z], not normalised."""
    table, weight = data.artifacts["table"], data.artifacts["log_weight"].exp()
    n = min(len(dataset), limit or len(dataset))
    parts = []
    for first in range(0, n, 512):
        rows = torch.arange(first, min(first + 512, n))
        batch = dataset.batch(rows)
        w = weight[batch["tokens"]] * batch["mask"]
        parts.append((table[batch["tokens"]] * w[..., None]).sum(1) / w.sum(1, keepdim=True))
    return torch.cat(parts)


def _rate(encode: Callable[[list[str]], Tensor], texts: list[str], repeats: int = 3) -> int:
    """Sentences a second: the median of a few calls, after one that is not counted."""
    encode(texts)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        encode(texts)
        times.append(time.perf_counter() - start)
    return round(len(texts) / sorted(times)[len(times) // 2])


def examples(predictor: Codec, data: Data, count: int = 3, neighbours: int = 3) -> list[dict[str, Any]]:
    """The nearest neighbours of a few held-out sentences, by the student and by the teacher."""
    rows = data.artifacts["corpus"].valid[:2000]
    texts = [row["text"] for row in rows]
    vectors = predictor.encode(texts)
    teacher = _vectors(data.valid.dataset, len(texts))
    picked = torch.linspace(0, len(texts) - 1, count + 2).long()[1:-1].tolist()
    shown = []
    for i in picked:
        by_student, by_teacher = vectors @ vectors[i], teacher @ teacher[i]
        order = [j for j in by_student.argsort(descending=True).tolist() if j != i][:neighbours]
        best = [j for j in by_teacher.argsort(descending=True).tolist() if j != i][:neighbours]
        lines = [
            [f"{float(by_student[a]):.2f}", texts[a], f"{float(by_teacher[b]):.2f}", texts[b]]
            for a, b in zip(order, best, strict=True)
        ]
        shown.append(
            {"title": texts[i], "columns": ["cosine", "student", "cosine", "teacher"], "rows": lines}
        )
    return shown + rewritings(predictor, data, texts, teacher)


def _build_model(cfg: CodecConfig, spec: CodecSpec) -> nn.Module:
    return build_model(cfg.model, spec, cfg.decoder)


def _save_model(cfg: CodecConfig, task: Task, data: Data, folder: Path) -> None:
    save_model(task, data, folder, cfg)


FAMILY = Family(
    name="codec",
    config=CodecConfig,
    build_data=build_data,
    build_model=_build_model,
    build_task=build_task,
    save_model=_save_model,
    predictor=Codec,
    table=table,
    examples=examples,
    curriculum={"seq_len": "data.max_len", "dim": "model.dim"},
)

"""The language model as one row of the table of families."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinsmith.engine.contract import Data, Family, Task
from tinsmith.engine.data import to_device
from tinsmith.errors import DataError
from tinsmith.families.lm import measure
from tinsmith.families.lm.config import LMConfig
from tinsmith.families.lm.data import build_data
from tinsmith.families.lm.model import LanguageModel, LMSpec, build_model
from tinsmith.families.lm.predict import TextGenerator, save_model
from tinsmith.families.lm.task import LanguageModelTask, build_task, summary

_SHOWN = 3  # prompts of the examples


def table(predictor: TextGenerator, data: Data, split: str) -> list[dict[str, Any]]:
    """The model over a whole split, and what it has to beat.

    ``bigram`` and ``unigram`` are counts of the training split, smoothed; ``uniform`` knows nothing. They
    predict what the model predicts. ``tokens_per_sec`` is the rate of
    scoring the split, with what it costs to make the batches.

    Raises:
        DataError: the split is empty, or its tokens are not the model's.
    """
    loader = getattr(data, split)
    if loader is None:
        raise DataError(f"there is no {split} split: set data.{split} to a file, or data.{split}_share")
    if predictor.spec.vocab_size != data.spec.vocab_size:
        raise DataError(
            f"this model has {predictor.spec.vocab_size} kinds of tokens, these data {data.spec.vocab_size}: "
            "evaluate with the settings that it was trained with"
        )
    task = LanguageModelTask(predictor.model, data.spec.byte_lengths)
    device = predictor.model.embed.weight.device
    task.to(device)
    start = time.perf_counter()
    with torch.inference_mode():
        own = task.evaluate(to_device(batch, device) for batch in loader)
    seconds = time.perf_counter() - start
    ids, train, vocab = data.artifacts["ids"][split], data.artifacts["ids"]["train"], data.spec.vocab_size
    stream = [np.concatenate(ids)] if data.artifacts["joined"] else ids
    learned = [np.concatenate(train)] if data.artifacts["joined"] else train
    count = sum(len(part) - 1 for part in stream if len(part) > 1)
    sizes = np.array(data.spec.byte_lengths)
    size = int(sum(sizes[part[1:]].sum() for part in stream))
    nats = {
        "bigram": measure.bigram_nats(learned, stream, vocab),
        "unigram": measure.unigram_nats(learned, stream, vocab),
        "uniform": measure.uniform_nats(stream, vocab),
    }
    rows: list[dict[str, Any]] = [{"name": "lm", **own, "tokens_per_sec": round(count / seconds)}]
    return rows + [{"name": name, **summary(value, count, size)} for name, value in nats.items()]


def examples(predictor: TextGenerator, data: Data) -> list[dict[str, Any]]:
    """Held-out beginnings and how the model goes on."""
    documents = data.artifacts["documents"].valid
    text = max(documents, key=len)
    lines = [line for line in text.split("\n") if len(line) >= 20] or [text[:200]]
    picked = [lines[len(lines) * (2 * i + 1) // (2 * _SHOWN)][:24] for i in range(_SHOWN)]
    room = max(1, predictor.spec.context // 2)
    picked = [predictor.tokens.decode(predictor.tokens.encode(line)[:room]) for line in picked]
    options: dict[str, Any] = {"max_new_tokens": min(60, room), "seed": 0}
    if predictor.generation.num_beams == 1:
        options |= {"do_sample": True, "temperature": 0.8}
    rows = [
        [prompt, answer] for prompt, answer in zip(picked, predictor.generate(picked, **options), strict=True)
    ]
    return [
        {
            "title": "beginnings that it never saw, continued",
            "columns": ["prompt", "continuation"],
            "rows": rows,
        }
    ]


def _build_model(cfg: LMConfig, spec: LMSpec) -> nn.Module:
    return build_model(cfg.model, spec)


def _build_task(cfg: LMConfig, model: nn.Module, data: Data) -> Task:
    assert isinstance(model, LanguageModel)
    return build_task(cfg, model, data)


def _save_model(cfg: LMConfig, task: Task, data: Data, folder: Path) -> None:
    assert isinstance(task.model, LanguageModel)
    save_model(cfg, task.model, data, folder)


FAMILY = Family(
    name="lm",
    config=LMConfig,
    build_data=build_data,
    build_model=_build_model,
    build_task=_build_task,
    save_model=_save_model,
    predictor=TextGenerator,
    table=table,
    examples=examples,
    curriculum={"seq_len": "data.context", "dim": "model.dim"},
)

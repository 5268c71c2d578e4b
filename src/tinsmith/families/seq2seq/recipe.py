"""The encoder-decoder as one row of the table of families."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinsmith.engine.contract import Data, Family, Task
from tinsmith.engine.data import to_device
from tinsmith.errors import DataError
from tinsmith.families.seq2seq import measure
from tinsmith.families.seq2seq.config import Seq2SeqConfig
from tinsmith.families.seq2seq.data import build_data
from tinsmith.families.seq2seq.model import Seq2SeqSpec, Transformer, build_model
from tinsmith.families.seq2seq.predict import Translator, save_model
from tinsmith.families.seq2seq.task import Seq2SeqTask, build_task

_TRANSLATED = 2000  # pairs of a split that are translated for the table
_SHOWN = 8  # pairs of the examples


def table(predictor: Translator, data: Data, split: str) -> list[dict[str, Any]]:
    """The model over a split, and what it has to beat.

    ``loss``, ``perplexity`` and ``accuracy`` are over all tokens of the split; ``exact_match`` and BLEU
    (where sacrebleu is installed) over the translations of its first 2,000 pairs, as the model's settings of
    generation have them. ``copy`` gives the source itself, ``nearest`` the target of the most similar of
    5,000 training sources, ``constant`` the most frequent target.

    Raises:
        DataError: the split is empty, or its tokens are not the model's.
    """
    loader = getattr(data, split)
    if loader is None:
        raise DataError(f"there is no {split} split: set data.{split} to a file of pairs")
    tokenizer = data.artifacts["tokenizer"]
    if predictor.tokenizer.fingerprint != tokenizer.fingerprint:
        raise DataError(
            "the joint byte pairs of these data are not the model's: evaluate with the data that it learned "
            "from"
        )
    own = _scored(predictor, loader)
    pairs, train = getattr(data.artifacts["pairs"], split)[:_TRANSLATED], data.artifacts["pairs"].train
    sources, references = [a for a, _ in pairs], [b for _, b in pairs]
    start = time.perf_counter()
    translations = predictor.generate(sources, num_return_sequences=1, return_dict_in_generate=False)
    rate = round(len(sources) / (time.perf_counter() - start))
    seen = train[:5000]
    nearest = measure.nearest_targets(
        tokenizer.encode_batch(sources),
        tokenizer.encode_batch([a for a, _ in seen]),
        [b for _, b in seen],
        tokenizer.vocab_size,
    )
    constant = [measure.most_frequent([b for _, b in train])] * len(sources)
    others = {"copy": sources, "nearest": nearest, "constant": constant}
    first = {"name": "seq2seq", **own, **measure.scores(translations, references), "sentences_per_sec": rate}
    return [
        first,
        *({"name": name, **_unsigned(measure.scores(texts, references))} for name, texts in others.items()),
    ]


def _unsigned(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name != "bleu_signature"}


def _scored(predictor: Translator, loader: Any) -> dict[str, float]:
    task = Seq2SeqTask(predictor.model, pad_idx=predictor.spec.pad_id)
    device = predictor.model.embed.weight.device
    with torch.inference_mode():
        return task.evaluate(to_device(batch, device) for batch in loader)


def examples(predictor: Translator, data: Data) -> list[dict[str, Any]]:
    """A few held-out sources, their references and the model's translations."""
    pairs = data.artifacts["pairs"].valid
    picked = [pairs[len(pairs) * (2 * i + 1) // (2 * _SHOWN)] for i in range(min(_SHOWN, len(pairs)))]
    sources = [source for source, _ in picked]
    answers = predictor.generate(sources, num_return_sequences=1, return_dict_in_generate=False)
    rows = [[source, answer, target] for (source, target), answer in zip(picked, answers, strict=True)]
    return [
        {"title": "pairs that it never saw", "columns": ["source", "translation", "reference"], "rows": rows}
    ]


def _build_model(cfg: Seq2SeqConfig, spec: Seq2SeqSpec) -> nn.Module:
    return build_model(cfg.model, spec)


def _build_task(cfg: Seq2SeqConfig, model: nn.Module, data: Data) -> Task:
    assert isinstance(model, Transformer)
    return build_task(cfg, model, data)


def _save_model(cfg: Seq2SeqConfig, task: Task, data: Data, folder: Path) -> None:
    assert isinstance(task.model, Transformer)
    save_model(cfg, task.model, data, folder)


FAMILY = Family(
    name="seq2seq",
    config=Seq2SeqConfig,
    build_data=build_data,
    build_model=_build_model,
    build_task=_build_task,
    save_model=_save_model,
    predictor=Translator,
    table=table,
    examples=examples,
    curriculum={"seq_len": "data.max_len", "dim": "model.dim"},
)

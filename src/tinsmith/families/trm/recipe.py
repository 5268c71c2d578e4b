"""The recursive model as one row of the table of families."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tinsmith.engine.contract import Data, Family, Task
from tinsmith.errors import ConfigError, DataError
from tinsmith.families.trm import arc, maze, sudoku
from tinsmith.families.trm.baselines import baselines, rows_of, score
from tinsmith.families.trm.config import TRMConfig
from tinsmith.families.trm.data import BLANK, build_data
from tinsmith.families.trm.model import TinyRecursiveModel, TRMSpec, build_model
from tinsmith.families.trm.predict import TRMInference, save_model
from tinsmith.families.trm.task import build_task


def table(predictor: TRMInference, data: Data, split: str) -> list[dict[str, Any]]:
    """Accuracy against cost: the model at the steps of training, halting when it is sure, at four times the
    steps, with restarts; then what needs no model.

    ``steps`` and ``calls`` (of the network) are means over the samples, ``samples_per_sec`` of this process.
    For ARC a row of the votes of all versions, with ``pass_at_2``.

    Raises:
        DataError: the split is empty, or its samples are not what the model was trained for.
    """
    loader = getattr(data, split)
    if loader is None:
        raise DataError(f"there is no {split} split: set data.{split} to a number of samples")
    check_spec(predictor.spec, data.spec)
    inputs, labels = rows_of(loader.dataset)
    steps, restarts = predictor.effort.steps, predictor.effort.restarts
    plain = {"threshold": 1.0, "restarts": 1, "path_noise": 0.0}
    efforts: dict[str, dict[str, Any]] = {
        "trm": plain,
        "trm, halting": {**plain, "threshold": predictor.effort.threshold},
        "trm, steps x 4": {**plain, "steps": 4 * steps},
    }
    if restarts > 1:
        efforts[f"trm, {restarts} restarts"] = {"threshold": 1.0}
    rows = []
    for name, effort in efforts.items():
        try:
            rows.append({"name": name, **measured(predictor, inputs, labels, **effort)})
        except ConfigError:  # four times the steps may be beyond the guard
            if name == "trm":
                raise
    if predictor.spec.task == "arc":
        rows.append({"name": "trm, votes", **_votes(predictor, data, split)})
    for name, answers in baselines(data.train.dataset, inputs, data.spec).items():
        rows.append({"name": name, **score(answers, labels)})
    return rows


def measured(predictor: TRMInference, inputs: Any, labels: Any, **effort: Any) -> dict[str, Any]:
    """Accuracy and cost of answering ``inputs`` [N, L] with an effort."""
    start = time.perf_counter()
    found = predictor.solve(inputs, **effort)
    answers = found.predictions.cpu().numpy()
    seconds = time.perf_counter() - start
    cost = {"steps": found.steps / len(inputs), "calls": found.calls / len(inputs)}
    return {**score(answers, labels), **cost, "samples_per_sec": round(len(inputs) / seconds, 1)}


def check_spec(trained: TRMSpec, here: TRMSpec) -> None:
    """Raise ``DataError`` unless a model trained for one spec can be asked about the other."""
    for name in ("task", "seq_len", "num_tokens", "tokenizer", "tasks", "augmentations"):
        a, b = getattr(trained, name), getattr(here, name)
        if a != b:
            raise DataError(f"this model was trained for {name}={a!r:.80}, these data have {b!r:.80}")


def _votes(predictor: TRMInference, data: Data, split: str) -> dict[str, float]:
    hits, total = [0, 0], 0
    for t, (_, task) in enumerate(data.artifacts["tasks"].items()):
        if (t % 2 == 0) != (split == "valid") and split != "train":
            continue
        for pair in task["test"]:
            if "output" in pair:
                attempts = predictor.vote(t, pair["input"])
                truth = pair["output"].tolist()
                total += 1
                hits[0] += attempts[0] == truth
                hits[1] += truth in attempts
    return {"exact": hits[0] / max(1, total), "pass_at_2": hits[1] / max(1, total)}


def examples(predictor: TRMInference, data: Data, count: int = 3) -> list[dict[str, Any]]:
    """A few held-out samples: what was asked, what the model says, what is right."""
    inputs, labels = rows_of(data.valid.dataset, count)
    found = predictor.solve(inputs, restarts=1, path_noise=0.0)
    shown = []
    for i, answer in enumerate(found.predictions.cpu().numpy()):
        known = labels[i] >= 0
        rows = _lines(
            predictor, inputs[i], np.where(known, answer, inputs[i]), np.where(known, labels[i], inputs[i])
        )
        title = f"sample {i + 1}: {int(found.exit_steps[i])} steps, {float(found.halt_probs[i]):.2f} sure"
        shown.append({"title": title, "columns": ["question", "answer", "truth"], "rows": rows})
    return shown


def _lines(predictor: TRMInference, *rows: Any) -> list[list[str]]:
    """The rows of tokens side by side, line by line."""
    spec = predictor.spec
    texts: list[list[str]] = []
    for row in rows:
        if spec.task == "sudoku":
            text = sudoku.show(row - BLANK)
        elif spec.task == "maze":
            text = maze.show(row, spec.side).replace("\n", "")
        elif spec.task == "arc":
            text = "".join("." if t < arc.BLACK else str(t - arc.BLACK) for t in row[1:])
        else:
            hole = "\N{LOWER ONE EIGHTH BLOCK}"
            text = "".join(
                hole if t == predictor.tokenizer.mask_id else predictor.tokenizer.decode([t]) for t in row
            )
            texts.append(text.split("\n"))
            continue
        texts.append([text[k : k + spec.side] for k in range(0, len(text), spec.side)])
    height = max(map(len, texts))
    return [[text[k] if k < len(text) else "" for text in texts] for k in range(height)]


def _build_model(cfg: TRMConfig, spec: TRMSpec) -> nn.Module:
    return build_model(cfg.model, spec, cfg.halt.bias, cfg.halt.weight)


def _build_task(cfg: TRMConfig, model: nn.Module, data: Data) -> Task:
    assert isinstance(model, TinyRecursiveModel)
    return build_task(cfg, model, data)


def _save_model(cfg: TRMConfig, task: Task, data: Data, folder: Path) -> None:
    save_model(task, data, folder, cfg)


FAMILY = Family(
    name="trm",
    config=TRMConfig,
    build_data=build_data,
    build_model=_build_model,
    build_task=_build_task,
    save_model=_save_model,
    predictor=TRMInference,
    table=table,
    examples=examples,
    curriculum={"seq_len": "data.seq_len", "dim": "model.dim"},
)

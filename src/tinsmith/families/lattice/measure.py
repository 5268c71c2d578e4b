"""The table that sets a lattice beside what it has to beat, and a few examples of what it does.

The metrics themselves are in ``metrics``. Imports neither data nor trainer.
Shapes: N rows, Z embedding size; vectors have length one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinsmith.errors import DataError
from tinsmith.families.lattice.baselines import Model, fit_constant, fit_mlp, fit_pca, fit_ridge, identity
from tinsmith.families.lattice.metrics import MODES, Share, accuracy, cosine_metrics, ranks_of_blocks, score

if TYPE_CHECKING:
    from tinsmith.engine.contract import Data
    from tinsmith.families.lattice.data import LatticeSpec, VectorPairs
    from tinsmith.families.lattice.predict import LatticePredictor


def table(predictor: LatticePredictor, data: Data, split: str) -> list[dict[str, Any]]:
    """The lattice and what it has to beat, over one split; baselines are fitted here, on the training rows.

    Autoencoder rows: ``pca`` and ``mlp`` (a plain non-linear autoencoder) pass as many numbers as the
    lattice, ``constant`` (the mean) none, ``identity`` all. Ridge regression would be the identity without a
    bottleneck, and is PCA with one. Dialogue rows: ``ridge`` and ``mlp``, whose alpha and epoch are those
    best on the validation split; ``identity``, the question's own vector; ``constant``, the mean answer.

    Raises:
        DataError: the split is empty, or the vectors are another teacher's.
    """
    loader = getattr(data, split)
    if loader is None:
        raise DataError(f"there is no {split} split: set data.{split} to a file, or a share to split off")
    _check_teacher(predictor.spec, data.spec)
    shares: dict[str, dict[str, Share]] = {}
    for mode in MODES:
        x, y = rows_of(loader.dataset, mode)
        for name, model in (_models(mode, predictor, data) if len(x) else {}).items():
            shares.setdefault(name, {})[mode] = (model(x), y)
    answers = rows_of(data.train.dataset, "dialogue")[1]
    mean = answers.mean(0) if len(answers) else None
    mixed = data.spec.mode == "mixed"
    rows: list[dict[str, Any]] = []
    for name, share in shares.items():
        rows.append({"name": name, **score(share, mean, data.train.seed, mixed)})
        if mixed and len(share) < len(MODES):
            del rows[-1]["score"]  # it would be that of one mode
        if data.spec.mode == "autoencoder":
            rows[-1]["numbers"] = {"constant": 0, "identity": data.spec.z_dim}.get(name, predictor.bottleneck)
    return rows


def rows_of(dataset: VectorPairs, mode: str) -> Share:
    """What goes in and what should come out [N, Z] of a data set's rows of one mode, each row once."""
    rows = _numbers_of(dataset, mode)
    return dataset.x[rows], dataset.y[rows]


def _numbers_of(dataset: VectorPairs, mode: str) -> Tensor:
    return (dataset.mode == MODES.index(mode)).nonzero()[:, 0]


def _models(mode: str, predictor: LatticePredictor, data: Data) -> dict[str, Model]:
    """The lattice and its baselines for the rows of a mode."""
    x, y = rows_of(data.train.dataset, mode)
    judge = partial(_watched, *rows_of((data.valid or data.train).dataset, mode), mode, data.train.seed)
    models: dict[str, Model] = {"lattice": partial(_mapped, predictor, mode)}
    if mode == "autoencoder":
        models["pca"] = fit_pca(x, predictor.bottleneck)
        models["mlp"] = fit_mlp(x, y, judge, predictor.bottleneck, data.train.seed)
        return models | {"constant": fit_constant(y), "identity": identity}
    models["ridge"] = fit_ridge(x, y, judge)
    models["mlp"] = fit_mlp(x, y, judge, seed=data.train.seed)
    return models | {"identity": identity, "constant": fit_constant(y)}


def _mapped(predictor: LatticePredictor, mode: str, x: Tensor) -> Tensor:
    return torch.from_numpy(predictor.map(x.numpy(), mode=mode))


def _watched(x: Tensor, y: Tensor, mode: str, seed: int, model: Model) -> float:
    """The metric by which a model of this mode is chosen."""
    if mode == "dialogue":
        return accuracy(*ranks_of_blocks(model(x), y, seed))
    return cosine_metrics(model(x), y)["cosine"]


def _check_teacher(trained: LatticeSpec, here: LatticeSpec) -> None:
    if (trained.teacher_fingerprint, trained.z_dim) != (here.teacher_fingerprint, here.z_dim):
        raise DataError(
            f"this lattice learned with the vectors of another teacher ({trained.teacher}, "
            f"{trained.teacher_fingerprint[:12]}, {trained.z_dim} numbers) than these ({here.teacher}, "
            f"{here.teacher_fingerprint[:12]}, {here.z_dim} numbers). Evaluate with the teacher it was "
            f"trained with, or train anew with teacher.name={here.teacher}."
        )


def examples(
    predictor: LatticePredictor, data: Data, count: int = 4, nearest: int = 3
) -> list[dict[str, Any]]:
    """What becomes of a few validation rows: the known answers nearest to a prediction, sentences rebuilt."""
    dataset = (data.valid or data.train).dataset
    texts, known = data.artifacts["answers"]
    shown = []
    for i in _picked(dataset, "dialogue", count):
        vector = _mapped(predictor, "dialogue", dataset.x[i : i + 1])[0]
        scores = known @ vector
        lines = [
            [f"{float(scores[j]):.2f}", texts[j] if texts else f"answer {j}", "nearest known answer"]
            for j in scores.topk(min(nearest, len(known))).indices.tolist()
        ]
        question, answer = _texts(dataset, i)
        lines.append([f"{float(vector @ dataset.y[i]):.2f}", answer, "true answer"])
        shown.append({"title": question, "columns": ["cosine", "answer", ""], "rows": lines})
    if picked := _picked(dataset, "autoencoder", count):
        shown.append(_rebuilt(predictor, dataset, picked))
    return shown


def _picked(dataset: VectorPairs, mode: str, count: int) -> list[int]:
    """A few rows of a mode, spread over the set."""
    rows = _numbers_of(dataset, mode)
    places = torch.linspace(0, len(rows) - 1, count + 2).tolist()[1:-1] if len(rows) else []
    return sorted({int(rows[int(place)]) for place in places})


def _rebuilt(predictor: LatticePredictor, dataset: VectorPairs, picked: list[int]) -> dict[str, Any]:
    """Which sentence of the set is nearest to what came out of the bottleneck: hopefully the one put in."""
    numbers = _numbers_of(dataset, "autoencoder")
    vectors = _mapped(predictor, "autoencoder", dataset.x[picked])
    lines = []
    for i, vector in zip(picked, vectors, strict=True):
        found = int(numbers[(dataset.x[numbers] @ vector).argmax()])
        nearest = "itself" if found == i else _texts(dataset, found)[0]
        lines.append([_texts(dataset, i)[0], f"{float(vector @ dataset.x[i]):.2f}", nearest])
    columns = ["sentence", "cosine", "nearest to what was rebuilt"]
    return {"title": f"rebuilt from {predictor.bottleneck} numbers", "columns": columns, "rows": lines}


def _texts(dataset: VectorPairs, i: int) -> tuple[str, str]:
    return dataset.texts[i] if dataset.texts else (f"row {i}", f"answer of row {i}")

"""The graph family as one row of the table of families."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinsmith.engine.contract import Data, Family, Task
from tinsmith.engine.data import Loader, to_device
from tinsmith.errors import DataError, MissingExtraError
from tinsmith.families.graph import measure, molecules
from tinsmith.families.graph.config import GraphConfig
from tinsmith.families.graph.data import LinkDataset, build_data
from tinsmith.families.graph.graphs import Array
from tinsmith.families.graph.model import GraphModel, GraphSpec, build_model
from tinsmith.families.graph.predict import GraphPredictor, save_model
from tinsmith.families.graph.sets import GraphSets
from tinsmith.families.graph.task import build_task

log = logging.getLogger(__name__)

_SHOWN = 6  # graphs in a table of examples


def table(predictor: GraphPredictor, data: Data, split: str) -> list[dict[str, Any]]:
    """The model and what it has to beat, over one split.

    Baselines: ``constant`` (the training median, the most frequent class), ``counts`` (ridge regression from
    what one counts without learning: nodes, edges, degrees, kinds; of a node its own features),
    ``fingerprint`` (ridge from Morgan fingerprints, for molecules), ``common neighbours`` (Adamic and Adar,
    for links).

    Raises:
        DataError: there is no such split, or the data are not the model's.
    """
    loader: Loader | None = getattr(data, split)
    if loader is None:
        raise DataError(f"there is no {split} split")
    _check_spec(predictor.spec, data.spec)
    outputs, y = _outputs(predictor, loader)
    rows = [{"name": predictor.cfg.name, **measure.score(predictor.spec, outputs, y)}]
    return rows + _baselines(predictor.spec, data.artifacts["sets"], split, y)


def _check_spec(trained: GraphSpec, here: GraphSpec) -> None:
    for name in ("task", "num_outputs", "atom_sizes", "bond_sizes", "x_dim", "source"):
        if getattr(trained, name) != getattr(here, name):
            raise DataError(
                f"this model was trained on other data: {name} is {getattr(trained, name)}, "
                f"here it is {getattr(here, name)}"
            )


def _outputs(predictor: GraphPredictor, loader: Loader) -> tuple[Tensor, Tensor]:
    """What the model says over a split, and the targets, in one order."""
    found = [(predictor.outputs(to_device(batch, predictor.device)), batch["y"]) for batch in loader]
    outputs, targets = zip(*found, strict=True)
    return torch.cat(outputs), torch.cat(targets)


def _baselines(spec: GraphSpec, sets: GraphSets, split: str, y: Tensor) -> list[dict[str, Any]]:
    train, here = sets.splits["train"], sets.splits[split]
    if spec.task == "edge_prediction":
        links, others = sets.links[split]
        pairs = np.concatenate([links, others])
        truth = torch.cat([torch.ones(len(links)), torch.zeros(len(others))])
        found = torch.from_numpy(measure.common_neighbours(here, pairs))
        # a score is not a logit, but only ranks count
        rows = {"common neighbours": found, "constant": torch.zeros(len(pairs))}
        return [{"name": name, **measure.score(spec, scores, truth)} for name, scores in rows.items()]
    features = {"counts": measure.counts if not train.node_level else measure.node_counts}
    inputs: dict[str, tuple[Array, Array, Array]] = {
        name: tuple(make(sets.splits[s], spec) for s in ("train", "valid", split))  # type: ignore[misc]
        for name, make in features.items()
    }
    if sets.smiles:
        try:
            made = {s: molecules.fingerprints(sets.smiles[s]) for s in {"train", "valid", split}}
            inputs["fingerprint"] = (made["train"], made["valid"], made[split])
        except MissingExtraError as error:
            log.warning("the row of fingerprints is left out: %s", error)
    return [_row(spec, sets, split, name, *x) for name, x in inputs.items()] + [_constant(spec, sets, split)]


def _row(
    spec: GraphSpec, sets: GraphSets, split: str, name: str, x: Array, x_valid: Array, x_here: Array
) -> dict[str, Any]:
    """Ridge regression on features, for classes on their one-hot."""
    y, y_valid, y_here = (sets.splits[s].y for s in ("train", "valid", split))
    if spec.task != "regression":
        (x, y), (x_valid, y_valid), (x_here, y_here) = (
            (features[labels >= 0], labels[labels >= 0])
            for features, labels in ((x, y), (x_valid, y_valid), (x_here, y_here))
        )
        y, y_valid = (measure.one_hot(labels, spec.num_outputs) for labels in (y, y_valid))
    weights = measure.tuned_ridge(x, y, x_valid, y_valid)
    guess = torch.from_numpy(measure.apply_ridge(weights, x_here))
    scale = 1.0 if spec.task == "regression" else 10.0  # a share of one as a logit: only ranks count
    return {"name": name, **measure.score(spec, guess * scale, torch.from_numpy(np.asarray(y_here)))}


def _constant(spec: GraphSpec, sets: GraphSets, split: str) -> dict[str, Any]:
    y = torch.from_numpy(np.asarray(sets.splits[split].y))
    if spec.task == "regression":
        guess = torch.from_numpy(np.median(sets.splits["train"].y, 0)).expand_as(y)
    else:
        guess = torch.tensor(spec.class_counts).double().clamp(min=1e-9).log().expand(len(y), -1)
    return {"name": "constant", **measure.score(spec, guess, y)}


def examples(predictor: GraphPredictor, data: Data) -> list[dict[str, Any]]:
    """A few held-out graphs: what the model says of them, and the truth."""
    loader = data.test or data.valid
    spec, sets = predictor.spec, data.artifacts["sets"]
    if isinstance(loader.dataset, LinkDataset) or spec.task == "node_classification":
        return []
    split = "test" if data.test is not None else "valid"
    graphs = sets.splits[split].take(range(min(_SHOWN, len(sets.splits[split]))))
    answers = predictor.predict_graphs(graphs)
    rows = []
    for i, answer in enumerate(answers):
        what = (
            sets.smiles[split][i]
            if sets.smiles
            else f"{graphs.num_nodes[i]} nodes, {graphs.num_edges[i] // 2} edges"
        )
        if spec.task == "classification":
            rows.append([what, str(answer["label"]), str(spec.target_names[int(graphs.y[i])])])
            continue
        said, truth = list(answer.values()), graphs.y[i].tolist()
        rows.append([what, *(f"{value:.3f}" for pair in zip(said, truth, strict=True) for value in pair)])
    columns = ["graph", "model", "truth"]
    if spec.task == "regression" and len(spec.target_names) > 1:
        columns = ["graph", *(f"{name}{end}" for name in spec.target_names for end in ("", " (truth)"))]
    return [{"title": f"{split} graphs", "columns": columns, "rows": rows}]


def _build_model(cfg: GraphConfig, spec: GraphSpec) -> nn.Module:
    return build_model(cfg.model, spec, cfg.pe.lap.signs)


def _build_task(cfg: GraphConfig, model: nn.Module, data: Data) -> Task:
    assert isinstance(model, GraphModel)
    return build_task(cfg, model, data)


FAMILY = Family(
    name="graph",
    config=GraphConfig,
    build_data=build_data,
    build_model=_build_model,
    build_task=_build_task,
    save_model=save_model,
    predictor=GraphPredictor,
    table=table,
    examples=examples,
    curriculum={"dim": "model.dim"},
)

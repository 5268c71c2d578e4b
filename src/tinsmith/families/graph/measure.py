"""Scores of predictions by task, and the baselines that say whether it was worth training.

Shapes: G graphs, N nodes, T targets or classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.metrics import get_metrics
from tinsmith.families.graph.graphs import Array, Graphs
from tinsmith.families.graph.model import GraphSpec


def score(spec: GraphSpec, outputs: Tensor, y: Tensor) -> dict[str, float]:
    """The metrics of a task over a whole set, the one that decides first.

    Args:
        outputs: predictions of a regression in the targets' own units [G, T]; logits [G, T], [N, T] or [R].
        y: targets likewise, classes below 0 do not count.
    """
    if spec.task == "regression":
        found = _regression(spec, outputs, y)
    elif spec.task == "edge_prediction":
        found = _computed("edge_prediction", outputs, y)
    else:
        found = _computed("classification", outputs, y)
        found["accuracy_balanced"] = balanced_accuracy(outputs, y)
    return {spec.monitor: found[spec.monitor], **found} if spec.monitor in found else found


def _computed(task: str, outputs: Tensor, y: Tensor) -> dict[str, float]:
    metrics = get_metrics(task)
    metrics.update(outputs, y)
    return metrics.compute()


def _regression(spec: GraphSpec, outputs: Tensor, y: Tensor) -> dict[str, float]:
    """``mae``, ``rmse``, ``nmae`` (in deviations of the training targets, mean of the targets), ``r2``."""
    found = _computed("regression", outputs, y)
    error = (outputs.double() - y.double()).reshape(len(y), -1)
    deviation = torch.tensor(spec.target_std or (1.0,) * error.shape[1], dtype=torch.float64)
    truth = y.double().reshape(len(y), -1)
    spread = (truth - truth.mean(0)).square().sum(0)
    explained = 1 - error.square().sum(0) / spread.clamp(min=1e-12)
    return {
        "mae": found["mae"],
        "rmse": found["rmse"],
        "nmae": float((error.abs().mean(0) / deviation).mean()),
        "r2": float(explained.mean()),
    }


def balanced_accuracy(logits: Tensor, y: Tensor) -> float:
    """The mean over the classes that occur of the share that is recognised (the SBM benchmarks' accuracy)."""
    right = logits.argmax(-1) == y
    classes = [right[y == c].double().mean() for c in sorted(set(y.tolist())) if c >= 0]
    return float(torch.stack(classes).mean()) if classes else float("nan")


# ---- baselines --------------------------------------------------------------------------------------


def ridge(x: Array, y: Array, penalty: float = 1.0) -> NDArray[np.float64]:
    """Weights [X + 1, T] of a ridge regression with an offset, the columns of x standardised first."""
    mean, deviation = x.mean(0), x.std(0)
    scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
    z = (x - mean) * scale
    centre = y.mean(0)
    if len(z) < z.shape[1]:  # the dual: as many unknowns as there are rows
        inner = z @ z.T + penalty * np.eye(len(z))
        weights = z.T @ np.linalg.solve(inner, y - centre)
    else:
        weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - centre))
    weights = scale[:, None] * weights
    return np.concatenate([weights, (centre - mean @ weights)[None]])


def apply_ridge(weights: NDArray[np.float64], x: Array) -> NDArray[np.float64]:
    """[rows, T] by the weights of ``ridge``."""
    out: NDArray[np.float64] = x @ weights[:-1] + weights[-1]
    return out


def tuned_ridge(x: Array, y: Array, x_valid: Array, y_valid: Array) -> NDArray[np.float64]:
    """``ridge`` with the penalty, of a few, that is best on the validation split."""
    found = [ridge(x, y, penalty) for penalty in (1.0, 10.0, 100.0, 1000.0, 10_000.0)]
    errors = [float(np.abs(apply_ridge(w, x_valid) - y_valid).mean()) for w in found]
    return found[int(np.argmin(errors))]


def counts(graphs: Graphs, spec: GraphSpec) -> NDArray[np.float64]:
    """What one counts of a graph without learning: nodes, edges, degrees, kinds of nodes, edges: [G, X]."""
    size = len(graphs)
    owner = np.repeat(np.arange(size), graphs.num_nodes)
    owner_edge = np.repeat(np.arange(size), graphs.num_edges)
    degree = degrees(graphs)
    columns = [graphs.num_nodes, graphs.num_edges / 2, np.bincount(owner, degree**2.0, size)]
    columns += [np.bincount(owner, degree == d, size) for d in range(9)]
    for i, number in enumerate(spec.atom_sizes):
        columns += [np.bincount(owner, graphs.atoms[:, i] == kind, size) for kind in range(number)]
    for i, number in enumerate(spec.bond_sizes):
        columns += [np.bincount(owner_edge, graphs.bonds[:, i] == kind, size) for kind in range(number)]
    for i in range(graphs.x.shape[1]):
        columns.append(np.bincount(owner, graphs.x[:, i], size))
    return np.stack([np.asarray(c, np.float64) for c in columns], 1)


def node_counts(graphs: Graphs, spec: GraphSpec) -> NDArray[np.float64]:
    """What one sees of a node alone: its degree, categories and numbers: [N, X]."""
    columns = [degrees(graphs).astype(np.float64)]
    for i, number in enumerate(spec.atom_sizes):
        columns += [(graphs.atoms[:, i] == kind).astype(np.float64) for kind in range(number)]
    return np.concatenate([np.stack(columns, 1), graphs.x], 1)


def degrees(graphs: Graphs) -> NDArray[np.int64]:
    """The number of neighbours of each node [N]."""
    shift = np.repeat(graphs.node_start, graphs.num_edges)
    return np.bincount(graphs.ends[0] + shift, minlength=int(graphs.num_nodes.sum()))


def common_neighbours(graph: Graphs, pairs: Array) -> NDArray[np.float64]:
    """Adamic and Adar's score of pairs of nodes (10.1016/S0378-8733(03)00009-1): [R].

    ``sum over common neighbours k of 1 / log d_k``.
    """
    neighbours: dict[int, set[int]] = {}
    for i, j in graph.ends.T.tolist():
        neighbours.setdefault(i, set()).add(j)
    weight = 1 / np.log(np.maximum(degrees(graph), 2))
    empty: set[int] = set()
    return np.array(
        [
            sum(weight[k] for k in neighbours.get(i, empty) & neighbours.get(j, empty))
            for i, j in pairs.tolist()
        ]
    )


def one_hot(y: Array, count: int) -> NDArray[np.float64]:
    """[rows, count], for ridge regression on classes."""
    return np.eye(count)[y]

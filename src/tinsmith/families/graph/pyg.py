"""To and from PyTorch Geometric, which is an extra: its data sets by name, its batches as ours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinsmith.errors import ConfigError, DataError, did_you_mean, missing_extra
from tinsmith.families.graph.graphs import Graphs, build, simple


def from_batch(batch: Any) -> dict[str, Tensor]:
    """The tensors that our models want of a ``torch_geometric.data.Batch`` or ``Data``, without encodings.

    ``x`` must be numbers (integers are taken as such); a batch's nodes stand graph by graph.
    """
    source, target = batch.edge_index
    count = int(batch.num_nodes)
    graph = getattr(batch, "batch", None)
    if graph is None:
        graph = torch.zeros(count, dtype=torch.long, device=source.device)
    size = torch.bincount(graph)
    n = int(size.max())
    first = (size.cumsum(0) - size)[graph]
    x = batch.x if getattr(batch, "x", None) is not None else torch.ones(count, 1, device=source.device)
    kinds = getattr(batch, "edge_attr", None)
    bonds = kinds if kinds is not None and not kinds.is_floating_point() else source.new_zeros(len(source), 0)
    return {
        "x": x.float(),
        "atoms": source.new_zeros(count, 0),
        "edges": torch.stack([source, target]),
        "bonds": bonds if bonds.ndim == 2 else bonds[:, None],
        "position": graph * n + torch.arange(count, device=source.device) - first,
        "size": size,
        "mask": torch.arange(n, device=source.device) < size[:, None],
    }


def load_named(subset: str, root: Path) -> Any:
    """A data set of ``torch_geometric.datasets``: ``TUDataset/MUTAG``, ``ZINC``, ``Planetoid/Cora``.

    Raises:
        MissingExtraError: PyTorch Geometric is not installed.
        ConfigError: it has no such data set.
        DataError: it cannot be had.
    """
    try:
        from torch_geometric import datasets
    except ImportError:
        raise missing_extra("a data set of PyTorch Geometric", "graph") from None
    name, _, part = subset.partition("/")
    kind = getattr(datasets, name, None)
    if kind is None:
        raise ConfigError(
            f"dataset.subset='{subset}': torch_geometric.datasets has no {name}."
            f"{did_you_mean(name, datasets.__all__)}"
        )
    try:
        return kind(str(root), name=part) if part else kind(str(root))
    except Exception as error:  # downloads and missing files fail in too many kinds to name
        raise DataError(f"{name} cannot be read below {root}: {' '.join(str(error).split())}") from None


def from_data(items: Iterable[Any]) -> Graphs:
    """Graphs from PyTorch Geometric's ``Data``, as they are: directed edges become undirected ones.

    Integer ``x`` of few values become categories, other ``x`` numbers.
    """
    edges, nodes, xs, ys = [], [], [], []
    for item in items:
        count = int(item.num_nodes)
        kinds = getattr(item, "edge_attr", None)
        whole = kinds is not None and not kinds.is_floating_point()
        bonds = kinds.numpy() if whole and kinds is not None else None
        edges.append(simple(count, item.edge_index.T.numpy(), bonds))
        nodes.append(count)
        xs.append(item.x if item.x is not None else torch.zeros(count, 0))
        ys.append(item.y)
    x = torch.cat([value.reshape(len(value), -1) for value in xs])
    per_node = all(value.numel() == n for value, n in zip(ys, nodes, strict=True)) and max(nodes) > 1
    y = torch.cat([value.reshape(-1) if per_node else value.reshape(1, -1) for value in ys])
    if y.ndim == 2 and not y.is_floating_point() and y.shape[1] == 1:
        y = y[:, 0]
    if x.is_floating_point():
        return build(edges, nodes, y.numpy(), x=x.numpy())
    return build(edges, nodes, y.numpy(), atoms=x.numpy().astype(np.int16))


def to_data(graphs: Graphs, x: Tensor) -> list[Any]:
    """Each graph as ``torch_geometric.data.Data`` with ``x``, ``edge_index``, ``edge_attr`` and ``y``.

    Args:
        x: of all nodes [N, X].

    Raises:
        MissingExtraError: PyTorch Geometric is not installed.
    """
    try:
        from torch_geometric.data import Data
    except ImportError:
        raise missing_extra("to_pyg", "graph") from None
    out = []
    for i in range(len(graphs)):
        one = graphs.take([i])
        first, count = int(graphs.node_start[i]), int(graphs.num_nodes[i])
        y = torch.from_numpy(np.asarray(one.y))
        bonds = torch.from_numpy(one.bonds.astype(np.int64))
        out.append(
            Data(
                x=x[first : first + count],
                edge_index=torch.from_numpy(one.ends.astype(np.int64)),
                edge_attr=bonds if bonds.shape[1] else None,
                y=y,
            )
        )
    return out

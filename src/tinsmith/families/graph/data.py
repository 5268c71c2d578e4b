"""The family's data: graphs, their encodings, and the spec that says what a model needs to know of them."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.contract import Data
from tinsmith.engine.data import BatchDataset, Loader
from tinsmith.families.graph.batches import Batch, GraphDataset, Layout, pair_dim, statistics
from tinsmith.families.graph.config import GraphConfig
from tinsmith.families.graph.datasets import load
from tinsmith.families.graph.encode import Encoded, encode, lap_dim, node_dim
from tinsmith.families.graph.graphs import Graphs
from tinsmith.families.graph.model import ATTENTION, GraphSpec
from tinsmith.families.graph.sets import SPLITS, GraphSets, Links
from tinsmith.families.graph.store import cache_folder

log = logging.getLogger(__name__)


class LinkDataset(BatchDataset):
    """Links of one graph by index, with the graph: which pairs of nodes are linked?

    A batch is the graph, ``pairs`` [2, R] and ``y`` [R]. In training the links that are asked for are taken
    out of the graph (else the answer would stand in the question), ``y`` is all ones, and the task adds as
    many pairs without a link; ``links`` [K] are the sorted keys of all that are linked, so that it meets none
    of them. Elsewhere the batch has the split's own pairs without a link.

    Args:
        graph: one graph of the training links. encoded: its encodings. layout: what a batch holds.
        links: the split's. train: whether it is the training split.
    """

    def __init__(self, graph: Graphs, encoded: Encoded, layout: Layout, links: Links, train: bool) -> None:
        self.base = GraphDataset(graph, encoded, layout)
        self.graphs, self.links, self.train = graph, links, train
        count = int(graph.num_nodes[0])
        self._keys = torch.from_numpy(graph.ends[0].astype(np.int64) * count + graph.ends[1])
        self._known = torch.sort(self._keys).values

    def __len__(self) -> int:
        return len(self.links[0])

    def batch(self, indices: Tensor) -> Batch:
        """The graph and the links ``indices`` [R], or in validation these and as many that are none."""
        out = self.base.batch(torch.zeros(1, dtype=torch.long))
        chosen = torch.from_numpy(self.links[0][indices.numpy()]).T
        count = out["mask"].shape[1]
        if self.train:
            asked = torch.cat([chosen[0] * count + chosen[1], chosen[1] * count + chosen[0]])
            keep = ~torch.isin(self._keys, asked)
            out["edges"], out["bonds"] = out["edges"][:, keep], out["bonds"][keep]
            return {**out, "pairs": chosen, "y": torch.ones(chosen.shape[1]), "links": self._known}
        others = torch.from_numpy(self.links[1][indices.numpy()]).T
        y = torch.cat([torch.ones(chosen.shape[1]), torch.zeros(others.shape[1])])
        return {**out, "pairs": torch.cat([chosen, others], 1), "y": y}


def build_data(cfg: GraphConfig) -> Data:
    """The graphs of a data set, their encodings (computed once and kept), and the spec.

    Raises:
        DataError: the files are not what they should be.
        MissingExtraError: molecules without rdkit.
    """
    sets = load(cfg.dataset, cfg.seed)
    cache = cache_folder(cfg.dataset.cache)
    largest = max(int(graphs.num_nodes.max()) for graphs in sets.splits.values())
    pairs = cfg.model.name in ATTENTION and largest <= cfg.pe.largest
    if cfg.model.name in ATTENTION and not pairs:
        log.info("a graph of %d nodes: no encodings of pairs (pe.largest=%d)", largest, cfg.pe.largest)
    layout = Layout(cfg.pe, sets.bond_sizes, pairs)
    datasets: dict[str, GraphDataset | LinkDataset] = {}
    one: Encoded | None = None
    for split in SPLITS:
        graphs = sets.splits[split]
        shared = one is not None and graphs.ends is sets.splits["train"].ends
        encoded = one if shared and one is not None else encode(graphs, cfg.pe, pairs, cache)
        one = one if one is not None else encoded
        datasets[split] = (
            LinkDataset(graphs, encoded, layout, sets.links[split], split == "train")
            if sets.links
            else GraphDataset(graphs, encoded, layout)
        )
    first = datasets["train"]
    figures = statistics(first if isinstance(first, GraphDataset) else first.base)
    artifacts = {"sets": sets, "figures": figures, "layout": layout}
    loaders = {split: _loader(cfg, split, dataset) for split, dataset in datasets.items()}
    return Data(loaders["train"], loaders["valid"], loaders["test"], _spec(cfg, sets, layout), artifacts)


def _loader(cfg: GraphConfig, split: str, dataset: GraphDataset | LinkDataset) -> Loader:
    train = split == "train"
    size = cfg.trainer.batch_size if train else max(cfg.trainer.batch_size, 64)
    if isinstance(dataset, LinkDataset) and not train:
        size = len(dataset)  # one pass over the graph scores all of them
    return Loader(
        dataset,
        size,
        shuffle=train,
        seed=cfg.seed,
        num_workers=cfg.trainer.num_workers if train else 0,
        lengths=getattr(dataset, "lengths", None),
    )


def _spec(cfg: GraphConfig, sets: GraphSets, layout: Layout) -> GraphSpec:
    train = sets.splits["train"]
    spec = GraphSpec(
        task=sets.task,
        num_outputs=sets.num_outputs,
        atom_sizes=sets.atom_sizes,
        bond_sizes=sets.bond_sizes,
        x_dim=train.x.shape[1],
        node_pe_dim=node_dim(cfg.pe),
        lap_dim=lap_dim(cfg.pe),
        pair_dim=pair_dim(layout),
        target_names=sets.target_names,
        mean_nodes=float(train.num_nodes.mean()),
        monitor=sets.monitor,
        mode=sets.mode,
        source=sets.source,
    )
    if sets.task == "regression":
        mean, deviation = figures_of(train.y)
        return replace(spec, target_mean=mean, target_std=deviation)
    if sets.task == "edge_prediction":
        return spec
    counts = np.bincount(train.y[train.y >= 0], minlength=sets.num_outputs)
    return replace(spec, class_counts=tuple(int(n) for n in counts))


def figures_of(y: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each target; the deviation of one that never varies is 1."""
    mean, deviation = y.astype(np.float64).mean(0), y.astype(np.float64).std(0)
    deviation = np.where(deviation > 1e-12, deviation, 1.0)
    return tuple(float(value) for value in mean), tuple(float(value) for value in deviation)

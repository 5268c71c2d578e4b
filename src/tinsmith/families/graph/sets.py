"""A data set in memory: the graphs of its splits, what they are for, and loaders over them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from tinsmith.engine.data import Loader
from tinsmith.families.graph import pyg
from tinsmith.families.graph.batches import GraphDataset, Layout, one_hot
from tinsmith.families.graph.config import PEConfig
from tinsmith.families.graph.encode import encode
from tinsmith.families.graph.graphs import Array, Graphs

SPLITS = ("train", "valid", "test")

Links = tuple[Array, Array]  # pairs of nodes that are linked, and as many that are not: [R, 2] each


@dataclass(eq=False)
class GraphSets:
    """The graphs of a data set in their splits, and what they are for.

    Args:
        splits: ``train``, ``valid``, ``test``. Of one large graph they differ in which targets are known.
        task: regression | classification | node_classification | edge_prediction.
        num_outputs: targets or classes.
        monitor, mode: what decides, and its direction.
        atom_sizes, bond_sizes: categories in each column. target_names: of targets or classes.
        source: what a predictor reads: ``graph``, or a scheme of ``molecules``.
        smiles: the molecules of each split, where they are some.
        links: of edge prediction, the pairs of each split; ``splits`` then holds the training links alone.
    """

    splits: dict[str, Graphs]
    task: str
    num_outputs: int
    monitor: str
    mode: str
    atom_sizes: tuple[int, ...] = ()
    bond_sizes: tuple[int, ...] = ()
    target_names: tuple[str, ...] = ()
    source: str = "graph"
    smiles: dict[str, list[str]] = field(default_factory=dict)
    links: dict[str, Links] = field(default_factory=dict)

    @property
    def num_features(self) -> int:
        """Numbers of a node: its categories one-hot, and its own numbers; a single one where it has none."""
        return max(1, sum(self.atom_sizes) + int(self.splits["train"].x.shape[1]))

    @property
    def num_classes(self) -> int:
        """Outputs of a model: classes, or targets of a regression."""
        return self.num_outputs

    def get_splits(self) -> tuple[GraphSplit, GraphSplit, GraphSplit]:
        """The training, validation and test split."""
        train, valid, test = (
            GraphSplit(self.splits[name], self.atom_sizes, self.bond_sizes) for name in SPLITS
        )
        return train, valid, test


class GraphSplit:
    """The graphs of a split, for loops of one's own. ``graphs`` holds them as flat arrays."""

    def __init__(self, graphs: Graphs, atom_sizes: tuple[int, ...], bond_sizes: tuple[int, ...]) -> None:
        self.graphs, self.atom_sizes, self.bond_sizes = graphs, atom_sizes, bond_sizes

    def __len__(self) -> int:
        return len(self.graphs)

    def loader(
        self, batch_size: int = 32, shuffle: bool = False, seed: int = 0, pe: PEConfig | None = None
    ) -> Loader:
        """Batches for a ``Trainer``: dicts as in ``batches``, categories one-hot in ``x``.

        Args:
            pe: encodings to compute; none if None.
        """
        graphs = replace(self.graphs, x=self._x())
        chosen = pe if pe is not None else no_encodings()
        layout = Layout(chosen, self.bond_sizes, pairs=pe is not None)
        dataset = GraphDataset(graphs, encode(graphs, chosen, layout.pairs), layout)
        return Loader(dataset, batch_size, shuffle=shuffle, seed=seed, lengths=dataset.lengths)

    def to_pyg(self) -> list[Any]:
        """The graphs as ``torch_geometric.data.Data``, for PyTorch Geometric's own loaders.

        Raises:
            MissingExtraError: PyTorch Geometric is not installed.
        """
        return pyg.to_data(self.graphs, torch.from_numpy(self._x()))

    def _x(self) -> Array:
        x = one_hot(self.graphs, self.atom_sizes).numpy()
        return x if x.shape[1] else np.ones((len(x), 1), np.float32)


def no_encodings() -> PEConfig:
    """``pe=none``."""
    pe = PEConfig()
    pe.degree.node = pe.rrwp.node = pe.rrwp.pair = pe.heat.node = pe.spd.pair = False
    return pe

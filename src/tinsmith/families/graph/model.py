"""The nets: a stem that says what a node is and where it stands, blocks, and a head for each kind of task.

* ``graph_transformer``: attention between all nodes, its biases from the encodings of the pairs
* ``gps``: messages along the edges (GINE) and such attention side by side
* ``gine``, ``gcn``: messages alone, the baselines

Shapes: M nodes of B graphs, n of the largest, E directed edges, D width, T outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinsmith.engine.config import check_choice
from tinsmith.families.graph.config import MODELS, ModelConfig
from tinsmith.families.graph.layers import (
    GCN,
    GINE,
    GPSBlock,
    MessageBlock,
    PairEncoder,
    Standardise,
    Structure,
    TransformerBlock,
    gather,
    scatter_sum,
)

ATTENTION = ("graph_transformer", "gps")


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """What the data say about the model. Saved with the weights.

    Args:
        task: regression | classification | node_classification | edge_prediction.
        num_outputs: targets of a regression, or classes.
        atom_sizes, bond_sizes: categories in each column of the nodes and of the edges.
        x_dim: numbers of a node. node_pe_dim, lap_dim, pair_dim: of the encodings; pair_dim 0: no pairs.
        target_names: of the targets or classes. target_mean, target_std: of a regression's training targets.
        class_counts: of the training set. mean_nodes: of a training graph.
        monitor, mode: the metric that decides, and its direction.
        source: what its inputs are: graph | smiles | zinc (a scheme of ``molecules``).
    """

    task: str
    num_outputs: int
    atom_sizes: tuple[int, ...] = ()
    bond_sizes: tuple[int, ...] = ()
    x_dim: int = 0
    node_pe_dim: int = 0
    lap_dim: int = 0
    pair_dim: int = 0
    target_names: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    class_counts: tuple[int, ...] = ()
    mean_nodes: float = 1.0
    monitor: str = "loss"
    mode: str = "min"
    source: str = "graph"


class Signs(nn.Module):
    """Eigenvectors, whose signs mean nothing, as numbers of a node.

    * ``flip``: random signs in training (arXiv:2003.00982), the given ones in use
    * ``invariant``: ``phi(v) + phi(-v)`` for each, then a linear map of all (SignNet, arXiv:2202.13013)
    * ``spe``: ``rho(v diag(phi_c(lam)) v^T)`` summed over the other node (SPE, arXiv:2310.02579, equation 2):
      the same for any basis of an eigenspace

    Args:
        size: k eigenvectors. dim: D. kind: one of the above.
    """

    CHANNELS = 8

    def __init__(self, size: int, dim: int, kind: str) -> None:
        super().__init__()
        check_choice("lap.signs", kind, ("flip", "invariant", "spe"))
        self.kind = kind
        hidden, channels = 16, self.CHANNELS
        if kind == "flip":
            self.out = nn.Linear(size, dim)
        elif kind == "invariant":
            self.phi = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
            self.out = nn.Linear(size * hidden, dim)
        else:
            self.phi = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, channels))
            self.rho = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
            self.out = nn.Linear(hidden + channels, dim)

    def forward(self, vectors: Tensor, values: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """``vectors`` [M, k], ``values`` [B, k], ``position`` [M], ``mask`` [B, n] -> [M, D]."""
        out: Tensor
        graph = torch.div(position, mask.shape[1], rounding_mode="floor")
        if self.kind == "flip":
            if self.training:
                signs = 1.0 - 2.0 * torch.randint(2, values.shape, device=values.device)
                vectors = vectors * gather(signs, graph)
            out = self.out(vectors)
        elif self.kind == "invariant":
            both = self.phi(vectors[..., None]) + self.phi(-vectors[..., None])
            out = self.out((both * (vectors[..., None] != 0)).flatten(1))
        else:
            out = self.out(self._stable(vectors, values, position, mask))
        return out

    def _stable(self, vectors: Tensor, values: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        count, n = mask.shape
        size = vectors.shape[1]
        padded = vectors.new_zeros(count * n, size).index_copy(0, position, vectors).view(count, n, size)
        filters = self.phi(values[..., None]).mT  # [B, channels, k]
        kernels = (padded[:, None] * filters[:, :, None]) @ padded[:, None].mT  # [B, channels, n, n]
        own = kernels.diagonal(dim1=-2, dim2=-1).mT  # [B, n, channels]
        seen = self.rho(kernels.movedim(1, -1)) * mask[:, None, :, None]
        mean = seen.sum(2) / mask.sum(1)[:, None, None]
        rows = torch.cat([mean, own], -1).flatten(0, 1)
        return gather(rows, position)


class GraphModel(nn.Module):
    """A batch of graphs to outputs of its graphs, nodes or pairs of nodes.

    Args:
        cfg: sizes. spec: what the data are. lap_signs: as in ``Signs``.
    """

    def __init__(self, cfg: ModelConfig, spec: GraphSpec, lap_signs: str = "spe") -> None:
        super().__init__()
        self.spec, self.name, self.num_layers = spec, cfg.name, cfg.num_layers
        dim = cfg.dim
        self.pool = cfg.pool if cfg.pool != "auto" else ("sum" if spec.task == "regression" else "mean")
        self.atoms = nn.ModuleList(nn.Embedding(size, dim) for size in spec.atom_sizes)
        self.x = nn.Linear(spec.x_dim, dim) if spec.x_dim else None
        self.standardise = Standardise(spec.node_pe_dim) if spec.node_pe_dim else None
        self.node_pe = nn.Linear(spec.node_pe_dim, dim) if spec.node_pe_dim else None
        self.signs = Signs(spec.lap_dim, dim, lap_signs) if spec.lap_dim else None
        self.start = nn.Parameter(0.1 * torch.randn(dim))  # all that a node without any feature has
        local = cfg.name in ("gps", "gine")
        self.bonds = nn.ModuleList(nn.Embedding(size, dim) for size in spec.bond_sizes if local)
        paired = cfg.name in ATTENTION and spec.pair_dim > 0
        self.pair = (
            PairEncoder(spec.pair_dim, cfg.pair_dim, cfg.num_layers * cfg.num_heads) if paired else None
        )
        self.pair_values = cfg.pair_values and paired and cfg.name == "graph_transformer"
        self.blocks = nn.ModuleList(_block(cfg, self.pair_values) for _ in range(cfg.num_layers))
        self.norm = _norm(cfg)(dim)
        last = nn.Linear(dim, spec.num_outputs)
        nn.init.zeros_(last.weight)  # training starts at the mean of the targets, or at even chances
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), last)

    @torch.no_grad()
    def start_from(self, figures: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Take over the mean and deviation of ``node_pe`` and ``pair`` in the training set."""
        if self.standardise is not None and "node_pe" in figures:
            self.standardise.start_from(*figures["node_pe"])
        if self.pair is not None and "pair" in figures:
            self.pair.standardise.start_from(*figures["pair"])

    def forward(self, batch: Any = None, **tensors: Tensor) -> Tensor:
        """The outputs of a batch.

        Args:
            batch: a dict as in ``batches``, or an object of PyTorch Geometric; or its tensors by name.

        Returns:
            Regression [B, T] (in deviations from the mean of the training targets where the spec has them),
            classification [B, T] logits, of nodes [M, T], of the pairs of nodes ``batch["pairs"]`` [2, R]
            [R].
        """
        if batch is None:
            batch = tensors
        if not isinstance(batch, dict):
            from tinsmith.families.graph.pyg import from_batch

            batch = from_batch(batch)
        x = self.norm(self.states(batch)[-1])
        if self.spec.task == "node_classification":
            out: Tensor = self.head(x)
            return out
        if self.spec.task == "edge_prediction":
            left, right = (gather(x, rows) for rows in batch["pairs"])
            scores: Tensor = self.head(left * right)
            return scores[:, 0]
        pooled: Tensor = self.head(self._pooled(x, batch))
        return pooled

    def states(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """The nodes [M, D] as they enter the first block, and as they leave each."""
        s = self.structure(batch)
        found = [self.stem(batch)]
        for i, block in enumerate(self.blocks):
            found.append(block(found[-1], s, None if s.bias is None else s.bias[:, i]))
        return found

    def stem(self, batch: dict[str, Tensor]) -> Tensor:
        """What a node is and where it stands: [M, D]."""
        x = self.start.expand(len(batch["position"]), -1)
        for column, table in enumerate(self.atoms):
            x = x + table(batch["atoms"][:, column])
        if self.x is not None:
            x = x + self.x(batch["x"])
        if self.node_pe is not None and self.standardise is not None:
            x = x + self.node_pe(self.standardise(batch["node_pe"]))
        if self.signs is not None:
            x = x + self.signs(batch["lap"], batch["lap_values"], batch["position"], batch["mask"])
        return x

    def structure(self, batch: dict[str, Tensor]) -> Structure:
        """What the blocks share."""
        source, target = batch["edges"]
        edge = None
        for column, table in enumerate(self.bonds):
            kind = table(batch["bonds"][:, column])
            edge = kind if edge is None else edge + kind
        bias = pair = norm = None
        if self.pair is not None:
            z = self.pair(batch["pair"] if "pair" in batch else neighbours(batch))
            bias = self.pair.biases(z, batch["mask"], self.num_layers)
            if self.pair_values:
                n = batch["mask"].shape[1]
                pair = z.mT.reshape(len(z), n, n, -1)
        elif self.name in ATTENTION:
            no_bias = self.start.new_zeros(batch["mask"].shape).masked_fill(~batch["mask"], -torch.inf)
            bias = no_bias[:, None, None, None].expand(-1, self.num_layers, -1, -1, -1)
        if self.name == "gcn":
            count = torch.bincount(target, minlength=len(batch["position"]))
            norm = (1.0 + count).rsqrt()
        return Structure(source, target, edge, norm, batch["position"], batch["mask"], bias, pair)

    def _pooled(self, x: Tensor, batch: dict[str, Tensor]) -> Tensor:
        count, n = batch["mask"].shape
        graph = torch.div(batch["position"], n, rounding_mode="floor")
        if self.pool == "max":
            padded = x.new_full((count * n, x.shape[1]), -torch.inf).index_copy(0, batch["position"], x)
            return padded.view(count, n, -1).amax(1)
        total = scatter_sum(x, graph, count)
        if self.pool == "sum":
            return total / self.spec.mean_nodes
        return total / batch["size"][:, None].to(x.dtype)


def neighbours(batch: dict[str, Tensor]) -> Tensor:
    """The adjacency as the one number of a pair [B, 1, n, n]: for batches without pairs."""
    count, n = batch["mask"].shape
    source, target = (gather(batch["position"], rows) for rows in batch["edges"])
    out = torch.zeros(count, 1, n, n, device=source.device)
    out[torch.div(source, n, rounding_mode="floor"), 0, source % n, target % n] = 1.0
    return out


def _norm(cfg: ModelConfig) -> Callable[[int], nn.Module]:
    return nn.LayerNorm if cfg.norm == "layer" else nn.BatchNorm1d


def _block(cfg: ModelConfig, pair_values: bool) -> nn.Module:
    norm: Any = _norm(cfg)
    if cfg.name == "graph_transformer":
        pair_dim = cfg.pair_dim if pair_values else 0
        return TransformerBlock(cfg.dim, cfg.num_heads, norm, cfg.dropout, cfg.attn_dropout, pair_dim)
    if cfg.name == "gps":
        return GPSBlock(cfg.dim, cfg.num_heads, norm, cfg.dropout, cfg.attn_dropout)
    return MessageBlock(GINE(cfg.dim) if cfg.name == "gine" else GCN(cfg.dim), cfg.dim, norm, cfg.dropout)


def build_model(cfg: ModelConfig, spec: GraphSpec, lap_signs: str = "spe") -> GraphModel:
    """The net for a spec, with random weights."""
    return GraphModel(cfg, spec, lap_signs)


def get_model(
    name: str = "graph_transformer",
    num_features: int = 1,
    num_classes: int = 1,
    hidden_dim: int = 256,
    num_layers: int = 6,
    task: str = "graph",
    **options: Any,
) -> GraphModel:
    """A net for graphs whose nodes have ``num_features`` numbers: one-hot categories, coordinates, anything.

    It takes batches of ``get_dataset(...)``'s loaders and of PyTorch Geometric's, and trains in a plain
    ``Trainer(model, loss_fn=...)``.

    Args:
        name: graph_transformer | gps | gine | gcn.
        num_features: width of ``x``.
        num_classes: outputs of a graph (or node): classes, or targets of a regression.
        hidden_dim: width of the layers. num_layers: how many.
        task: "graph" (an output for each graph) or "node" (for each node).
        options: of ``ModelConfig``: ``num_heads``, ``dropout``, ``norm``, ``pool``; and of ``GraphSpec``, for
            batches with encodings: ``node_pe_dim``, ``lap_dim``, ``pair_dim`` (without it attention knows of
            a pair whether it is an edge).

    Raises:
        ConfigError: an unknown name, or a value that is not allowed.
    """
    check_choice("model", name, MODELS)
    check_choice("task", task, ("graph", "node"))
    sizes = {key: options.pop(key) for key in ("node_pe_dim", "lap_dim", "pair_dim") if key in options}
    sizes.setdefault("pair_dim", 1)
    cfg = ModelConfig(name=name, dim=hidden_dim, num_layers=num_layers, **options)
    cfg.validate()
    kind = "node_classification" if task == "node" else "classification"
    model = GraphModel(cfg, GraphSpec(kind, num_classes, x_dim=num_features, **sizes))
    nn.init.normal_(model.head[2].weight, std=hidden_dim**-0.5)  # type: ignore[arg-type]
    return model

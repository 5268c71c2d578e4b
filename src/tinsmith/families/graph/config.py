"""The graph family's settings. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from tinsmith.engine.config import (
    MatrixOptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
    check,
    check_choice,
)

DATASETS = (
    "csl",
    "pattern",
    "cluster",
    "counting",
    "esol",
    "freesolv",
    "lipo",
    "csv",
    "zinc",
    "zinc12k_r",
    "cora",
    "cora_links",
    "tu",
    "pyg",
)
MODELS = ("graph_transformer", "gps", "gine", "gcn")


@dataclass
class DatasetConfig:
    """The graphs. What they are for (task, metric, sizes) the data set itself declares."""

    name: str = "csl"  # csl | pattern | cluster | counting (generated) | esol | ... | csv | tu | pyg
    path: str = "data"  # file of a data set that is not generated, or the folder that holds it
    count: int = 0  # graphs that are generated for training; 0 = the data set's usual number
    smiles: str = "smiles"  # column of a csv that holds the molecule
    target: list[str] = field(default_factory=list)  # columns of a csv that are predicted; [] = all others
    task: str = "regression"  # of a csv: regression | classification
    split: str = "random"  # of molecules: random | scaffold
    valid_share: float = 0.1  # of the graphs, where no split is given
    test_share: float = 0.1  # of the graphs, where no split is given
    split_seed: int = 0  # of the division; 0 = that of seed
    fold: int = 0  # of csl (5 folds) and tu (10): the fold that is the test split
    subset: str = ""  # of pyg: NAME, or NAME/SUBSET of torch_geometric.datasets
    cache: str = ""  # folder of parsed molecules and encodings; empty = the user's cache

    def validate(self) -> None:
        check_choice("dataset.name", self.name, DATASETS)
        check_choice("dataset.task", self.task, ("regression", "classification"))
        check_choice("dataset.split", self.split, ("random", "scaffold"))
        check(self.count >= 0, "dataset.count", self.count, "0 (the usual number) or more")
        for name in ("valid_share", "test_share"):
            check(0 < getattr(self, name) < 0.5, f"dataset.{name}", getattr(self, name), "above 0, below 0.5")
        folds = 5 if self.name == "csl" else 10
        check(0 <= self.fold < folds, "dataset.fold", self.fold, f"0 to {folds - 1}")
        check(self.split_seed >= 0, "dataset.split_seed", self.split_seed, "0 or more")
        check(self.name != "pyg" or bool(self.subset), "dataset.subset", self.subset, "needed by pyg")


@dataclass
class DegreeConfig:
    """Number of neighbours."""

    node: bool = True  # log(1 + d), and d one-hot up to max
    max: int = 8  # the last one-hot place means this many neighbours or more

    def validate(self) -> None:
        check(self.max >= 0, "pe.degree.max", self.max, "0 or more")


@dataclass
class RRWPConfig:
    """Probabilities of random walks: the diagonal is RWSE, the pairs are RRWP."""

    node: bool = True  # return probabilities of each node
    pair: bool = True  # probabilities of getting from one node to another
    steps: int = 21  # lengths 0 .. steps - 1

    def validate(self) -> None:
        check(2 <= self.steps <= 256, "pe.rrwp.steps", self.steps, "2 to 256")


@dataclass
class HeatConfig:
    """Heat kernels exp(-t L)."""

    node: bool = True  # diagonals
    pair: bool = False  # whole kernels
    times: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])

    def validate(self) -> None:
        ok = bool(self.times) and all(0 < t <= 128 for t in self.times)
        check(ok, "pe.heat.times", self.times, "times above 0, at most 128")


@dataclass
class WaveletConfig:
    """Differences of heat kernels at successive times: bands that sum to the first kernel."""

    node: bool = False  # diagonal and energy of each band
    pair: bool = False  # whole bands
    times: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0, 8.0])

    def validate(self) -> None:
        times = self.times
        ok = bool(times) and all(0 < t <= 64 for t in times)
        ok = ok and all(a < b for a, b in pairwise(times))
        check(ok, "pe.wavelet.times", times, "rising times above 0, at most 64")


@dataclass
class LapConfig:
    """Eigenvectors of the normalised Laplacian."""

    node: bool = False
    size: int = 8  # the lowest non-trivial ones
    signs: str = "spe"  # flip (at random, in training) | invariant (phi(v) + phi(-v)) | spe (stable)

    def validate(self) -> None:
        check(self.size >= 1, "pe.lap.size", self.size, "1 or more")
        check_choice("pe.lap.signs", self.signs, ("flip", "invariant", "spe"))


@dataclass
class SPDConfig:
    """Lengths of shortest paths."""

    pair: bool = True
    max: int = 8  # what is farther, or not connected, shares one place

    def validate(self) -> None:
        check(1 <= self.max <= 254, "pe.spd.max", self.max, "1 to 254")


@dataclass
class HierConfig:
    """Distances on coarser graphs (rings and what hangs together most, merged)."""

    node: bool = False  # size of each node's cluster on each level
    pair: bool = False  # distances between the clusters of two nodes
    levels: int = 2
    max: int = 8  # what is farther, or not connected, shares one place

    def validate(self) -> None:
        check(1 <= self.levels <= 8, "pe.hier.levels", self.levels, "1 to 8")
        check(1 <= self.max <= 254, "pe.hier.max", self.max, "1 to 254")


@dataclass
class PEConfig:
    """The positional encodings: any subset. A group ``pe=NAME`` sets all the switches."""

    degree: DegreeConfig = field(default_factory=DegreeConfig)
    rrwp: RRWPConfig = field(default_factory=RRWPConfig)
    heat: HeatConfig = field(default_factory=HeatConfig)
    wavelet: WaveletConfig = field(default_factory=WaveletConfig)
    lap: LapConfig = field(default_factory=LapConfig)
    spd: SPDConfig = field(default_factory=SPDConfig)
    hier: HierConfig = field(default_factory=HierConfig)
    largest: int = 512  # nodes of a graph beyond which no pair tensors are built

    def validate(self) -> None:
        for part in (self.degree, self.rrwp, self.heat, self.wavelet, self.lap, self.spd, self.hier):
            part.validate()
        check(self.largest >= 1, "pe.largest", self.largest, "1 or more")


def build_pe(values: Mapping[str, Any]) -> PEConfig:
    """The encodings from nested values, as ``dataclasses.asdict`` gives them."""
    pe = PEConfig()
    for item in fields(PEConfig):
        part, value = getattr(pe, item.name), values[item.name]
        setattr(pe, item.name, type(part)(**value) if isinstance(value, Mapping) else value)
    return pe


@dataclass
class ModelConfig:
    """The net."""

    name: str = "graph_transformer"  # graph_transformer | gps | gine | gcn
    dim: int = 64  # width
    num_layers: int = 6
    num_heads: int = 4  # of the attention
    pair_dim: int = 32  # width of what is known of two nodes, before it becomes a bias for each head
    pair_values: bool = False  # attention also collects what is known of the pairs, not only their values
    norm: str = "layer"  # layer | batch (batches hold graphs of like sizes: it sees other figures in use)
    pool: str = "auto"  # sum | mean | max; auto: sum for regression, mean for classification
    dropout: float = 0.0  # on each branch
    attn_dropout: float = 0.0  # on the attention's weights

    def validate(self) -> None:
        check_choice("model.name", self.name, MODELS)
        check(self.dim >= 4, "model.dim", self.dim, "4 or more")
        check(self.num_layers >= 1, "model.num_layers", self.num_layers, "1 or more")
        check(self.num_heads >= 1, "model.num_heads", self.num_heads, "1 or more")
        fits = self.name not in ("graph_transformer", "gps") or self.dim % self.num_heads == 0
        check(fits, "model.dim", self.dim, f"a multiple of model.num_heads={self.num_heads}")
        check(self.pair_dim >= 1, "model.pair_dim", self.pair_dim, "1 or more")
        check_choice("model.norm", self.norm, ("layer", "batch"))
        check_choice("model.pool", self.pool, ("auto", "sum", "mean", "max"))
        for name in ("dropout", "attn_dropout"):
            check(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), f"0 <= {name} < 1")


@dataclass
class LossConfig:
    """The objective. Targets of a regression have mean 0 and deviation 1 while training."""

    regression: str = "mae"  # mae | mse | huber
    balance: bool = False  # classes count the same, however many there are of each
    label_smoothing: float = 0.0  # of classifications

    def validate(self) -> None:
        check_choice("loss.regression", self.regression, ("mae", "mse", "huber"))
        ok = 0 <= self.label_smoothing < 1
        check(ok, "loss.label_smoothing", self.label_smoothing, "0 <= label_smoothing < 1")


@dataclass
class GraphOptimizerConfig(MatrixOptimizerConfig):
    """How the weights move."""

    lr: float = 1e-3
    muon_lr: float = 5e-3
    weight_decay: float = 1e-5


@dataclass
class GraphConfig(RunConfig):
    """A run on graphs."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pe: PEConfig = field(default_factory=PEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: GraphOptimizerConfig = field(default_factory=GraphOptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(epochs=50, batch_size=32, save_seconds=60.0)
    )


CONFIG = GraphConfig

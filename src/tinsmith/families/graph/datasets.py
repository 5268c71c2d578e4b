"""Data sets by name. Each says itself what it is for: task, metric and its direction, sizes, splits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import DataError, missing_extra
from tinsmith.families.graph import files, generated, molecules, pyg
from tinsmith.families.graph.config import DatasetConfig
from tinsmith.families.graph.graphs import Array, Graphs, build, simple, sizes_of
from tinsmith.families.graph.sets import SPLITS, GraphSets
from tinsmith.families.graph.store import cache_folder, cached
from tinsmith.text.digests import file_digest, value_digest

log = logging.getLogger(__name__)

CSV = {"esol": "delaney.csv", "freesolv": "freesolv.csv", "lipo": "lipo.csv"}
USUAL = {"pattern": 2000, "cluster": 2000, "counting": 1500}  # graphs for training where no count is given
# Cora: labelled nodes of each class, and nodes for validation and test (arXiv:1609.02907, section 5.1).
_LABELLED, _VALID_NODES, _TEST_NODES = 20, 500, 1000
_VALID_LINKS, _TEST_LINKS = 0.05, 0.10


def get_dataset(name: str = "zinc", root: str | Path = "data/", seed: int = 0, **options: Any) -> GraphSets:
    """A data set by name.

    Args:
        name: csl, pattern, cluster, counting (generated); esol, freesolv, lipo, csv, zinc, zinc12k_r, cora,
            cora_links, tu, pyg (read from ``root``: a file, or the folder that holds it).
        seed: of what is generated, and of splits.
        options: of ``DatasetConfig``: ``count``, ``fold``, ``split``, ``smiles``, ``target``, ...

    Raises:
        ConfigError: an unknown name or option's value.
        DataError: the files are not there, or not what they should be.
        MissingExtraError: molecules without rdkit, or a data set of PyTorch Geometric without it.
    """
    cfg = DatasetConfig(name=name, path=str(options.pop("path", root)), **options)
    cfg.validate()
    return load(cfg, seed)


def load(cfg: DatasetConfig, seed: int = 0) -> GraphSets:
    """The data set of a config. Raises as ``get_dataset``."""
    made: Callable[[DatasetConfig, int], GraphSets] = _LOADERS[cfg.name]
    sets = made(cfg, cfg.split_seed or seed)
    for name, graphs in sets.splits.items():
        if not len(graphs):
            raise DataError(f"dataset={cfg.name}: the {name} split is empty: more graphs are needed")
    return sets


# ---- generated --------------------------------------------------------------------------------------


def _csl(cfg: DatasetConfig, seed: int) -> GraphSets:
    names = tuple(f"skip{skip}" for skip in generated.SKIPS)
    return _classes(generated.csl(seed, cfg.fold), names)


def _pattern(cfg: DatasetConfig, seed: int) -> GraphSets:
    splits = generated.pattern(cfg.count or USUAL["pattern"], seed)
    return GraphSets(
        splits, "node_classification", 2, "accuracy_balanced", "max", (3,), (), ("rest", "pattern")
    )


def _cluster(cfg: DatasetConfig, seed: int) -> GraphSets:
    splits = generated.cluster(cfg.count or USUAL["cluster"], seed)
    names = tuple(f"community{i}" for i in range(6))
    return GraphSets(splits, "node_classification", 6, "accuracy_balanced", "max", (7,), (), names)


def _counting(cfg: DatasetConfig, seed: int) -> GraphSets:
    splits = generated.counting(cfg.count or USUAL["counting"], seed)
    return GraphSets(splits, "regression", 6, "nmae", "min", (), (), generated.COUNTED)


def _classes(splits: dict[str, Graphs], names: tuple[str, ...]) -> GraphSets:
    atoms, bonds = _sizes(splits)
    return GraphSets(splits, "classification", len(names), "accuracy", "max", atoms, bonds, names)


def _sizes(splits: dict[str, Graphs]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    columns = [(sizes_of(g.atoms), sizes_of(g.bonds)) for g in splits.values()]
    atoms, bonds = zip(*columns, strict=True)
    return tuple(map(max, zip(*atoms, strict=True))), tuple(map(max, zip(*bonds, strict=True)))


# ---- molecules --------------------------------------------------------------------------------------


def _csv(cfg: DatasetConfig, seed: int) -> GraphSets:
    path = files.find(cfg.path, (CSV.get(cfg.name, "molecules.csv"),))
    table = files.read_table(path, cfg.smiles, cfg.target)
    key = {"file": file_digest(path), "smiles": cfg.smiles, "scheme": "smiles"}
    graphs = _molecules(cfg, key, table.smiles, table.places)
    regression = cfg.name != "csv" or cfg.task == "regression"
    if regression:
        y: Array = table.y.astype(np.float32)
        names, outputs = table.targets, len(table.targets)
    else:
        y, names = _labels(table, path)
        outputs = len(names)
    graphs = replace(graphs, y=y)
    parts = _divide(cfg, seed, table.smiles)
    atoms, bonds = molecules.SIZES["smiles"]
    return GraphSets(
        {name: graphs.take(rows) for name, rows in parts.items()},
        "regression" if regression else "classification",
        outputs,
        "rmse" if regression else "accuracy",
        "min" if regression else "max",
        atoms,
        bonds,
        names,
        "smiles",
        {name: [table.smiles[i] for i in rows] for name, rows in parts.items()},
    )


def _labels(table: files.Table, path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if table.y.shape[1] != 1 or (table.y != table.y.round()).any():
        raise DataError(
            f"{path}: dataset.task=classification takes one column of whole numbers, dataset.target"
        )
    values, y = np.unique(table.y[:, 0], return_inverse=True)
    return y.astype(np.int64), tuple(f"{value:g}" for value in values)


def _molecules(cfg: DatasetConfig, key: dict[str, Any], smiles: list[str], places: list[str]) -> Graphs:
    """Their graphs without targets, parsed once."""

    def parse() -> dict[str, Array]:
        graphs = molecules.from_smiles(smiles, np.zeros(len(smiles), np.float32), key["scheme"], places)
        return {name: getattr(graphs, name) for name in _FIELDS}

    key = {**key, "format": molecules.FORMAT, "rdkit": molecules.rdkit_version()}
    arrays = cached(cache_folder(cfg.cache) / "molecules", key, parse)
    return Graphs(**{name: np.array(arrays[name]) for name in _FIELDS})


_FIELDS = ("num_nodes", "num_edges", "ends", "atoms", "bonds", "x", "y")


def _divide(cfg: DatasetConfig, seed: int, smiles: list[str]) -> dict[str, NDArray[np.int64]]:
    """The rows of each split, at random or by scaffold (the largest scaffolds to the training split)."""
    count = len(smiles)
    if cfg.split == "random":
        order = np.random.default_rng([seed, 6]).permutation(count)
    else:
        groups: dict[str, list[int]] = {}
        for i, scaffold in enumerate(molecules.scaffolds(smiles)):
            groups.setdefault(scaffold, []).append(i)
        order = np.array([i for rows in sorted(groups.values(), key=lambda r: (-len(r), r[0])) for i in rows])
    valid, test = (max(1, round(share * count)) for share in (cfg.valid_share, cfg.test_share))
    train = count - valid - test
    return {"train": order[:train], "valid": order[train : train + valid], "test": order[train + valid :]}


def _zinc_rebuilt(cfg: DatasetConfig, seed: int) -> GraphSets:
    """ZINC-12k from text: the benchmark's validation and test molecules, a stand-in for its training ones."""
    root = Path(cfg.path).expanduser()
    root = root / "zinc" if (root / "zinc").is_dir() else root
    smiles = files.read_zinc_pool(root)
    splits = {}
    for split, rows in smiles.items():
        places = [f"{split} molecule {i}" for i in range(len(rows))]
        digest = {"file": value_digest(rows), "smiles": split, "scheme": "zinc"}
        graphs = _molecules(cfg, digest, rows, places)
        key = {**digest, "target": "zinc", "format": molecules.FORMAT, "rdkit": molecules.rdkit_version()}

        def targets(rows: list[str] = rows) -> dict[str, Array]:
            return {"y": molecules.zinc_targets(rows)}

        y = cached(cache_folder(cfg.cache) / "molecules", key, targets)["y"]
        splits[split] = replace(graphs, y=np.array(y)[:, None])
    return _zinc_sets(splits, "zinc", smiles)


def _zinc_sets(splits: dict[str, Graphs], source: str, smiles: dict[str, list[str]]) -> GraphSets:
    atoms, bonds = molecules.SIZES["zinc"] if source == "zinc" else _sizes(splits)
    return GraphSets(
        splits, "regression", 1, "mae", "min", atoms, bonds, ("constrained_solubility",), source, smiles
    )


def _zinc_official(cfg: DatasetConfig, seed: int) -> GraphSets:
    """The official split, from the files of PyTorch Geometric's ``ZINC(root, subset=True)``."""
    try:
        from torch_geometric.datasets import ZINC
    except ImportError:
        raise missing_extra(
            "the official files of ZINC (dataset=zinc12k_r reads texts instead)", "graph"
        ) from None
    splits = {}
    for split, theirs in zip(SPLITS, ("train", "val", "test"), strict=True):
        try:
            splits[split] = pyg.from_data(ZINC(cfg.path, subset=True, split=theirs))
        except Exception as error:  # downloads and missing files fail in too many kinds to name
            raise DataError(
                f"{cfg.path}: no ZINC of PyTorch Geometric: {' '.join(str(error).split())}"
            ) from None
    return _zinc_sets(splits, "graph", {})


# ---- other files ------------------------------------------------------------------------------------


def _tu(cfg: DatasetConfig, seed: int) -> GraphSets:
    """Ten folds; the chosen one is the test split, the next one the validation split."""
    graphs = files.read_tu(files.find(cfg.path, ("MUTAG.txt",)))
    fold = files.folds(graphs.y, 10, seed)
    parts = {"test": fold == cfg.fold, "valid": fold == (cfg.fold + 1) % 10}
    parts["train"] = ~(parts["test"] | parts["valid"])
    splits = {name: graphs.take(np.flatnonzero(parts[name])) for name in SPLITS}
    return _classes(splits, tuple(f"class{i}" for i in range(int(graphs.y.max()) + 1)))


def _cora(cfg: DatasetConfig, seed: int) -> GraphSets:
    """Classes of the nodes of one graph: 20 of each class to learn from, 500 and 1,000 others to judge."""
    graph = files.read_npz(files.find(cfg.path, ("cora.npz",)))
    rng = np.random.default_rng([seed, 7])
    order = rng.permutation(len(graph.y))
    labelled = np.concatenate([order[graph.y[order] == c][:_LABELLED] for c in np.unique(graph.y)])
    rest = order[~np.isin(order, labelled)]
    rows = {"train": labelled, "valid": rest[:_VALID_NODES], "test": rest[_VALID_NODES:][:_TEST_NODES]}
    return _of_nodes(graph, rows)


def _of_nodes(graph: Graphs, rows: dict[str, Array]) -> GraphSets:
    splits = {}
    for name, chosen in rows.items():
        y = np.full_like(graph.y, -1)
        y[chosen] = graph.y[chosen]
        splits[name] = replace(graph, y=y)
    count = int(graph.y.max()) + 1
    names = tuple(f"class{i}" for i in range(count))
    return GraphSets(
        splits, "node_classification", count, "accuracy", "max", sizes_of(graph.atoms), (), names
    )


def _cora_links(cfg: DatasetConfig, seed: int) -> GraphSets:
    """Which papers cite each other? 85% of the links to learn from, 5% and 10% to find again."""
    graph = files.read_npz(files.find(cfg.path, ("cora.npz",)))
    rng = np.random.default_rng([seed, 8])
    links = graph.ends.T[graph.ends[0] < graph.ends[1]].astype(np.int64)
    links = links[rng.permutation(len(links))]
    others = unlinked(rng, int(graph.num_nodes[0]), links, len(links))
    valid, test = round(_VALID_LINKS * len(links)), round(_TEST_LINKS * len(links))
    parts = {"valid": slice(0, valid), "test": slice(valid, valid + test), "train": slice(valid + test, None)}
    count = int(graph.num_nodes[0])
    seen = build([simple(count, links[parts["train"]])], [count], graph.y, x=graph.x)
    found = {name: (links[rows], others[rows]) for name, rows in parts.items()}
    return GraphSets(
        dict.fromkeys(SPLITS, seen),
        "edge_prediction",
        1,
        "roc_auc",
        "max",
        target_names=("link",),
        links=found,
    )


def unlinked(rng: np.random.Generator, num_nodes: int, links: Array, count: int) -> NDArray[np.int64]:
    """Pairs of different nodes that are not linked, each once: [count, 2]."""
    taken = np.unique(links.min(1) * num_nodes + links.max(1))
    if count > num_nodes * (num_nodes - 1) // 2 - len(taken):
        raise DataError(f"a graph of {num_nodes} nodes has no {count} pairs without a link")
    found = np.zeros(0, np.int64)
    while len(found) < count:
        pairs = rng.integers(0, num_nodes, (2 * count + 64, 2))
        key = pairs.min(1) * num_nodes + pairs.max(1)
        key = key[(pairs[:, 0] != pairs[:, 1]) & ~np.isin(key, taken)]
        both = np.concatenate([found, key])
        found = both[np.sort(np.unique(both, return_index=True)[1])]
    return np.stack(np.divmod(found[:count], num_nodes), 1)


def _pyg(cfg: DatasetConfig, seed: int) -> GraphSets:
    data = pyg.load_named(cfg.subset, Path(cfg.path).expanduser())
    graphs = pyg.from_data(data)
    if len(graphs) == 1 and hasattr(data[0], "train_mask"):
        masks = {"train": data[0].train_mask, "valid": data[0].val_mask, "test": data[0].test_mask}
        return _of_nodes(graphs, {name: np.flatnonzero(mask.numpy()) for name, mask in masks.items()})
    parts = _divide(replace(cfg, split="random"), seed, [""] * len(graphs))
    splits = {name: graphs.take(rows) for name, rows in parts.items()}
    if graphs.y.dtype.kind == "f":
        atoms, bonds = _sizes(splits)
        names = tuple(f"target{i}" for i in range(graphs.y.shape[1]))
        return GraphSets(splits, "regression", len(names), "mae", "min", atoms, bonds, names)
    sets = _classes(splits, tuple(f"class{i}" for i in range(int(graphs.y.max()) + 1)))
    return replace(sets, task="node_classification") if graphs.node_level else sets


_LOADERS: dict[str, Callable[[DatasetConfig, int], GraphSets]] = {
    "csl": _csl,
    "pattern": _pattern,
    "cluster": _cluster,
    "counting": _counting,
    "esol": _csv,
    "freesolv": _csv,
    "lipo": _csv,
    "csv": _csv,
    "zinc": _zinc_official,
    "zinc12k_r": _zinc_rebuilt,
    "cora": _cora,
    "cora_links": _cora_links,
    "tu": _tu,
    "pyg": _pyg,
}

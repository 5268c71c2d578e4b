"""Graphs from files: csv of SMILES, ZINC's texts, the TU text format, Cora's arrays.

Shapes: G graphs, N nodes, T targets.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import DataError, did_you_mean
from tinsmith.families.graph.graphs import Array, Graphs, build, simple
from tinsmith.text.formats import read_items
from tinsmith.text.plain import read_lines, read_text


def find(path: str | Path, names: Sequence[str]) -> Path:
    """``path`` if it is a file, else the first of ``names`` (also with ``.gz``) in that folder.

    Raises:
        DataError: neither is there; says what was looked for.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return root
    for name in names:
        for candidate in (root / name, root / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    beside = [p.name for p in root.iterdir()] if root.is_dir() else []
    hint = did_you_mean(names[0], beside)
    raise DataError(
        f"{root}: {'no such file' if not root.is_dir() else 'no ' + ' or '.join(names) + ' in it'}.{hint}"
        " Set dataset.path to the file or its folder."
    )


# ---- csv of molecules -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """Molecules and their targets [G, T]; ``places`` says where each stands (``file:line``)."""

    smiles: list[str]
    y: NDArray[np.float64]
    targets: tuple[str, ...]
    places: list[str]


def read_table(path: Path, smiles: str = "smiles", targets: Sequence[str] = ()) -> Table:
    """The molecules of a csv, tsv or jsonl file.

    Args:
        smiles: the column of the molecule. targets: columns of numbers; all others if there are none given.

    Raises:
        DataError: a column is missing, a target is not a number; names file and line.
    """
    molecules, rows, places = [], [], []
    names = tuple(targets)
    for number, row in read_items(path):
        if isinstance(row, DataError):
            raise row
        place = f"{path}:{number}"
        if smiles not in row:
            raise DataError(f"{place}: no column '{smiles}'.{did_you_mean(smiles, row)} Set dataset.smiles.")
        names = names or tuple(name for name in row if name != smiles)
        if not names:
            raise DataError(f"{place}: no column but '{smiles}': there is nothing to predict")
        molecules.append(str(row[smiles]).strip())
        rows.append([_number(row, name, place) for name in names])
        places.append(place)
    if not rows:
        raise DataError(f"{path}: no molecules in it")
    return Table(molecules, np.array(rows), names, places)


def _number(row: dict[str, Any], name: str, place: str) -> float:
    if name not in row:
        raise DataError(f"{place}: no column '{name}'.{did_you_mean(name, row)} Set dataset.target.")
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: the target '{name}' is {row[name]!r:.40}, not a number")
    return value


# ---- ZINC -------------------------------------------------------------------------------------------


def read_zinc_pool(root: Path, limit: int = 10_000) -> dict[str, list[str]]:
    """The SMILES of ``zinc12k_r``: validation and test by the benchmark's index files, and training.

    The molecules of ``valid.txt`` and ``test.txt`` (the pools of icml18-jtnn) that ``val.index`` and
    ``test.index`` (of benchmarking-gnns) name are the benchmark's own. Those of its training split are not to
    be had from text: the first 10,000 of the training pool stand in for them.
    """
    pools = {
        split: [line.strip() for line in read_lines(find(root, names)) if line.strip()]
        for split, names in (
            ("train", ("train_prefix10k.txt", "train.txt")),
            ("valid", ("valid.txt",)),
            ("test", ("test.txt",)),
        )
    }
    out = {"train": pools["train"][:limit]}
    for split, name in (("valid", "val.index"), ("test", "test.index")):
        index = _index_file(find(root, (name,)), len(pools[split]))
        out[split] = [pools[split][i] for i in index]
    return out


def _index_file(path: Path, size: int) -> list[int]:
    text = read_text(path).replace(",", " ")
    try:
        index = [int(word) for word in text.split()]
    except ValueError as error:
        raise DataError(f"{path}: not a list of line numbers: {error}") from None
    if not index or min(index) < 0 or max(index) >= size:
        raise DataError(f"{path}: names lines beyond the {size} molecules of its pool")
    return index


# ---- the TU text format -----------------------------------------------------------------------------


def read_tu(path: Path) -> Graphs:
    """Graphs in the text format of powerful-gnns: classes of graphs, tags of nodes.

    First line: the number of graphs. A graph: ``n label``, then a line for each node: ``tag degree neighbour
    neighbour ...``. Tags and labels become numbers from 0 in the order of their values.

    Raises:
        DataError: a line is not of that form; names it.
    """
    lines = read_lines(path)
    at, edges, counts, tags, labels = 1, [], [], [], []
    (total,) = _whole(path, lines, 0, 1)[:1]
    for _ in range(total):
        n, label = _whole(path, lines, at, 2)[:2]
        if n < 1:
            raise DataError(f"{path}:{at + 1}: a graph of {n} nodes")
        pairs = []
        for node in range(n):
            tag, degree, *neighbours = _whole(path, lines, at + 1 + node, 2)
            tags.append(tag)
            pairs += [(node, other) for other in neighbours[:degree]]
        try:
            edges.append(simple(n, np.array(pairs, np.int64).reshape(-1, 2)))
        except DataError as error:
            raise DataError(f"{path}:{at + 1}: {error}") from None
        counts.append(n)
        labels.append(label)
        at += n + 1
    y = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    atoms = np.unique(tags, return_inverse=True)[1].astype(np.int16)
    return build(edges, counts, y, atoms[:, None])


def _whole(path: Path, lines: list[str], at: int, least: int) -> list[int]:
    """The whole numbers of a line."""
    if at >= len(lines):
        raise DataError(f"{path}: ends after line {len(lines)}, in the middle of a graph")
    number, text = at + 1, lines[at]
    try:
        values = [int(float(word)) for word in text.split()]
    except ValueError:
        raise DataError(f"{path}:{number}: '{text[:40]}' is not a row of whole numbers") from None
    if len(values) < least:
        raise DataError(f"{path}:{number}: {len(values)} numbers, at least {least} are needed")
    return values


def folds(labels: Array, count: int, seed: int) -> NDArray[np.int64]:
    """The fold 0 .. count - 1 of each graph, every class spread evenly over them: [G]."""
    rng = np.random.default_rng([seed, 5])
    fold = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        fold[members] = (np.arange(len(members)) + rng.integers(count)) % count
    return fold


# ---- Cora -------------------------------------------------------------------------------------------


def read_npz(path: Path) -> Graphs:
    """One graph in the npz format of gnn-benchmark (arXiv:1811.05868): CSR ``adj_*``, ``attr_*``, labels.

    No pickle is read. Words of a node become ``x``, each row scaled to sum to one.

    Raises:
        DataError: it is none.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            known = {name: arrays[name] for name in arrays.files if arrays[name].dtype.kind in "iufb"}
            edges, x = _csr(known, "adj"), _csr(known, "attr")
            labels = known["labels"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a graph in the npz format of gnn-benchmark: {error}") from None
    count = len(labels)
    if x[2][0] != count:
        raise DataError(f"{path}: {x[2][0]} rows of attributes for {count} labels")
    words = np.zeros(x[2], np.float32)
    words[x[0], x[1]] = 1
    words /= words.sum(1, keepdims=True).clip(min=1)
    ends, bonds = simple(count, np.stack(edges[:2], 1))
    return build([(ends, bonds)], [count], labels, x=words)


def _csr(arrays: dict[str, Array], name: str) -> tuple[Array, Array, tuple[int, int]]:
    """Row and column of each entry, and the shape."""
    pointers, columns = arrays[f"{name}_indptr"], arrays[f"{name}_indices"]
    rows, width = (int(n) for n in arrays[f"{name}_shape"])
    if len(pointers) != rows + 1 or int(pointers[-1]) != len(columns) or (np.diff(pointers) < 0).any():
        raise ValueError(f"its {name} matrix is malformed")
    if len(columns) and not 0 <= columns.min() <= columns.max() < width:
        raise ValueError(f"its {name} matrix names columns beyond its {width}")
    return np.repeat(np.arange(rows), np.diff(pointers)), columns.astype(np.int64), (rows, width)

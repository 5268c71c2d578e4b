"""Molecules: SMILES to graphs, fingerprints, scaffolds, and the target of ZINC. All by rdkit, an extra.

Two schemes of features:

* ``smiles``: element, neighbours, charge, hydrogens, hybridisation, aromatic, in a ring, and each atom's
  share of four properties of the molecule (``shares``); bonds by type (single, double, triple, aromatic),
  conjugated, in a ring
* ``zinc``: as in the ZINC benchmark (arXiv:2003.00982): one type per atom (element, hydrogens of charged and
  of chiral atoms, charge), one per bond of the Kekulé form (single, double, triple)
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import DataError, missing_extra
from tinsmith.families.graph.graphs import Array, Graphs, build, simple

FORMAT = 2  # of the features: part of a cache's key
ELEMENTS = ("C", "N", "O", "S", "F", "Cl", "Br", "I", "P", "B", "Si", "Se", "H", "Na", "K")
HYBRIDS = ("S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
ZINC_ATOMS = [
    "C",
    "O",
    "N",
    "F",
    "C,H1",
    "S",
    "Cl",
    "O,-",
    "N,H1,+",
    "Br",
    "N,H3,+",
    "N,H2,+",
    "N,+",
    "N,-",
    "S,-",
    "I",
    "P",
    "O,H1,+",
    "N,H1,-",
    "O,+",
    "S,+",
    "P,H1",
    "P,H2",
    "C,H2,-",
    "P,+",
    "S,H1",
    "C,H1,-",
    "P,H1,+",
]
SIZES = {
    "smiles": ((len(ELEMENTS) + 1, 8, 7, 6, len(HYBRIDS) + 1, 2, 2), (len(BONDS) + 1, 2, 2)),
    "zinc": ((len(ZINC_ATOMS) + 1,), (3,)),
}
# Means and deviations over the benchmark's molecules: log P, -synthetic accessibility, -cycle.
_ZINC_FIGURES = ((2.45710, 1.43432), (-3.05258, 0.83352), (-0.048570, 0.286021))


def rdkit_version() -> str:
    """The version that makes the features.

    Raises:
        MissingExtraError: rdkit is not installed.
    """
    return str(_rdkit().rdBase.rdkitVersion)


def _rdkit() -> Any:
    try:
        import rdkit
        from rdkit import Chem, rdBase
    except ImportError:
        raise missing_extra("reading molecules (SMILES)", "graph") from None
    del Chem, rdBase
    return rdkit


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without rdkit's own lines on stderr: we name the row ourselves."""
    rdkit = _rdkit()
    block = rdkit.rdBase.BlockLogs()
    try:
        yield
    finally:
        del block


def parse(smiles: str, where: str) -> Any:
    """rdkit's molecule.

    Raises:
        DataError: it is none, or has no atom; begins with ``where``.
    """
    from_smiles = _rdkit().Chem.MolFromSmiles
    with _silent():
        molecule = from_smiles(smiles)
    if molecule is None:
        raise DataError(f"{where}: '{smiles[:80]}' is not a SMILES that rdkit can parse")
    if molecule.GetNumAtoms() == 0:
        raise DataError(f"{where}: a molecule without atoms")
    return molecule


def from_smiles(
    smiles: Sequence[str], y: Array, scheme: str = "smiles", places: Sequence[str] | None = None
) -> Graphs:
    """Graphs of molecules, hydrogens implied.

    Args:
        smiles: G molecules. y: targets, as ``Graphs`` has them. scheme: ``smiles`` or ``zinc``.
        places: what to call each of them in an error, ``input 3`` if None.

    Raises:
        DataError: one cannot be parsed; names its place.
        MissingExtraError: rdkit is not installed.
    """
    _rdkit()
    edges, counts, atoms, x = [], [], [], []
    read = _zinc_features if scheme == "zinc" else _features
    for i, text in enumerate(smiles):
        molecule = parse(text, places[i] if places is not None else f"input {i}")
        nodes, pairs, bonds = read(molecule)
        edges.append(
            simple(len(nodes), np.array(pairs, np.int64).reshape(-1, 2), _rows(bonds, SIZES[scheme][1]))
        )
        counts.append(len(nodes))
        atoms.append(_rows(nodes, SIZES[scheme][0]))
        x.append(shares(molecule) if scheme == "smiles" else np.zeros((len(nodes), 0), np.float32))
    return build(edges, counts, y, np.concatenate(atoms), np.concatenate(x))


def shares(molecule: Any) -> NDArray[np.float32]:
    """What each atom and its hydrogens add to the molecule's log P, refractivity, polar and whole surface.

    (Wildman and Crippen 1999, 10.1021/ci990307l; Ertl 2000, 10.1021/jm000942e; Labute 2000.) Knowledge of
    many more measurements than a small data set has. All but the first in tens.

    Returns:
        [n, 4].
    """
    from rdkit.Chem import rdMolDescriptors as descriptors

    whole = _rdkit().Chem.AddHs(molecule)
    found = np.zeros((molecule.GetNumAtoms(), 4), np.float32)
    for atom, (log_p, refractivity) in zip(
        whole.GetAtoms(), descriptors._CalcCrippenContribs(whole), strict=True
    ):
        # The hydrogens come last, each with its one neighbour.
        row = atom.GetIdx() if atom.GetIdx() < len(found) else atom.GetNeighbors()[0].GetIdx()
        found[row, :2] += log_p, refractivity / 10
    found[:, 2] = np.array(descriptors._CalcTPSAContribs(molecule), np.float32) / 10
    found[:, 3] = np.array(descriptors._CalcLabuteASAContribs(molecule)[0], np.float32) / 10
    return found


def _rows(rows: list[tuple[int, ...]], sizes: tuple[int, ...]) -> NDArray[np.int16]:
    """Categories, what is beyond a column's last as its last."""
    return np.minimum(np.array(rows, np.int16).reshape(-1, len(sizes)), np.array(sizes, np.int16) - 1)


Kinds = list[tuple[int, ...]]
Features = tuple[Kinds, list[tuple[int, int]], Kinds]


def _index(names: Sequence[str], name: str) -> int:
    """The place of a name; one beyond the last for any other."""
    return names.index(name) if name in names else len(names)


def _features(molecule: Any) -> Features:
    atoms: Kinds = [
        (
            _index(ELEMENTS, a.GetSymbol()),
            a.GetDegree(),
            max(0, a.GetFormalCharge() + 3),
            a.GetTotalNumHs(),
            _index(HYBRIDS, str(a.GetHybridization())),
            int(a.GetIsAromatic()),
            int(a.IsInRing()),
        )
        for a in molecule.GetAtoms()
    ]
    bonds: Kinds = [
        (_index(BONDS, str(b.GetBondType())), int(b.GetIsConjugated()), int(b.IsInRing()))
        for b in molecule.GetBonds()
    ]
    return atoms, [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()], bonds


def _zinc_features(molecule: Any) -> Features:
    chem = _rdkit().Chem
    chiral = [str(a.GetChiralTag()) != "CHI_UNSPECIFIED" for a in molecule.GetAtoms()]
    kekule = chem.Mol(molecule)
    chem.Kekulize(kekule, clearAromaticFlags=True)
    atoms: Kinds = [
        (_index(ZINC_ATOMS, _zinc_type(a, special)),)
        for a, special in zip(kekule.GetAtoms(), chiral, strict=True)
    ]
    kinds: Kinds = [(min(2, max(0, round(b.GetBondTypeAsDouble()) - 1)),) for b in kekule.GetBonds()]
    return atoms, [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in kekule.GetBonds()], kinds


def _zinc_type(atom: Any, chiral: bool) -> str:
    """What a SMILES writes of the atom: hydrogens stand only in brackets, where a charge or chirality is."""
    charge = atom.GetFormalCharge()
    hydrogens = atom.GetTotalNumHs() if charge or chiral or atom.GetSymbol() == "P" else 0
    parts = [
        atom.GetSymbol(),
        f"H{hydrogens}" if hydrogens else "",
        "+" if charge > 0 else "-" if charge else "",
    ]
    return ",".join(part for part in parts if part)


def fingerprints(smiles: Sequence[str], size: int = 2048, radius: int = 2) -> NDArray[np.float32]:
    """Morgan fingerprints with counts (ECFP, 10.1021/ci100050t), as ``log(1 + count)``: [G, size]."""
    _rdkit()
    from rdkit.Chem import rdFingerprintGenerator

    make = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)
    rows = [make.GetCountFingerprintAsNumPy(parse(text, f"molecule {i}")) for i, text in enumerate(smiles)]
    return np.log1p(np.array(rows, np.float32))


def scaffolds(smiles: Sequence[str]) -> list[str]:
    """The Murcko scaffold of each molecule (10.1021/jm9602928), as SMILES."""
    _rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold: Any = MurckoScaffold.MurckoScaffoldSmiles
    return [
        scaffold(mol=parse(text, f"molecule {i}"), includeChirality=False) for i, text in enumerate(smiles)
    ]


def zinc_targets(smiles: Sequence[str]) -> NDArray[np.float32]:
    """ZINC's constrained solubility: ``z(log P) + z(-SA) + z(-cycle)`` of each molecule: [G].

    (arXiv:2003.00982, after arXiv:1610.02415; SA: 10.1186/1758-2946-1-8.) ``cycle`` is by how much the
    longest ring of a cycle basis exceeds six atoms. Of the canonical SMILES, as the benchmark's were made.
    """
    chem = _rdkit().Chem
    from rdkit.Chem import Crippen, RDConfig

    folder = str(Path(RDConfig.RDContribDir) / "SA_Score")
    if folder not in sys.path:
        sys.path.append(folder)
    import sascorer

    log_p: Any = Crippen.MolLogP  # type: ignore[attr-defined]
    rows = []
    for i, text in enumerate(smiles):
        molecule = chem.MolFromSmiles(chem.MolToSmiles(parse(text, f"molecule {i}"), isomericSmiles=True))
        cycle = max(0, longest_ring(molecule) - 6)
        rows.append((log_p(molecule), -sascorer.calculateScore(molecule), -float(cycle)))
    values = np.array(rows)
    mean, deviation = np.array(_ZINC_FIGURES).T
    targets: NDArray[np.float32] = ((values - mean) / deviation).sum(1).astype(np.float32)
    return targets


def longest_ring(molecule: Any) -> int:
    """Atoms of the longest cycle of networkx's cycle basis, as the benchmark takes it; 0 without any."""
    try:
        import networkx
    except ImportError:
        raise missing_extra("ZINC's target", "graph") from None
    graph = networkx.Graph(_rdkit().Chem.rdmolops.GetAdjacencyMatrix(molecule))
    return max((len(ring) for ring in networkx.cycle_basis(graph)), default=0)

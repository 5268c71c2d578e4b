"""Pictures: a molecule with the attention of one atom, an encoding over a graph. Needs the extra ``plots``.

Shapes: n nodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import ConfigError, missing_extra
from tinsmith.families.graph import molecules
from tinsmith.families.graph.config import PEConfig
from tinsmith.families.graph.encode import encode
from tinsmith.families.graph.graphs import Graphs
from tinsmith.families.graph.predict import GraphPredictor

Points = NDArray[np.float64]


def draw_attention(
    predictor: GraphPredictor,
    graphs: Graphs,
    which: int = 0,
    node: int = 0,
    layer: int = -1,
    smiles: str = "",
) -> Any:
    """A graph whose nodes are coloured by how much ``node`` attends to them, mean over the heads.

    Args:
        graphs: as the model takes them; ``which`` is drawn. layer: of the model. smiles: of a molecule, for
            the chemist's layout and the letters of the atoms.

    Returns:
        A matplotlib figure.

    Raises:
        ConfigError: no such node.
        DataError: the model has no attention.
        MissingExtraError: matplotlib is not installed.
    """
    one = graphs.take([which])
    _check_node(node, int(one.num_nodes[0]))
    weights = predictor.attention(one)[layer].mean(0)[node].numpy()
    return _draw(one, weights, f"attention of node {node}", smiles, ring=node)


def draw_encoding(
    graphs: Graphs, which: int = 0, name: str = "heat", scale: int = 0, smiles: str = ""
) -> Any:
    """A graph whose nodes are coloured by one number of an encoding.

    Args:
        name: degree | rrwp | heat | wavelet | lap | hier. scale: which of its numbers.

    Returns:
        A matplotlib figure.

    Raises:
        ConfigError: no such encoding or scale.
    """
    one = graphs.take([which])
    pe = PEConfig()
    pe.degree.node = pe.rrwp.node = pe.rrwp.pair = pe.heat.node = pe.spd.pair = False
    if not hasattr(getattr(pe, name, None), "node"):
        raise ConfigError(f"'{name}' is no encoding of nodes: degree, rrwp, heat, wavelet, lap, hier")
    getattr(pe, name).node = True
    encoded = encode(one, pe, pairs=False)
    values = encoded.lap if name == "lap" else encoded.node
    if not -values.shape[1] <= scale < values.shape[1]:
        raise ConfigError(f"scale={scale}: {name} has {values.shape[1]} numbers")
    return _draw(one, np.asarray(values[:, scale]), f"{name} {scale}", smiles)


def save(figure: Any, path: Path) -> None:
    """Write a figure as the suffix of ``path`` says (png, svg, pdf)."""
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _check_node(node: int, count: int) -> None:
    if not 0 <= node < count:
        raise ConfigError(f"node={node}: the graph has nodes 0 to {count - 1}")


def _draw(one: Graphs, values: NDArray[Any], title: str, smiles: str, ring: int = -1) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("pictures", "plots") from None
    at = _molecule_layout(smiles) if smiles else layout(one)
    figure = Figure(figsize=(6, 5))
    axes = figure.add_subplot()
    for i, j in one.ends.T:
        if i < j:
            axes.plot(*at[[i, j]].T, color="0.6", linewidth=1.5, zorder=1)
    edge = ["black" if i == ring else "0.4" for i in range(len(at))]
    width = [2.5 if i == ring else 0.8 for i in range(len(at))]
    x, y = at.T
    dots = axes.scatter(x, y, c=values, s=260, cmap="viridis", edgecolors=edge, linewidths=width, zorder=2)
    for i, letter in enumerate(_letters(smiles)):
        axes.annotate(letter, at[i], ha="center", va="center", color="white", fontsize=9, zorder=3)
    figure.colorbar(dots, ax=axes)
    axes.set_title(title)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


def _molecule_layout(smiles: str) -> Points:
    from rdkit.Chem import rdDepictor

    molecule = molecules.parse(smiles, "the molecule")
    rdDepictor.Compute2DCoords(molecule)
    return np.array(molecule.GetConformer().GetPositions())[:, :2]


def _letters(smiles: str) -> list[str]:
    return [a.GetSymbol() for a in molecules.parse(smiles, "the molecule").GetAtoms()] if smiles else []


def layout(one: Graphs, steps: int = 200, seed: int = 0) -> Points:
    """Places of the nodes [n, 2]: springs along the edges, all push each other (10.1002/spe.4380211102)."""
    n = int(one.num_nodes[0])
    adjacency = np.zeros((n, n))
    adjacency[tuple(one.ends)] = 1
    at: Points = np.random.default_rng(seed).normal(size=(n, 2))
    length = 1 / np.sqrt(n)
    for step in range(steps):
        apart = at[:, None] - at
        distance = np.maximum(np.linalg.norm(apart, axis=-1), 1e-3)
        force = length**2 / distance - adjacency * distance**2 / length
        np.fill_diagonal(force, 0)
        move = (apart / distance[..., None] * force[..., None]).sum(1)
        size = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        at += move / size * np.minimum(size, 0.3 * (1 - step / steps))
    return at

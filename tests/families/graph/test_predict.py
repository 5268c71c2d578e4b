"""Use of a trained model: answers, bad inputs, damage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.damaged import refuses_damage
from families.tiny import build, rings

from tinsmith.errors import DataError
from tinsmith.families.graph import GraphPredictor
from tinsmith.families.graph.graphs import build as build_graphs
from tinsmith.families.graph.graphs import simple


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder."""
    root = tmp_path_factory.mktemp("graph")
    built = build("graph", root)
    built.trainer(root / "checkpoints", max_steps=6).fit(built.data.train)
    built.family.save_model(built.cfg, built.task, built.data, root / "model")
    return root / "model"


@pytest.fixture
def predictor(folder: Path) -> GraphPredictor:
    return GraphPredictor.load(folder)


def test_answers_name_the_class(predictor: GraphPredictor) -> None:
    answers = predictor(rings(3))
    for answer in answers:
        assert answer["label"] in answer["probabilities"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert predictor([]) == []


def test_the_order_of_nodes_and_edges_does_not_matter(predictor: GraphPredictor) -> None:
    ring = rings(2)[1]
    n = ring["num_nodes"]
    place = [(3 * i + 2) % n for i in range(n)]
    assert sorted(place) == list(range(n))
    atoms = [ring["atoms"][place.index(i)] for i in range(n)]
    edges = [[place[b], place[a]] for a, b in reversed(ring["edges"])]
    one, two = predictor([ring, {"num_nodes": n, "edges": edges, "atoms": atoms}])
    for name, value in one["probabilities"].items():
        assert two["probabilities"][name] == pytest.approx(value, abs=1e-5)


BAD: list[tuple[Any, str]] = [
    ({"num_nodes": 0, "edges": []}, "input 0: num_nodes is 0: a whole number of 1 or more"),
    ({"edges": []}, "input 0: num_nodes is None"),
    (
        {"num_nodes": 3, "edges": [[0, 3]], "atoms": [[0]] * 3},
        r"input 0: the edge \[0, 3\] is beyond the nodes",
    ),
    ({"num_nodes": 3, "edges": [[0, 1, 2]]}, r"input 0: edges is \[1, 3\], the model wants \[1, 2\]"),
    ({"num_nodes": 3, "edges": [[0, 0.5]]}, "input 0: edges: whole numbers are needed"),
    ({"num_nodes": 3, "edges": [[0, "a"]]}, "input 0: "),
    ({"num_nodes": 3, "edges": 5}, "input 0: "),
    ({"num_nodes": 2, "edges": []}, r"input 0: atoms is \[0, 1\], the model wants \[2, 1\]"),
    (
        {"num_nodes": 2, "edges": [], "atoms": [[1, 2], [0, 0]]},
        r"atoms is \[2, 2\], the model wants \[2, 1\]",
    ),
    ({"num_nodes": 2, "edges": [], "atoms": [[1], [3]]}, "a category is beyond the model's"),
    ({"num_nodes": 1, "edges": [], "atoms": [[1]], "x": [[1.0]]}, r"x is \[1, 1\], the model wants \[1, 0\]"),
    ({"num_nodes": 2, "edges": [], "nodes": 1}, "input 0: a graph has no 'nodes'"),
    ("CCO", "input 0: this model reads graphs as JSON, not molecules"),
    (7, "input 0: a SMILES or an object is needed"),
    (
        {"num_nodes": 600, "edges": [], "atoms": [[0]] * 600},
        "a graph of 600 nodes: the model's pairs go to 512",
    ),
]


@pytest.mark.parametrize(("item", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_inputs_are_named(predictor: GraphPredictor, item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predictor([item])


def test_attention_sums_to_one(predictor: GraphPredictor) -> None:
    ring = rings(5)[4]
    ends, bonds = simple(ring["num_nodes"], np.array(ring["edges"]))
    graphs = build_graphs(
        [(ends, bonds)], [ring["num_nodes"]], np.zeros(1, np.float32), np.array(ring["atoms"])
    )
    weights = predictor.attention(graphs)
    assert weights.shape == (2, 2, 10, 10)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 10), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    refuses_damage(GraphPredictor.load, folder, tmp_path / "model", name, "graph model")


def test_molecules() -> None:
    pytest.importorskip("rdkit")
    from tinsmith.families.graph import molecules

    graphs = molecules.from_smiles(["CCO", "c1ccccc1", "C[N+](C)(C)C"], torch.zeros(3).numpy())
    assert graphs.num_nodes.tolist() == [3, 6, 5]
    assert graphs.num_edges.tolist() == [4, 12, 8]
    assert graphs.x.shape == (14, 4)
    with pytest.raises(DataError, match="row 2: 'C1CC' is not a SMILES"):
        molecules.from_smiles(["C", "C1CC"], torch.zeros(2).numpy(), places=["row 1", "row 2"])


@pytest.mark.parametrize("smiles", ["CCO", "[H][H]", "[2H]C", "[Na+].[Cl-]", "CC(=O)Nc1ccc(O)cc1"])
def test_the_shares_of_the_atoms_add_up_to_the_molecule(smiles: str) -> None:
    pytest.importorskip("rdkit")
    from rdkit.Chem import Crippen, MolFromSmiles, rdMolDescriptors

    from tinsmith.families.graph import molecules

    molecule: Any = MolFromSmiles(smiles)
    crippen: Any = Crippen
    log_p, refractivity, polar, _ = molecules.shares(molecule).sum(0).tolist()
    assert log_p == pytest.approx(crippen.MolLogP(molecule), abs=1e-4)
    assert 10 * refractivity == pytest.approx(crippen.MolMR(molecule), abs=1e-4)
    assert 10 * polar == pytest.approx(rdMolDescriptors.CalcTPSA(molecule), abs=1e-4)

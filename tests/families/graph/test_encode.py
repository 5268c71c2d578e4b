"""The cache of encodings: what it depends on, and what damage does."""

from pathlib import Path

import numpy as np
import pytest
from families.graph.some_graphs import some

from tinsmith.families.graph import encode as module
from tinsmith.families.graph.config import PEConfig
from tinsmith.families.graph.encode import encode
from tinsmith.families.graph.graphs import Graphs


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.npy"))


def test_the_second_time_nothing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encode(some(), PEConfig(), cache=tmp_path)
    monkeypatch.setattr(module, "_compute", None)
    second = encode(some(), PEConfig(), cache=tmp_path)
    for name in ("node", "lap", "lap_values", "hops", "vectors", "values"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_other_graphs_or_other_encodings_are_computed_anew(tmp_path: Path) -> None:
    encode(some(), PEConfig(), cache=tmp_path)
    count = len(files(tmp_path))
    graphs = some()
    atoms = Graphs(
        graphs.num_nodes, graphs.num_edges, graphs.ends, graphs.atoms + 1, graphs.bonds, graphs.x, graphs.y
    )
    encode(atoms, PEConfig(), cache=tmp_path)  # encodings see the structure alone
    assert len(files(tmp_path)) == count
    encode(some(1), PEConfig(), cache=tmp_path)
    assert len(files(tmp_path)) == 2 * count
    other = PEConfig()
    other.rrwp.steps = 9
    encode(some(), other, cache=tmp_path)
    assert len(files(tmp_path)) == 3 * count


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_cache_is_computed_anew(tmp_path: Path, harm: str) -> None:
    first = np.array(encode(some(), PEConfig(), cache=tmp_path).node)
    (path,) = tmp_path.rglob("node.npy")
    data = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        data[-5] ^= 1
        path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    assert np.array_equal(encode(some(), PEConfig(), cache=tmp_path).node, first)
    assert path.read_bytes()[-5] != data[-5] or harm != "flip"

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from tinsmith.errors import ConfigError, DataError, MissingExtraError
from tinsmith.retrieval import MemoryVectorStore
from tinsmith.retrieval import store as module


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def test_search_equals_sorting_all_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 37)  # several pieces, the last one short
    store = MemoryVectorStore(16)
    rows, queries = vectors(300), vectors(20, 1)
    store.add(rows[:170])
    store.add(rows[170:])
    scores, ids = store.search(queries, 10)
    a, b = rows.double().numpy(), queries.double().numpy()
    cosines = b @ a.T / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)[:, None]
    order = np.argsort(-cosines, axis=1)[:, :10]
    assert (ids.numpy() == order).all()
    np.testing.assert_allclose(scores.numpy(), np.take_along_axis(cosines, order, 1), atol=1e-6)


@pytest.mark.parametrize(("spread", "again"), [(1.0, 0), (0.002, 64)])
def test_screening_in_bf16_finds_the_same(monkeypatch: pytest.MonkeyPatch, spread: float, again: int) -> None:
    """Far apart, the screening is enough; vectors closer than its error are compared again in fp32."""
    monkeypatch.setattr(module, "_ROWS", 700)
    monkeypatch.setattr(module, "computes_in_bf16", lambda device: True)
    store = MemoryVectorStore(16)
    centre = torch.zeros(16).index_fill_(0, torch.tensor([3]), 1.0 - spread)
    store.add(centre + spread * vectors(2000))
    queries = centre + spread * vectors(64, 1)
    looks: list[tuple[int, torch.dtype]] = []
    best = store._best

    def look(some: torch.Tensor, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        looks.append((len(some), dtype))
        return best(some, k, dtype)

    monkeypatch.setattr(store, "_best", look)
    scores, ids = store.search(queries, 5)
    assert looks == [(64, torch.bfloat16)] + ([(again, torch.float32)] if again else [])
    monkeypatch.setattr(module, "computes_in_bf16", lambda device: False)
    expected, same = store.search(queries, 5)
    assert torch.equal(ids, same)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)


def test_the_error_of_bf16_is_bounded() -> None:
    a, b = (torch.nn.functional.normalize(torch.rand(1000, 384), dim=1) for _ in range(2))
    worst = (a.bfloat16() @ b.bfloat16().T).double() - a.double() @ b.double().T
    assert 0.0005 < worst.abs().max() < module._BF16_ERROR


def test_few_vectors_leave_empty_places() -> None:
    store = MemoryVectorStore(16)
    scores, ids = store.search(vectors(2), 3)
    assert ids.tolist() == [[-1] * 3] * 2
    store.add(vectors(2))
    scores, ids = store.search(vectors(1)[0], 3)
    assert ids[0, 2] == -1
    assert scores[0, 2] == float("-inf")
    assert ids[0, 0] == 0


def test_add_and_delete() -> None:
    store = MemoryVectorStore(16)
    assert store.add(vectors(5)) == [0, 1, 2, 3, 4]
    assert store.add(vectors(2, 1), ids=[100, 50]) == [100, 50]
    assert store.add(vectors(1, 2)) == [101]
    assert store.delete([2, 50, 77]) == 2
    assert len(store) == 6
    assert 50 not in store
    _, ids = store.search(vectors(5), 1)
    assert ids[:, 0].tolist()[:2] == [0, 1]
    assert ids[2, 0] != 2
    assert store.search(vectors(2, 1)[:1], 1)[1].item() == 100
    with pytest.raises(DataError, match="all new and different"):
        store.add(vectors(1), ids=[100])
    with pytest.raises(DataError, match="of 16 numbers"):
        store.add(torch.ones(1, 3))
    with pytest.raises(DataError, match="of 16 numbers, the query has 3"):
        store.search(torch.ones(1, 3))
    with pytest.raises(DataError, match="vector 1 is zero or not finite"):
        store.add(torch.stack([torch.ones(16), torch.zeros(16)]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_save_and_load(tmp_path: Path, dtype: str) -> None:
    store = MemoryVectorStore(16, dtype=dtype)
    store.add(vectors(40))
    store.delete([3])
    store.save(tmp_path)
    again = MemoryVectorStore.load(tmp_path)
    one, two = store.search(vectors(5, 1), 4), again.search(vectors(5, 1), 4)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert again.add(vectors(1)) == [40]
    file = tmp_path / module.VECTORS
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=module.VECTORS):
        MemoryVectorStore.load(tmp_path)
    with pytest.raises(DataError, match="no vector store"):
        MemoryVectorStore.load(tmp_path / "elsewhere")


def test_options() -> None:
    with pytest.raises(ConfigError, match="no such choice"):
        MemoryVectorStore(4, index="faiss")
    if find_spec("usearch") is None:
        with pytest.raises(MissingExtraError, match="pip install usearch"):
            MemoryVectorStore(4, index="usearch")
    else:
        store, exact = MemoryVectorStore(16, index="usearch"), MemoryVectorStore(16)
        for each in (store, exact):
            each.add(vectors(500))
        same = store.search(vectors(50, 1), 5)[1] == exact.search(vectors(50, 1), 5)[1]
        assert same.float().mean() > 0.9

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families.tiny import build

from tinsmith.errors import DataError
from tinsmith.families.lm.config import DataConfig
from tinsmith.families.lm.data import PackedDataset, StreamDataset, best_fit, split_document
from tinsmith.families.lm.documents import load_documents, read_documents
from tinsmith.families.lm.model import IGNORED


def test_windows_hold_each_target_once() -> None:
    for n in (2, 9, 10, 11, 12, 21):
        ids = np.arange(100, 100 + n, dtype=np.int32)
        data = StreamDataset(ids, context=5)
        batch = data.batch(torch.arange(len(data)))
        kept = batch["targets"] != IGNORED
        assert batch["targets"][kept].tolist() == list(range(101, 100 + n))
        assert torch.equal(batch["tokens"][kept] + 1, batch["targets"][kept])
        assert batch["tokens"].shape == (len(data), 5)


def test_a_stride_makes_windows_overlap() -> None:
    data = StreamDataset(np.arange(20, dtype=np.int32), context=6, stride=2)
    batch = data.batch(torch.arange(len(data)))
    assert batch["tokens"][:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert (batch["targets"] != IGNORED).all()


def test_a_text_without_a_target_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        StreamDataset(np.array([1], np.int32), 4)
    with pytest.raises(DataError, match="nothing to predict"):
        PackedDataset([np.array([1], np.int32)], 4)


def test_pieces_of_a_document_lose_no_target() -> None:
    for n in range(2, 14):
        pieces = split_document(np.arange(n, dtype=np.int32), 5)
        assert all(2 <= len(piece) <= 5 for piece in pieces)
        assert [int(i) for piece in pieces for i in piece[1:]] == list(range(1, n))
        assert [int(i) for piece in pieces for i in piece[:-1]] == list(range(n - 1))
    assert split_document(np.arange(1, dtype=np.int32), 5) == []


def fewest(sizes: list[int], capacity: int) -> int:
    """No fewer bins will do (Martello and Toth 1990, L2): what is large shares one with small ones alone."""
    bounds = []
    for small in range(capacity // 2 + 1):
        alone = [size for size in sizes if size > capacity - small]
        large = [size for size in sizes if capacity // 2 < size <= capacity - small]
        rest = sum(size for size in sizes if small <= size <= capacity // 2)
        room = capacity * len(large) - sum(large)
        bounds.append(len(alone) + len(large) + max(0, -(-(rest - room) // capacity)))
    return max(bounds)


def test_best_fit_by_hand_and_in_general() -> None:
    assert best_fit([4, 3, 2, 1], 5) == [[0, 3], [1, 2]]
    sizes = np.random.default_rng(0).integers(1, 33, 500).tolist()
    bins = best_fit(sizes, 32)
    assert sorted(i for items in bins for i in items) == list(range(500))
    filled = [sum(sizes[i] for i in items) for items in bins]
    assert max(filled) <= 32
    assert len(bins) <= fewest(sizes, 32)


def test_packed_rows_hold_every_document() -> None:
    rng = np.random.default_rng(1)
    documents = [
        np.concatenate([[1], rng.integers(4, 9, n)]).astype(np.int32) for n in rng.integers(1, 20, 30)
    ]
    data = PackedDataset(documents, 8)
    batch = data.batch(torch.arange(len(data)))
    kept = batch["targets"] != IGNORED
    assert int(kept.sum()) == sum(len(ids) - 1 for ids in documents)
    assert torch.equal(kept, batch["segments"] > 0)
    assert torch.equal(
        torch.sort(batch["targets"][kept]).values,
        torch.sort(torch.tensor(np.concatenate([d[1:] for d in documents])).long()).values,
    )
    new = batch["segments"][:, 1:] != batch["segments"][:, :-1]
    assert not batch["positions"][:, 1:][new].any()
    assert (batch["positions"][:, 1:] - batch["positions"][:, :-1])[~new & kept[:, 1:]].eq(1).all()


def test_the_whole_validation_split_is_measured(tmp_path: Path) -> None:
    built = build("lm", tmp_path)
    ids = np.concatenate(built.data.artifacts["ids"]["valid"])
    targets = torch.cat([batch["targets"].flatten() for batch in built.data.valid])
    assert targets[targets != IGNORED].tolist() == ids[1:].tolist()


def test_a_single_text_is_split_at_its_end(tmp_path: Path) -> None:
    text = "".join(f"line {i}\r\n" for i in range(200))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    cfg = DataConfig(path=str(tmp_path / "a.txt.gz"), valid_share=0.2, test_share=0.1)
    parts = load_documents(cfg, 0)
    whole = text.replace("\r\n", "\n")
    assert parts.train[0] + parts.valid[0] + parts.test[0] == whole
    assert len(parts.valid[0]) == pytest.approx(0.2 * len(whole), abs=1)


def test_documents_of_records_stay_whole(tmp_path: Path) -> None:
    rows = [{"body": f"document {i} says {i * i}"} for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    cfg = DataConfig(path=str(tmp_path / "a.jsonl"), column="body", valid_share=0.2)
    parts = load_documents(cfg, 0)
    assert sorted(parts.train + parts.valid) == sorted(row["body"] for row in rows)
    assert 3 <= len(parts.valid) <= 25
    assert parts.test == []
    with pytest.raises(DataError, match="no field 'text'; it has: 'body'"):
        read_documents(tmp_path / "a.jsonl", DataConfig())


def test_files_of_the_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.md").write_text(f"the text of {name}, long enough to be split\n" * 20, "utf-8")
    paths = {name: str(tmp_path / f"{name}.md") for name in ("a", "b", "c")}
    parts = load_documents(DataConfig(path=paths["a"], valid=paths["b"], test=paths["c"]), 0)
    assert [part[0][12] for part in (parts.train, parts.valid, parts.test)] == ["a", "b", "c"]
    parts = load_documents(DataConfig(path=paths["a"], test=paths["c"]), 0)
    assert parts.valid[0].strip()
    assert parts.test[0][12] == "c"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b" \n\n", "an empty file"),
        (b"one\ntwo caf\xe9\n", r"bad\.txt:2:8: byte 0xe9 is not UTF-8"),
        (b"one\ntwo\0\n", r"bad\.txt:2: a NUL byte"),
        (b"a", "too short"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_documents(DataConfig(path=str(tmp_path / "bad.txt")), 0)


def test_a_missing_file_has_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a", "utf-8")
    with pytest.raises(DataError, match=r"Did you mean: text\.txt"):
        load_documents(DataConfig(path=str(tmp_path / "texts.txt")), 0)


def test_the_embedded_sources_are_those_of_this_python() -> None:
    parts = load_documents(DataConfig(source="code", max_bytes=300_000), 0)
    assert sum(len(text.encode()) for text in parts.train + parts.valid) <= 300_000
    assert any("import " in text for text in parts.train)
    assert load_documents(DataConfig(source="code", max_bytes=300_000), 0) == parts

"""Vectors in the user's records: stored as given, and every wrong one named by its line."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinsmith.errors import DataError
from tinsmith.text import given_vectors
from tinsmith.text.given_vectors import store_from_records
from tinsmith.text.store import open_store


def write(path: Path, vectors: list[object], field: str = "teacher") -> Path:
    lines = [json.dumps({"text": f"Text {i}.", field: vector}) for i, vector in enumerate(vectors)]
    path.write_text("\n".join(lines))
    return path


def test_vectors_are_stored_in_the_order_of_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_vectors, "SHARD_ROWS", 4)
    vectors = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    path = write(tmp_path / "a.jsonl", vectors.tolist(), "emb")
    calls: list[tuple[int, int]] = []
    store = store_from_records(
        tmp_path / "s", path, {"teacher": "emb"}, progress=lambda *call: calls.append(call)
    )
    assert np.array_equal(np.asarray(store.vectors), vectors)
    assert store.rows_of(["Text 10.", "Text 2."]).tolist() == [10, 2]
    assert calls[-1] == (11, 11)
    again = store_from_records(tmp_path / "s", path, {"teacher": "emb"}, progress=lambda *_: 1 // 0)
    assert again.folder == store.folder
    assert again.fingerprint.startswith("given-")


def test_a_named_teacher_keeps_its_name_and_changed_vectors_are_another_store(tmp_path: Path) -> None:
    first = store_from_records(tmp_path, write(tmp_path / "a.jsonl", [[1, 2], [3, 4.5]]), fingerprint="mine")
    assert first.fingerprint == "mine"
    assert len(open_store(first.folder, "mine", 2)) == 2
    second = store_from_records(
        tmp_path, write(tmp_path / "a.jsonl", [[1, 2], [3, 4.25]]), fingerprint="mine"
    )
    assert second.folder != first.folder
    assert np.asarray(second.vectors).tolist() == [[1, 2], [3, 4.25]]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1.0], "has 1 numbers, expected 2"),
        ([1.0, 2.0, 3.0], "has 3 numbers, expected 2"),
        ([1.0, "2.0"], "holds what is not a number"),
        ([1.0, None], "holds what is not a number"),
        ([1.0, True], "holds what is not a number"),
        ([[1.0, 2.0]], "holds what is not a number"),
        ([1.0, 1e39], "is not finite in float32: number 2 is 1e+39"),
        ([10**400, 1.0], "is not finite in float32: number 1"),
        ([0.0, -0.0], "is all zeros"),
        ([], "has 0 numbers"),
        ("1 2", "is a text, not a list"),
        ({"0": 1.0}, "is an object, not a list"),
    ],
)
def test_a_wrong_vector_is_named_by_its_line(tmp_path: Path, vector: object, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [[1.0, 2.0], [3.0, 4.0], vector])
    with pytest.raises(DataError) as caught:
        store_from_records(tmp_path / "s", path)
    assert str(caught.value).startswith(f"{path}:3: field 'teacher' {message}")


def test_json_overflow_nan_and_the_size_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "teacher": [1e999, 1]}')
    with pytest.raises(DataError, match="not finite in float32: number 1"):
        store_from_records(tmp_path, path)
    path.write_text('{"text": "a", "teacher": [NaN, 1]}')
    with pytest.raises(DataError, match=r"a\.jsonl:1: broken JSON: NaN"):
        store_from_records(tmp_path, path)
    path.write_text('{"text": "a", "teacher": [1, 1]}')
    with pytest.raises(DataError, match=r"a\.jsonl:1: field 'teacher' has 2 numbers, expected 384"):
        store_from_records(tmp_path, path, size=384)

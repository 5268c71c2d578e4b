"""Pairs from files, from the Python installation, and their splits; vectors from files."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tinsmith.errors import DataError
from tinsmith.families.lattice import pairs
from tinsmith.families.lattice.pairs import embedded_pairs, load_pairs, split_pairs, without_leaks
from tinsmith.families.lattice.vectors import load_vector_pairs, load_vectors, unit_vectors
from tinsmith.text.corpora import Shares
from tinsmith.text.prose import normalised

# ---- files --------------------------------------------------------------------------------------------


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_every_kind_of_file(tmp_path: Path) -> None:
    expected = [{"question": "a?", "answer": "b, c"}, {"question": "d?", "answer": "e"}]
    write(tmp_path / "p.jsonl", *expected)
    (tmp_path / "p.json").write_text(json.dumps(expected), "utf-8")
    (tmp_path / "p.csv").write_text('question,answer\na?,"b, c"\nd?,e\n', "utf-8")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress((tmp_path / "p.jsonl").read_bytes()))
    for name in ("p.jsonl", "p.json", "p.csv", "p.jsonl.gz"):
        assert load_pairs(tmp_path / name) == expected


def test_other_names_and_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"q": "a", "a": "b", "dialogue": 7}, {"q": "c", "a": "d", "group": ""})
    found = load_pairs(path, "q", "a")
    assert found == [{"question": "a", "answer": "b", "group": "7"}, {"question": "c", "answer": "d"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a", "reply": "b"},
            r"p\.jsonl:2: no field 'answer'; it has: 'question', 'reply'; set dialogue_data\.answer=<name>$",
        ),
        ({"question": "a", "answer": " "}, r"p\.jsonl:2: field 'answer' is empty; .* leave the record out$"),
        ({"question": ["a"], "answer": "b"}, r"p\.jsonl:2: field 'question' is a list, not a text"),
    ],
)
def test_bad_pairs_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "p.jsonl", {"question": "a", "answer": "b"}, row)
    with pytest.raises(DataError, match=message):
        load_pairs(path)


def test_a_file_without_pairs_or_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("question,answer\n", "utf-8")
    with pytest.raises(DataError, match="no records"):
        load_pairs(tmp_path / "p.csv")
    with pytest.raises(DataError, match=r"p\.cvs: no such file\. Did you mean: p\.csv\?"):
        load_pairs(tmp_path / "p.cvs")
    (tmp_path / "p.txt").write_text("what?\n", "utf-8")
    with pytest.raises(DataError, match="no field 'answer'"):
        load_pairs(tmp_path / "p.txt")


# ---- the Python installation --------------------------------------------------------------------------

SOURCE = '''
"""A module's own docstring is no answer."""

def plain(a, *, b=1):
    """Put two numbers together.

    Not this line.
    """
    def inner():
        """Inside a function, nobody can name it."""

def _short():
    """Too short."""

class Box(dict):
    """Holds a few things."""

    def open(self):
        """Let the things out."""

if True:
    async def later(x: int = 2) -> None:
        """Come back to it."""

def again():
    """Put two  numbers together."""
'''


def test_objects_and_the_first_line_of_their_docstrings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("tools/__init__.py", SOURCE), ("test/skipped.py", SOURCE), ("z.py", SOURCE)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.setattr(pairs.sysconfig, "get_path", lambda _: str(tmp_path))
    assert [(pair["question"], pair["answer"], pair["group"]) for pair in embedded_pairs()] == [
        ("tools.plain(a, *, b=1)", "Put two numbers together.", "tools"),
        ("class tools.Box(dict)", "Holds a few things.", "tools"),
        ("tools.Box.open(self)", "Let the things out.", "tools"),
        ("tools.later(x: int=2)", "Come back to it.", "tools"),
    ]  # z.py says nothing new


def test_the_embedded_pairs_are_many_and_each_once() -> None:
    found = embedded_pairs()
    assert len(found) >= 4000
    assert len({pair["group"] for pair in found}) > 200
    for side in ("question", "answer"):
        assert len({normalised(pair[side]) for pair in found}) == len(found)
    assert any(pair["question"].startswith("json.dumps(") for pair in found)
    split = split_pairs(found, Shares(0.05, 0.05), "here")
    groups = {name: {pair["group"] for pair in part} for name, part in split.items()}
    assert not groups["train"] & groups["valid"]
    assert not groups["train"] & groups["test"]
    assert min(map(len, split.values())) > 50


def test_a_cache_gives_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [{"question": "f(x)", "answer": "Do x well.", "group": "f"}]
    monkeypatch.setattr(pairs, "_collect", lambda: list(few))
    assert embedded_pairs(tmp_path) == few
    monkeypatch.setattr(pairs, "_collect", lambda: pytest.fail("not read from the cache"))
    assert embedded_pairs(tmp_path) == few


def test_an_installation_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match=r"no sources .*dialogue_data\.source_file"):
        embedded_pairs()


# ---- splits -------------------------------------------------------------------------------------------


def pair(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer}


def test_neither_side_of_a_pair_is_in_two_splits() -> None:
    parts = {
        "train": [pair("a", "1"), pair("B ", "2"), pair("c", "9"), pair("d", "4")],
        "valid": [pair("b", "3"), pair("e", "9")],
        "test": [pair("f", "9")],
    }
    kept = without_leaks(parts, "here")
    assert kept["train"] == [pair("a", "1"), pair("d", "4")]
    assert kept["valid"] == [pair("b", "3")]
    assert kept["test"] == parts["test"]


def test_a_split_of_which_nothing_is_left() -> None:
    with pytest.raises(DataError, match="nothing is left of the train split"):
        without_leaks({"train": [pair("a", "1")], "valid": [pair("b", "1")], "test": []}, "here")


def test_a_dialogue_stays_in_one_split() -> None:
    rows = [{**pair(f"q{i}", f"a{i}"), "group": str(i // 5)} for i in range(500)]
    split = split_pairs(rows, Shares(0.2, 0.2, 1), "here")
    groups = [{row["group"] for row in part} for part in split.values()]
    assert sum(map(len, groups)) == 100
    assert all(groups)
    assert sum(map(len, split.values())) == 500


# ---- vectors ------------------------------------------------------------------------------------------


def test_vectors_come_at_length_one(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[3.0, 4.0], [0.0, 2.0]], np.float16))
    expected = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    torch.testing.assert_close(load_vectors(tmp_path / "v.npy"), expected)
    save_file({"any": torch.tensor([[3.0, 4.0], [0.0, 2.0]])}, tmp_path / "v.safetensors")
    torch.testing.assert_close(load_vectors(tmp_path / "v.safetensors"), expected)
    save_file({"vectors": expected, "ids": torch.arange(2)}, tmp_path / "w.safetensors")
    torch.testing.assert_close(load_vectors(tmp_path / "w.safetensors", size=2), expected)


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        ([[1.0, 2.0]], 3, "here: the vectors have 2 numbers, expected 3"),
        ([[1.0, 2.0], [float("nan"), 1.0]], None, "here: row 1 is not finite"),
        ([[1e300, 2.0]], None, "here: row 0 is not finite"),
        ([[1.0], [0.0], [0.0]], None, r"here: row 1 \(and 1 more\) is all zeros"),
        ([1.0, 2.0], None, r"here: the shape is \[2\]"),
        ([[1.0], [1.0, 2.0]], None, "here: not a table of numbers"),
        ([["a"]], None, "here: not a table of numbers"),
        (np.zeros((0, 4)), None, "here: there are no vectors"),
        (np.zeros((4, 0)), None, "have 0 numbers, expected at least one"),
    ],
)
def test_bad_vectors_are_named(values: Any, size: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        unit_vectors(values, "here", size)


def test_bad_files_of_vectors_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"v\.npy: no such file"):
        load_vectors(tmp_path / "v.npy")
    for name in ("v.npy", "v.safetensors"):
        (tmp_path / name).write_bytes(b"nonsense, and some more of it")
        with pytest.raises(DataError, match=name):
            load_vectors(tmp_path / name)
    save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="no tensor 'vectors'; it has: 'a', 'b'"):
        load_vectors(tmp_path / "w.safetensors")


def test_pairs_of_vectors(tmp_path: Path) -> None:
    x, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    save_file({"q": x, "a": y, "short": y[:1].clone(), "wide": torch.ones(2, 3)}, tmp_path / "p.safetensors")
    np.save(tmp_path / "p.npy", torch.stack([x, y], 1).numpy())
    both = load_vector_pairs(tmp_path / "p.npy"), load_vector_pairs(tmp_path / "p.safetensors", "q", "a")
    for found in both:
        torch.testing.assert_close(found, (torch.eye(2), torch.eye(2).flip(0)))
    for question, answer, message in (
        ("q", "b", r"no tensor 'b'; it has: .*; set dialogue_data\.answer=<name>"),
        ("q", "short", "2 questions and 1 answers"),
        ("q", "wide", "p.safetensors, wide: the vectors have 3 numbers, expected 2"),
    ):
        with pytest.raises(DataError, match=message):
            load_vector_pairs(tmp_path / "p.safetensors", question, answer)
    np.save(tmp_path / "flat.npy", x.numpy())
    with pytest.raises(DataError, match=r"pairs are \[N, 2, Z\]"):
        load_vector_pairs(tmp_path / "flat.npy")

"""The caches are never stale, and nothing is computed again for nothing.

Everything runs by default: ``pytest tests/faults/test_caches.py``.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")
from families.tiny import build
from text.tiny_teachers import TEXTS, save_model

from tinsmith.text import EmbeddingLoader
from tinsmith.text.store import build_store, cached_token_table

Floats = NDArray[np.float32]

Settings = dict[str, Any]  # of the teacher, and "texts" and "dtype" of the store


def move_a_weight(folder: Path) -> Settings:
    """By one unit in the last place."""
    weights = load_file(folder / "model.safetensors")
    row = weights["embeddings.word_embeddings.weight"][8]
    row[0] = torch.nextafter(row[0], torch.tensor(9.0))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return {}


def edit(folder: Path, name: str, old: str, new: str) -> Settings:
    text = (folder / name).read_text("utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), "utf-8")
    return {}


def touch(folder: Path) -> Settings:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    return {}


def another_file(folder: Path) -> Settings:
    (folder / "README.md").write_text("Notes.", "utf-8")
    return {}


CHANGES: dict[str, Callable[[Path], Settings]] = {
    "a byte of a text": lambda _: {"texts": [TEXTS[0].replace("pots", "pot"), *TEXTS[1:]]},
    "the order": lambda _: {"texts": TEXTS[::-1]},
    "one text less": lambda _: {"texts": TEXTS[:-1]},
    "where a text ends": lambda _: {"texts": [TEXTS[0][:-5], TEXTS[0][-5:] + TEXTS[1], *TEXTS[2:]]},
    "precision": lambda _: {"dtype": "float16"},
    "pooling": lambda _: {"pooling": "cls"},
    "normalisation": lambda _: {"normalize": True},
    "prefix": lambda _: {"prefix": "the "},
    "longest text": lambda _: {"max_len": 5},
    "a weight": move_a_weight,
    "the tokenizer": lambda folder: edit(folder, "tokenizer.json", '"tin": 7', '"tin": 8'),
    "the configuration": lambda folder: edit(folder, "config.json", '"gelu"', '"relu"'),
}
SEEMING: dict[str, Callable[[Path], Settings]] = {
    "the time": touch,
    "the batch size": lambda _: {"batch_size": 2},
    "an iterable in place of a list": lambda _: {"texts": tuple(TEXTS)},
    "notes": another_file,
}


def vectors(folder: Path, cache: Path, settings: Settings) -> tuple[list[Floats], int]:
    """The store's vectors and the table that a teacher's user gets, and how many texts were computed."""
    settings = {"texts": TEXTS, "dtype": "auto", **settings}
    texts, dtype = settings.pop("texts"), settings.pop("dtype")
    teacher = Counting(folder, device="cpu", **settings)
    built = build_store(cache / "vectors", texts, teacher, dtype=dtype)
    return [np.asarray(built.vectors), cached_token_table(cache / "tables", teacher)], teacher.computed


class Counting(EmbeddingLoader):
    computed = 0

    def encode(self, texts: Sequence[str], progress: Any = None) -> Floats:
        self.computed += len(texts)
        return super().encode(texts, progress)

    def token_table(self, progress: Any = None) -> Floats:
        self.computed += 1
        return super().token_table(progress)


def same(one: list[Floats], two: list[Floats]) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def after(change: Callable[[Path], Settings], folder: Path) -> tuple[int, bool]:
    """How many texts a change has computed again; whether it changes what one gets. Never what is stale."""
    teacher = save_model(folder / "teacher", "bert")
    before, count = vectors(teacher, folder / "cache", {})
    assert count == len(TEXTS) + 1
    settings = change(teacher)
    got, computed = vectors(teacher, folder / "cache", settings)
    settings.pop("batch_size", None)  # by which the last bits may differ
    anew, _ = vectors(teacher, folder / "other cache", settings)
    assert same(got, anew), "stale"
    return computed, same(got, before)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_never_answered_from_the_cache(change: str, tmp_path: Path) -> None:
    computed, unchanged = after(CHANGES[change], tmp_path)
    assert computed
    assert not unchanged


@pytest.mark.parametrize("change", SEEMING)
def test_nothing_is_computed_again_for_nothing(change: str, tmp_path: Path) -> None:
    assert after(SEEMING[change], tmp_path) == (0, True)


@pytest.mark.parametrize("change", ["a weight", "the tokenizer", "prefix"])
def test_a_fingerprint_of_names_is_caught(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinsmith.text.teachers.fingerprint", lambda folder, recipe: "bert")
    with pytest.raises(AssertionError, match="stale"):
        after(CHANGES[change], tmp_path)


def test_a_byte_of_the_data_file_counts_and_its_time_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    encode = EmbeddingLoader.encode
    monkeypatch.setattr(
        EmbeddingLoader, "encode", lambda self, t, p=None: [encode(self, t, p), computed.extend(t)][0]
    )
    build("codec", tmp_path)
    assert len(computed) == 96
    computed.clear()
    path = tmp_path / "path.jsonl"
    os.utime(path, (1, 1))
    build("codec", tmp_path)
    assert computed == []
    rows = path.read_text("utf-8").splitlines()
    text = json.loads(rows[7])["text"]
    path.write_text("\n".join([*rows[:7], rows[7].replace(" tin", " tie"), *rows[8:]]), "utf-8")
    build("codec", tmp_path)
    assert text not in computed
    assert text[:-1] + "e" in computed

"""What a lattice trains on: vectors of texts and of files, splits, caps, the mixture of the two modes."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families.tiny import sentences
from safetensors.torch import save_file
from text.tiny_teachers import save_model
from torch import Tensor

from tinsmith.engine.contract import Data
from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lattice.config import LatticeConfig
from tinsmith.families.lattice.data import (
    build_data,
    create_autoencoder_dataset,
    create_dialogue_dataset,
    create_file_dataset,
    create_text_dataset,
)
from tinsmith.families.lattice.datasets import (
    AUTOENCODER,
    DIALOGUE,
    AutoencoderDataset,
    DialogueDataset,
    joined,
    mixed_loader,
)
from tinsmith.text.teacher_config import TeacherConfig
from tinsmith.text.teachers import EmbeddingLoader, make_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher, sentences and pairs as files."""
    root = tmp_path_factory.mktemp("lattice")
    save_model(root / "teacher", "bert")
    texts = sentences(100)
    write(root / "texts.jsonl", [{"text": text} for text in texts])
    half = [{"question": q, "answer": a} for q, a in zip(texts[:50], texts[50:], strict=True)]
    write(root / "pairs.jsonl", half)
    return root


@pytest.fixture(scope="module")
def teacher(folder: Path) -> EmbeddingLoader:
    return make_teacher(TeacherConfig(name=str(folder / "teacher")), "cpu")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def config(folder: Path, mode: str, **settings: Any) -> LatticeConfig:
    """Settings of a tiny run; ``data__path=...`` is ``data.path``."""
    cfg = LatticeConfig(mode=mode, device="cpu")
    cfg.teacher.name = str(folder / "teacher")
    cfg.data.cache = str(folder / "cache")
    cfg.data.valid_share = cfg.data.test_share = 0.2
    cfg.trainer.batch_size = 8
    for key, value in settings.items():
        section, _, name = key.partition("__")
        setattr(getattr(cfg, section), name, value)
    return cfg


def texts_of(folder: Path, **settings: Any) -> Data:
    settings = {"data__path": str(folder / "texts.jsonl"), "data__source": "file", **settings}
    return build_data(config(folder, "autoencoder", **settings))


def pairs_of(folder: Path, **settings: Any) -> Data:
    settings = {"dialogue_data__source_file": str(folder / "pairs.jsonl"), **settings}
    return build_data(config(folder, "dialogue", **settings))


def both_of(folder: Path, **settings: Any) -> Data:
    files = {"data__path": str(folder / "texts.jsonl"), "data__source": "file"}
    files |= {"dialogue_data__source_file": str(folder / "pairs.jsonl")}
    return build_data(config(folder, "mixed", **{**files, **settings}))


# ---- texts --------------------------------------------------------------------------------------------


def test_autoencoder_rows_are_the_teachers_vectors_and_their_own_targets(
    folder: Path, teacher: EmbeddingLoader
) -> None:
    data = texts_of(folder)
    dataset = data.train.dataset
    batch = dataset.batch(torch.tensor([5, 0, 17]))
    texts = [dataset.texts[i][0] for i in (5, 0, 17)]
    expected = F.normalize(torch.from_numpy(teacher.encode(texts)), dim=-1)
    torch.testing.assert_close(batch["x"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(batch["x"], batch["y"])
    assert batch["x"].dtype == torch.float32
    assert batch["mode"].tolist() == [AUTOENCODER] * 3
    assert (data.spec.z_dim, data.spec.mode) == (16, "autoencoder")
    assert data.spec.teacher_fingerprint == teacher.fingerprint
    splits = [{text for text, _ in loader.dataset.texts} for loader in (data.train, data.valid, data.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 100


def test_dialogue_rows_are_questions_and_answers(folder: Path, teacher: EmbeddingLoader) -> None:
    data = pairs_of(folder)
    dataset = data.train.dataset
    batch = dataset.batch(torch.tensor([3]))
    for key, text in zip("xy", dataset.texts[3], strict=True):
        expected = F.normalize(torch.from_numpy(teacher.encode([text])), dim=-1)
        torch.testing.assert_close(batch[key], expected, rtol=1e-4, atol=1e-5)
    assert batch["mode"].tolist() == [DIALOGUE]
    texts, known = data.artifacts["answers"]
    assert texts == [answer for _, answer in dataset.texts]
    assert torch.equal(known, dataset.y)
    assert data.artifacts["teacher"].fingerprint == teacher.fingerprint


def test_vectors_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = texts_of(folder).train.dataset
    monkeypatch.setattr(EmbeddingLoader, "encode", lambda *_: pytest.fail("computed again"))
    again = texts_of(folder).train.dataset
    assert torch.equal(first.x, again.x)


def test_held_out_files_are_taken_and_nothing_of_them_is_trained_on(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text("utf-8").splitlines()]
    valid = write(tmp_path / "valid.jsonl", [rows[0], {**rows[1], "question": "a new house"}])
    data = pairs_of(folder, data__valid=str(valid))
    assert len(data.valid.dataset) == 2
    assert data.test is None
    held = {text for pair in data.valid.dataset.texts for text in pair}
    assert not held & {text for pair in data.train.dataset.texts for text in pair}
    assert len(data.train.dataset) == 48


def test_caps(folder: Path) -> None:
    capped = texts_of(folder, data__max_samples=10)
    assert [len(loader.dataset) for loader in (capped.train, capped.valid, capped.test)] == [10, 10, 10]
    whole = {text for text, _ in texts_of(folder).train.dataset.texts}
    assert {text for text, _ in capped.train.dataset.texts} <= whole
    assert len(pairs_of(folder, dialogue_data__max_pairs=7).train.dataset) == 7


def test_embedded_sentences_and_pairs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": text, "domain": "d", "group": f"g{i % 10}"} for i, text in enumerate(sentences(60))]
    monkeypatch.setattr("tinsmith.text.corpora.embedded_corpus", lambda _: rows)
    found = build_data(config(folder, "autoencoder"))
    assert len(found.train.dataset) + len(found.valid.dataset) + len(found.test.dataset) == 60
    more = texts_of(folder, data__source="mixed")  # the file has these 60 and 40 more
    splits = [{text for text, _ in loader.dataset.texts} for loader in (more.train, more.valid, more.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 100
    own = sentences(61)
    pairs = [{"question": own[i], "answer": own[i + 1], "group": f"g{i // 4}"} for i in range(60)]
    monkeypatch.setattr("tinsmith.families.lattice.sources.embedded_pairs", lambda _: pairs)
    assert build_data(config(folder, "dialogue")).train.dataset.mode.eq(DIALOGUE).all()


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (texts_of, {"data__path": ""}, "data.source=file needs a file"),
        (texts_of, {"data__path": "v.npy", "data__source": "loader"}, "computes vectors from texts"),
        (pairs_of, {"dialogue_data__source_file": "", "data__valid": "v.jsonl"}, "need pairs to train on"),
    ],
)
def test_settings_that_do_not_go_together(
    folder: Path, make: Callable[..., Data], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(folder, **settings)


def test_a_pair_file_without_its_columns(folder: Path) -> None:
    message = r"texts\.jsonl:1: no field 'answer'; it has: 'text'; set dialogue_data\.answer=<name>"
    with pytest.raises(DataError, match=message):
        pairs_of(folder, dialogue_data__source_file=str(folder / "texts.jsonl"))


# ---- vectors ------------------------------------------------------------------------------------------


def vectors(count: int, z: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, z, generator=torch.Generator().manual_seed(seed))


def test_given_vectors_need_no_teacher(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = "tinsmith.text.teachers.EmbeddingLoader"
    monkeypatch.setattr(made, lambda *_, **__: pytest.fail("a teacher was made"))
    x = vectors(100)
    x[7] = x[90]  # the same vector: in one split
    np.save(tmp_path / "v.npy", x.numpy())
    data = texts_of(folder, data__path=str(tmp_path / "v.npy"))
    assert (data.spec.teacher, data.spec.teacher_fingerprint, data.spec.z_dim) == ("given", "given", 6)
    parts = [loader.dataset.x for loader in (data.train, data.valid, data.test)]
    assert sum(map(len, parts)) == 100
    known = F.normalize(x, dim=-1)
    rows = [{int((known - row).abs().sum(1).argmin()) for row in part} for part in parts]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 99
    assert data.train.dataset.texts is None
    assert data.artifacts["teacher"] is None


def test_given_pairs_of_vectors(folder: Path, tmp_path: Path) -> None:
    save_file({"q": vectors(40), "a": vectors(40, seed=1)}, tmp_path / "p.safetensors")
    save_file({"q": vectors(9, seed=2), "a": vectors(9, seed=3)}, tmp_path / "v.safetensors")
    settings = {"dialogue_data__question": "q", "dialogue_data__answer": "a"}
    settings["dialogue_data__source_file"] = str(tmp_path / "p.safetensors")
    settings["data__valid"] = str(tmp_path / "v.safetensors")
    data = pairs_of(folder, **settings)
    torch.testing.assert_close(data.train.dataset.y, F.normalize(vectors(40, seed=1), dim=-1))
    assert (len(data.valid.dataset), data.test) == (9, None)
    save_file({"q": vectors(9, 5), "a": vectors(9, 5, 1)}, tmp_path / "v.safetensors")
    with pytest.raises(DataError, match="vectors of 6 numbers, those of the valid split have 5"):
        pairs_of(folder, **settings)


def test_bad_vectors_are_named_with_their_file(folder: Path, tmp_path: Path) -> None:
    x = vectors(30)
    x[3, 2] = float("nan")
    np.save(tmp_path / "v.npy", x.numpy())
    with pytest.raises(DataError, match=r"v\.npy: row 3 is not finite"):
        texts_of(folder, data__path=str(tmp_path / "v.npy"))


# ---- both modes ---------------------------------------------------------------------------------------


def modes(loader: Any, epoch: int) -> list[list[int]]:
    return [batch["mode"].tolist() for _, batch in loader.epoch(epoch)]


def mixture(autoencoder: int = 64, dialogue: int = 64) -> Any:
    questions = vectors(dialogue, seed=1)
    return joined([AutoencoderDataset(vectors(autoencoder)), DialogueDataset(questions, vectors(dialogue))])


def test_mixed_data_hold_both_in_every_split(folder: Path) -> None:
    data = both_of(folder)
    for loader in (data.train, data.valid, data.test):
        assert set(loader.dataset.mode.tolist()) == {AUTOENCODER, DIALOGUE}
        assert len(loader.dataset.texts) == len(loader.dataset.x)
    texts, known = data.artifacts["answers"]
    assert len(texts) == len(known) == int((data.train.dataset.mode == DIALOGUE).sum())


@pytest.mark.parametrize(
    ("sizes", "expected"), [((64, 64), (149, 64)), ((140, 12), (140, 60)), ((7, 3), (7, 3))]
)
def test_by_batch_the_shares_hold_and_no_row_is_left_out(
    sizes: tuple[int, int], expected: tuple[int, int]
) -> None:
    loader = mixed_loader(mixture(*sizes), 0.7, "batch", 4, seed=1)
    found = modes(loader, 0)
    flat = [mode for batch in found for mode in batch]
    assert (flat.count(AUTOENCODER), flat.count(DIALOGUE)) == expected
    assert sum(len(set(batch)) > 1 for batch in found) <= 2
    rows = loader.dataset.rows[loader.order(0)]
    assert set(rows.tolist()) == set(range(sum(sizes)))
    if len(found) > 10:  # the modes take turns
        assert sum(a != b for a, b in itertools.pairwise(found)) > len(found) / 5


def test_by_epoch_seven_of_ten_are_of_the_autoencoder() -> None:
    loader = mixed_loader(mixture(30, 10), 0.7, "epoch", 8, seed=1)
    kinds = []
    for epoch in range(10):
        found = modes(loader, epoch)
        assert sum(map(len, found)) == 40
        assert len(found) == len(loader)
        (kind,) = {mode for batch in found for mode in batch}
        kinds.append(kind)
        assert set(loader.order(epoch).tolist()) == set(range(30) if kind == AUTOENCODER else range(30, 40))
    assert kinds.count(AUTOENCODER) == 7
    assert kinds[0] == AUTOENCODER
    assert torch.equal(loader.order(3), mixed_loader(mixture(30, 10), 0.7, "epoch", 8, seed=1).order(3))
    assert not torch.equal(loader.order(0), loader.order(1))


@pytest.mark.parametrize("by", ["batch", "epoch"])
def test_a_mixed_epoch_goes_on_from_any_cursor(by: str) -> None:
    loader = mixed_loader(mixture(), 0.7, by, 8, seed=1)
    whole = [batch["x"] for _, batch in loader.epoch(2)]
    rest = [batch["x"] for _, batch in loader.epoch(2, cursor=24)]
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))


def test_vectors_of_two_sizes_do_not_mix() -> None:
    with pytest.raises(DataError, match="vectors of 5 and 6 numbers"):
        joined([AutoencoderDataset(vectors(3)), AutoencoderDataset(vectors(3, 5))])


# ---- in one call --------------------------------------------------------------------------------------


def test_data_sets_in_one_call(folder: Path, tmp_path: Path, teacher: EmbeddingLoader) -> None:
    cache = folder / "cache"
    one = create_text_dataset(sentences(4), teacher, cache)
    torch.testing.assert_close(one.x, F.normalize(torch.from_numpy(teacher.encode(sentences(4))), dim=-1))
    assert len(create_file_dataset(folder / "texts.jsonl", teacher, max_samples=9, cache=cache)) == 9
    np.save(tmp_path / "v.npy", vectors(5, 16).numpy())
    assert len(create_file_dataset(tmp_path / "v.npy")) == 5
    several = create_autoencoder_dataset(
        folder / "texts.jsonl", sentences(3), vectors(2, 16), teacher=teacher, max_samples=0, cache=cache
    )
    assert len(several) == 105
    assert several.texts is None  # some have none
    told = create_autoencoder_dataset(sentences(3), sentences(5), teacher=teacher, max_samples=6, cache=cache)
    assert [text for text, _ in told.texts or []] == [*sentences(3), *sentences(5)][:6]
    pairs = create_dialogue_dataset(folder / "pairs.jsonl", teacher, max_pairs=8, cache=cache)
    given = create_dialogue_dataset(list(pairs.texts or []), str(folder / "teacher"), cache=cache)
    assert len(pairs) == 8
    torch.testing.assert_close(given.y, pairs.y)


def test_mistakes_in_one_call(tmp_path: Path, teacher: EmbeddingLoader) -> None:
    with pytest.raises(TypeError, match="a list of sentences"):
        create_text_dataset("tin", teacher)
    with pytest.raises(DataError, match="text 1 is ' '"):
        create_text_dataset(["tin", " "], teacher)
    with pytest.raises(DataError, match="there are no texts"):
        create_text_dataset([], teacher)
    with pytest.raises(DataError, match="no source"):
        create_autoencoder_dataset(teacher=teacher)
    with pytest.raises(DataError, match="pair 1: the answer is ''"):
        create_dialogue_dataset([("tin", "red"), ("old", "")], teacher)
    with pytest.raises(DataError, match="3 texts for 2 vectors"):
        AutoencoderDataset(vectors(2), ["a", "b", "c"])
    with pytest.raises(DataError, match="2 questions and 3 answers"):
        DialogueDataset(vectors(2), vectors(3))
    with pytest.raises(DataError, match="the answers' vectors: the vectors have 5 numbers, expected 6"):
        DialogueDataset(vectors(2), vectors(2, 5))

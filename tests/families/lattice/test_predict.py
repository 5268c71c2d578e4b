import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.damaged import refuses_damage
from families.lattice.test_data import write
from families.tiny import sentences
from text.tiny_teachers import save_model as save_teacher

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lattice.config import DatasetConfig, ModelConfig
from tinsmith.families.lattice.cube_trainer import CubeTrainer, TrainingConfig
from tinsmith.families.lattice.predict import LatticePredictor
from tinsmith.text.teacher_config import TeacherConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder of both modes, a little trained."""
    root = tmp_path_factory.mktemp("lattice")
    save_teacher(root / "teacher", "bert")
    texts = sentences(90)
    write(root / "texts.jsonl", [{"text": text} for text in texts])
    pairs = [{"question": q, "answer": a} for q, a in zip(texts[:45], texts[45:], strict=True)]
    write(root / "pairs.jsonl", pairs)
    config = TrainingConfig(
        mode="mixed",
        device="cpu",
        epochs=1,
        checkpoint_dir=str(root / "checkpoints"),
        model=ModelConfig(size=(4, 2, 2), steps=3, channels=4, bottleneck=5),
        dialogue_data=DatasetConfig(source_file=str(root / "pairs.jsonl")),
        teacher=TeacherConfig(name=str(root / "teacher")),
    )
    config.data.path, config.data.cache = str(root / "texts.jsonl"), str(root / "cache")
    config.data.valid_share = config.data.test_share = 0.2
    trainer = CubeTrainer(config, progress=False)
    trainer.fit()
    trainer.save_model(root / "model")
    return root / "model"


@pytest.fixture
def lattice(folder: Path) -> LatticePredictor:
    return LatticePredictor.load(folder)


def test_a_text_is_answered_and_rebuilt(lattice: LatticePredictor) -> None:
    one, two = lattice([sentences(1)[0], {"text": sentences(2)[1], "mode": "autoencoder"}])
    assert one["text"] == sentences(1)[0]
    assert one["answer"] in sentences(90)[45:]
    assert (len(two["code"]), len(two["z"])) == (5, 16)
    assert -1 <= two["cosine"] <= 1
    json.dumps([one, two], allow_nan=False)
    assert lattice([]) == []


def test_a_text_and_its_vector_are_answered_alike(lattice: LatticePredictor) -> None:
    texts = sentences(7)
    x = lattice.teacher.encode(texts)
    z = lattice.map(x, mode="dialogue")
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
    for told, shown, row in zip(lattice(texts), lattice(x.tolist()), z, strict=True):
        assert "text" not in shown
        np.testing.assert_allclose(told["z"], row, atol=1e-5)
        np.testing.assert_allclose(shown["z"], row, atol=1e-5)
    for i in range(7):
        np.testing.assert_allclose(lattice.map(x[i : i + 1], mode="dialogue")[0], z[i], atol=1e-5)
    np.testing.assert_allclose(lattice.map(3 * x, mode="dialogue"), z, atol=1e-5)  # the length says nothing


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (5, "input 1: a text, a list of numbers"),
        ({"words": "tin"}, "input 1: a text, a list of numbers"),
        (" ", "input 1: 'text' is ' '"),
        ({"text": 3}, "input 1: 'text' is 3"),
        ("\ud800", "input 1: half a surrogate pair"),
        ([1.0, 2.0], "input 1: the vectors have 2 numbers, expected 16"),
        ([0.0] * 16, "input 1: row 0 is all zeros"),
        ({"z": [float("nan")] * 16}, "input 1: row 0 is not finite"),
    ],
)
def test_mistakes_are_named(lattice: LatticePredictor, item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lattice(["tin", item])


def test_modes_are_those_it_was_trained_for(lattice: LatticePredictor) -> None:
    x = torch.randn(2, 16)
    assert np.array_equal(lattice.map(x), lattice.map(x, mode="dialogue"))
    with pytest.raises(ConfigError, match="mode='chat' is not known: autoencoder, dialogue"):
        lattice.map(x, mode="chat")
    with pytest.raises(DataError, match="expected 16"):
        lattice.map(torch.randn(2, 15))
    assert lattice.encode(x).shape == (2, 5)


def test_another_teacher_of_that_name_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    save_teacher(tmp_path / "other", "bert", seed=5)
    meta = json.loads((copy / "config.json").read_text("utf-8"))
    meta["teacher"]["name"] = str(tmp_path / "other")
    (copy / "config.json").write_text(json.dumps(meta), "utf-8")
    from tinsmith.families.lattice.predict import FILES
    from tinsmith.sealed import seal

    seal(copy, FILES)
    with pytest.raises(DataError, match="is not the one that this lattice was trained with"):
        LatticePredictor.load(copy)(["tin"])


def copied(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "answers.safetensors", "answers.json"])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    refuses_damage(LatticePredictor.load, folder, tmp_path / "model", name, "lattice")

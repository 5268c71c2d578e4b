"""``CubeTrainer``: what it is told, that it learns, stops, resumes, and ends with the best weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.lattice.tiny_lattice import unit
from torch import Tensor

from tinsmith.engine.loggers import read_metrics
from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lattice import (
    AutoencoderDataset,
    CheckpointManager,
    CubeTrainer,
    DialogueDataset,
    ModelConfig,
    TrainingConfig,
    TrainingLogger,
    load_training_checkpoint,
    save_training_checkpoint,
)

SMALL = {"size": (4, 2, 2), "steps": 3, "channels": 4, "bottleneck": 5}


def config(tmp_path: Path, **settings: Any) -> TrainingConfig:
    model = ModelConfig(**SMALL)  # type: ignore[arg-type]
    return TrainingConfig(
        **{
            "device": "cpu",
            "checkpoint_dir": str(tmp_path / "checkpoints"),
            "model": model,
            "epochs": 4,
            **settings,
        }
    )


def curved(n: int, seed: int = 0) -> Tensor:
    """Vectors near a surface of four dimensions in sixteen: five numbers do, five components do not."""
    angle = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return torch.cat([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], 1)


def trainer(tmp_path: Path, count: int = 256, **settings: Any) -> CubeTrainer:
    torch.set_num_threads(1)
    train, valid = AutoencoderDataset(curved(count)), AutoencoderDataset(curved(64, 1))
    return CubeTrainer(config(tmp_path, **settings), train, valid, progress=False)


def test_it_learns_what_no_linear_model_can(tmp_path: Path) -> None:
    free = {"convergence_threshold": 0.0, "target_similarity": 0.0, "patience": 99}
    cube = trainer(tmp_path, 2048, epochs=10, lr=1e-2, **free)
    start = cube.evaluate()["cosine"]  # that of PCA
    history = cube.fit()
    assert cube.evaluate()["cosine"] > start + 0.03
    assert cube.evaluate()["cosine"] == pytest.approx(max(history["val_cosine"]), abs=1e-6)
    assert len(history["train_loss"]) == 10


def test_it_stops_at_the_target(tmp_path: Path) -> None:
    assert len(trainer(tmp_path, target_similarity=0.1).fit()["val_cosine"]) == 1


def test_it_stops_where_nothing_moves_any_more(tmp_path: Path) -> None:
    cube = trainer(tmp_path, target_similarity=0.0, convergence_threshold=0.5, patience=2)
    assert len(cube.fit()["val_cosine"]) == 2


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.fit()
    stopped = trainer(tmp_path / "parts")
    stopped.trainer.add_log_hook(
        lambda metrics, step, prefix: stopped.trainer.stop() if prefix == "val" else None
    )
    stopped.fit()
    assert stopped.trainer.state.step < whole.trainer.state.step
    resumed = trainer(tmp_path / "parts")
    resumed.fit(resume=True)
    assert resumed.trainer.state.step == whole.trainer.state.step
    for name, weight in whole.trainer.task.state_dict().items():
        assert torch.equal(weight, resumed.trainer.task.state_dict()[name])


def test_use_after_training(tmp_path: Path) -> None:
    cube = trainer(tmp_path)
    predictor = cube.predictor()
    before = predictor.map(curved(3))
    cube.fit()
    assert np.array_equal(predictor.map(curved(3)), before)  # it has weights of its own
    cube.save_model(tmp_path / "model")
    again = type(predictor).load(tmp_path / "model")
    assert np.array_equal(again.map(curved(3)), cube.predictor().map(curved(3)))
    with pytest.raises(DataError, match="trained with given vectors: give vectors"):
        again(["a text"])


def test_checkpoints_and_logs_under_their_names(tmp_path: Path) -> None:
    cube = trainer(tmp_path, log_interval=4)
    cube.trainer.add_log_hook(TrainingLogger(tmp_path / "metrics.jsonl"))
    cube.fit()
    assert {row["split"] for row in read_metrics(tmp_path / "metrics.jsonl")} == {"train", "val"}
    manager = CheckpointManager(tmp_path / "checkpoints")
    assert manager.best() in manager.list()
    assert manager.save(cube.trainer, "mine") in manager.list()
    save_training_checkpoint(cube.trainer, tmp_path / "one.pt")
    for load in (
        lambda fresh: load_training_checkpoint(fresh.trainer, tmp_path / "one.pt"),
        lambda fresh: manager.load(fresh.trainer),
    ):
        fresh = trainer(tmp_path / "other")
        load(fresh)
        assert fresh.trainer.state.step == cube.trainer.state.step
        assert torch.equal(fresh.trainer.model.cube.asleep, cube.trainer.model.cube.asleep)  # type: ignore
    assert not CheckpointManager(tmp_path / "none").load(cube.trainer)
    assert not CheckpointManager(tmp_path / "none").load_best(cube.trainer.task)


@pytest.mark.parametrize("mode", ["dialogue", "mixed"])
def test_the_other_modes(tmp_path: Path, mode: str) -> None:
    from tinsmith.families.lattice.datasets import VectorPairs, joined

    def rows(n: int, seed: int) -> VectorPairs:
        pairs = DialogueDataset(unit(n, 16, seed), unit(n, 16, seed + 1))
        return pairs if mode == "dialogue" else joined([AutoencoderDataset(curved(n, seed)), pairs])

    cube = CubeTrainer(config(tmp_path, mode=mode, epochs=2), rows(80, 0), rows(40, 5), progress=False)
    cube.fit()
    assert cube.trainer.task.monitor[0] in cube.evaluate()
    wrong = DialogueDataset(unit(9), unit(9)) if mode == "mixed" else AutoencoderDataset(unit(9))
    missing = "autoencoder" if mode == "mixed" else "dialogue"
    with pytest.raises(DataError, match=f"needs {missing} rows"):
        CubeTrainer(config(tmp_path, mode=mode), wrong, wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "autoencode"}, "Did you mean: autoencoder"),
        ({"loss": "cos"}, r"loss\.kind='cos'"),
        ({"optimizer": "adamx"}, r"optimizer\.name='adamx'"),
        ({"patience": 0}, "patience=0 is not allowed"),
        ({"embedding_size": 384}, "the vectors have 16 numbers"),
        ({"model": ModelConfig(size=(9, 2, 2), steps=4)}, r"model\.steps=8, or model\.size=\[5,2,2\]"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **settings)


def test_half_of_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both data sets, or none"):
        CubeTrainer(config(tmp_path), AutoencoderDataset(unit(9)))

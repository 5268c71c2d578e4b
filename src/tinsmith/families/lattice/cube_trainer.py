"""``CubeTrainer``: the lattice in a few lines of Python, on the one engine; and thin names over its parts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tinsmith.engine import checkpoint, snapshot
from tinsmith.engine.config import check
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.contract import Data, Task
from tinsmith.engine.data import Loader, to_device
from tinsmith.engine.loggers import JsonlLogger
from tinsmith.engine.seed import set_seed
from tinsmith.engine.state import History
from tinsmith.engine.stopping import EarlyStopping
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import DataError
from tinsmith.families.lattice.config import (
    DataConfig,
    DatasetConfig,
    LatticeConfig,
    LossConfig,
    ModelConfig,
)
from tinsmith.families.lattice.data import as_data, build_data
from tinsmith.families.lattice.datasets import VectorPairs
from tinsmith.families.lattice.metrics import MODES
from tinsmith.families.lattice.model import build_model
from tinsmith.families.lattice.predict import LatticePredictor, save_model
from tinsmith.families.lattice.task import build_task
from tinsmith.text.teacher_config import TeacherConfig

TrainingLogger = JsonlLogger  # ``trainer.add_log_hook(TrainingLogger("metrics.jsonl"))``


@dataclass
class TrainingConfig:
    """A training of a lattice. ``validate`` names the setting that is wrong."""

    mode: str = "autoencoder"  # autoencoder | dialogue | mixed
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps
    seed: int = 42  # of the weights, the order of the samples and all noise
    embedding_size: int = 0  # numbers of a vector, to be checked against the data; 0 = whatever they have
    batch_size: int = 32
    lr: float = 1e-3
    epochs: int = 50
    optimizer: str = "adamw"  # adam | sgd | adamw | muon
    loss: str = "cosine"  # cosine | mse | combined
    target_similarity: float = 0.90  # autoencoder: stop at this cosine; 0 = do not
    convergence_threshold: float = (
        0.001  # stop when `patience` validations are this near one another; 0 = do not
    )
    patience: int = 10  # validations without a better one before it stops
    log_interval: int = 50  # steps between two log lines
    save_interval: float = 60.0  # seconds between two checkpoints
    checkpoint_dir: str = "checkpoints"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    dialogue_data: DatasetConfig = field(default_factory=DatasetConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def validate(self) -> None:
        """Raise ``ConfigError`` unless all is allowed."""
        for name in ("embedding_size", "target_similarity", "convergence_threshold"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(self.patience >= 1, "patience", self.patience, "1 or more")
        self.run_config().validate()

    def run_config(self) -> LatticeConfig:
        """The same as settings of a run."""
        cfg = LatticeConfig(mode=self.mode, device=self.device, seed=self.seed, model=self.model)
        cfg.data, cfg.dialogue_data, cfg.teacher = self.data, self.dialogue_data, self.teacher
        cfg.loss = LossConfig(kind=self.loss)
        cfg.optimizer.name, cfg.optimizer.lr = self.optimizer, self.lr
        cfg.trainer.batch_size, cfg.trainer.epochs = self.batch_size, self.epochs
        cfg.trainer.log_every, cfg.trainer.save_seconds = self.log_interval, self.save_interval
        return cfg


class CubeTrainer:
    """Trains a lattice.

        trainer = CubeTrainer(TrainingConfig(mode="dialogue"))
        history = trainer.fit()
        trainer.predictor()(["How do I open a file?"])

    Args:
        config: the training; None: the defaults.
        train, valid: data sets such as ``create_dialogue_dataset`` makes, in place of those that the config
            names.
        progress: show a live line.

    Attributes:
        trainer: the engine's ``Trainer``. data: the ``Data`` it trains on.

    Raises:
        ConfigError: a setting that is not allowed.
        DataError: data that are not what they should be.
    """

    def __init__(
        self,
        config: TrainingConfig | None = None,
        train: VectorPairs | None = None,
        valid: VectorPairs | None = None,
        progress: bool = True,
    ) -> None:
        self.config = config or TrainingConfig()
        self.config.validate()
        check((train is None) == (valid is None), "valid", valid, "both data sets, or none")
        self.cfg = self.config.run_config()
        set_seed(self.cfg.seed)
        self.data = build_data(self.cfg) if train is None or valid is None else _given(self.cfg, train, valid)
        size, expected = self.data.spec.z_dim, self.config.embedding_size
        check(expected in (0, size), "embedding_size", expected, f"the vectors have {size} numbers")
        set_seed(self.cfg.seed)  # whatever building the data drew
        task = build_task(self.cfg, build_model(self.cfg.model, self.data.spec), self.data)
        self.trainer = build_trainer(self.cfg, task, self.config.checkpoint_dir, progress=progress)

    def fit(self, resume: bool = False) -> History:
        """Train, and end with the best weights.

        Args:
            resume: go on from the newest checkpoint in ``checkpoint_dir``, if there is one.

        Returns:
            Lists with an entry an epoch: ``train_loss``, ``val_cosine``, ``lr``, ...
        """
        name, mode = self.trainer.task.monitor
        own = self.config
        stopping = EarlyStopping(
            own.patience,
            mode,
            target=own.target_similarity or None if name == "cosine" else None,
            convergence_threshold=own.convergence_threshold or None,
        )
        history = self.trainer.fit(
            self.data.train, self.data.valid, own.epochs, name, mode == "min", stopping, resume
        )
        CheckpointManager(own.checkpoint_dir).load_best(self.trainer.task)
        return history

    def evaluate(self, dataset: VectorPairs | None = None) -> dict[str, float]:
        """Metrics of a data set; None: the validation split."""
        loader = self.data.valid if dataset is None else Loader(dataset, 256)
        task = self.trainer.task  # with the weights it has: those that the engine averages are the last ones
        task.eval()
        try:
            with torch.inference_mode():
                return task.evaluate(to_device(batch, self.trainer.device) for batch in loader)
        finally:
            task.train()

    def predictor(self) -> LatticePredictor:
        """The model as it is now, ready for use."""
        model: Any = copy.deepcopy(self.trainer.model)
        return LatticePredictor(model, self.data.spec, self.cfg.teacher, self.data.artifacts["answers"])

    def save_model(self, folder: str | Path) -> None:
        """Write a folder that ``LatticePredictor.load`` reads."""
        save_model(self.cfg, self.trainer.task, self.data, Path(folder))


def _given(cfg: LatticeConfig, train: VectorPairs, valid: VectorPairs) -> Data:
    """Data sets as the data of a run."""
    for number, name in enumerate(MODES):
        if cfg.mode in (name, "mixed") and not all((part.mode == number).any() for part in (train, valid)):
            raise DataError(f"mode={cfg.mode} needs {name} rows in both data sets")
    return as_data(cfg, {"train": train, "valid": valid})


class CheckpointManager:
    """The checkpoints in a folder: durable, with digests, each an exact resume.

    Args:
        folder: of the checkpoints, such as ``checkpoint_dir``.
    """

    def __init__(self, folder: str | Path = "checkpoints") -> None:
        self.folder = Path(folder)

    def list(self) -> list[Path]:
        """The checkpoints, the newest first."""
        return [found.path for found in checkpoint.find_checkpoints(self.folder)]

    def best(self) -> Path | None:
        """The one with the best weights, None if there is none."""
        return checkpoint.best_checkpoint(self.folder)

    def save(self, trainer: Trainer, name: str) -> Path:
        """Save a trainer's state as ``folder/name``."""
        save_training_checkpoint(trainer, self.folder / name)
        return self.folder / name

    def load(self, trainer: Trainer) -> bool:
        """Go on from the newest whole checkpoint; False if there is none."""
        return snapshot.load_newest(trainer, self.folder)

    def load_best(self, task: Task) -> bool:
        """Put the best weights into the task, averaged where there is an average; False if there are none."""
        path = self.best()
        if path is None:
            return False
        parts, _ = checkpoint.read_checkpoint(path)
        snapshot.load_weights(task, snapshot.averaged_weights(parts))
        return True


def save_training_checkpoint(trainer: Trainer, path: str | Path) -> None:
    """Save everything that an exact resume needs: a folder, or with ``.pt`` one file for exchange."""
    trainer.save_checkpoint(path)


def load_training_checkpoint(trainer: Trainer, path: str | Path, strict: bool = False) -> None:
    """Go on from a checkpoint. Arguments and errors as of ``Trainer.load_checkpoint``."""
    trainer.load_checkpoint(path, strict)

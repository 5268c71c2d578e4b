"""The settings that every family has, with their defaults. Imports no torch.

A family subclasses ``RunConfig`` and adds its own sections (``model``, ``data``, ``loss``). The comment
behind a field is its documentation: ``tinsmith config init`` and ``config list`` print it.
"""

import re
from dataclasses import dataclass, field, fields

from tinsmith.errors import check as check
from tinsmith.errors import check_choice as check_choice

OPTIMIZERS = ("adamw", "adam", "sgd", "muon")
SCHEDULERS = (
    "cosine_warmup",
    "linear",
    "constant",
    "step",
    "noam",
    "inverse_sqrt",
    "wsd",
    "one_cycle",
    "plateau",
)
NONFINITE_POLICIES = ("stop", "skip", "rollback")
SPIKE_POLICIES = ("ignore", "rollback")
COMPILING = ("off", "on", "auto")
PRECISIONS = ("auto", "off", "bf16", "fp16")


@dataclass
class OptimizerConfig:
    """How the weights move."""

    name: str = "adamw"  # adamw | adam | sgd | muon (matrices by Muon, the rest by AdamW)
    lr: float = 1e-3  # highest learning rate
    weight_decay: float = 0.01  # on matrices only: never on norms, biases and embeddings

    def validate(self) -> None:
        check_choice("optimizer.name", self.name, OPTIMIZERS)
        check(0 < self.lr <= 1e6, "optimizer.lr", self.lr, "above 0, often 1e-4 to 1e-2")
        check(0 <= self.weight_decay < float("inf"), "optimizer.weight_decay", self.weight_decay, "0 or more")


@dataclass
class MatrixOptimizerConfig(OptimizerConfig):
    """How weights move that are matrices, nearly all of them."""

    name: str = "muon"
    muon_lr: float = 9e-3  # of the matrices, where Muon moves them
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW and Adam

    def validate(self) -> None:
        super().validate()
        check(0 < self.muon_lr < float("inf"), "optimizer.muon_lr", self.muon_lr, "above 0, often 1e-2")
        check(self.name != "sgd", "optimizer.name", self.name, "adamw, adam or muon")
        check(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "two numbers, 0 to below 1")


@dataclass
class SchedulerConfig:
    """How the learning rate goes: a pure function of the step."""

    name: str = "cosine_warmup"  # cosine_warmup | linear | constant | step | noam | wsd | one_cycle | ...
    warmup: float = 0.05  # share of the steps, 0 to 1, in which the rate rises from 0
    min_lr: float = 0.0  # the rate at the end, absolute

    def validate(self) -> None:
        check_choice("scheduler.name", self.name, SCHEDULERS)
        check(0 <= self.warmup < 1, "scheduler.warmup", self.warmup, "a share of the steps, 0 <= warmup < 1")
        check(0 <= self.min_lr < float("inf"), "scheduler.min_lr", self.min_lr, "0 or more")


@dataclass
class TrainerConfig:
    """The loop: its budget, its batches, what it saves and shows."""

    epochs: int = 10  # passes over the training set
    max_steps: int = 0  # optimiser steps; 0 = as many as the epochs hold
    max_minutes: float = 0.0  # wall-clock budget, turned into a number of steps; 0 = none
    batch_size: int = 128  # rows in a batch
    grad_clip: float = 1.0  # largest norm of the gradient; 0 = no clipping
    mixed_precision: str = "auto"  # auto (on where the device gains by it) | off | bf16 | fp16
    compile: str = "off"  # the step, by torch: off | on | auto (where a budget of minutes pays for it)
    accumulate: int = 1  # batches whose gradients make one optimiser step
    ema: float = 0.0  # decay of the weight average, such as 0.999; 0 = no average
    log_every: int = 50  # steps between two log lines
    eval_every: int = 0  # steps between two validations; 0 = after each epoch
    save_seconds: float = 30.0  # seconds between two checkpoints
    keep_checkpoints: int = 2  # newest checkpoints kept, at least 2
    early_stopping: int = 0  # validations without progress before the run stops; 0 = never
    on_nonfinite: str = "stop"  # a loss or gradient that is not finite: stop | skip (the batch) | rollback
    on_spike: str = "ignore"  # a loss that leaps: ignore (only logged) | rollback
    spike_factor: float = 10.0  # a leap is over so many times the median of the last 100 losses (see Guard)
    deterministic: bool = True  # the same seed gives the same weights
    num_workers: int = 0  # processes that load data; the result does not depend on it

    def validate(self) -> None:
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            check(low <= value < float("inf"), f"trainer.{name}", value, f"{low} or more")
        check(0 <= self.ema < 1, "trainer.ema", self.ema, "a decay, 0 <= ema < 1 (0 = no average)")
        check_choice("trainer.mixed_precision", self.mixed_precision, PRECISIONS)
        check_choice("trainer.compile", self.compile, COMPILING)
        check_choice("trainer.on_nonfinite", self.on_nonfinite, NONFINITE_POLICIES)
        check_choice("trainer.on_spike", self.on_spike, SPIKE_POLICIES)
        check(self.spike_factor > 1, "trainer.spike_factor", self.spike_factor, "above 1")


_LOWEST = {
    "epochs": 1,
    "max_steps": 0,
    "max_minutes": 0,
    "batch_size": 1,
    "grad_clip": 0,
    "accumulate": 1,
    "log_every": 1,
    "eval_every": 0,
    "save_seconds": 0,
    "keep_checkpoints": 2,
    "early_stopping": 0,
    "num_workers": 0,
}


@dataclass
class CurriculumStage:
    """A stage of training and what it changes; None leaves a setting as it is.

    Args:
        seq_len: longest sequence, in tokens.
        dim: width of the model.
        batch: samples in a batch.
        epochs: passes over the training set in this stage.
    """

    seq_len: int | None = None
    dim: int | None = None
    batch: int | None = None
    epochs: int = 1

    def validate(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            check(value is None or value >= 1, f"curriculum {item.name}", value, "1 or more")


@dataclass
class ResourcesConfig:
    """When to warn about the machine; its figures go to ``resources.jsonl``."""

    cpu_warning_threshold: float = 0.0  # percent of all cores in use; 0 = no warning (training is meant to)
    memory_warning_threshold: float = 90.0  # percent of the machine's memory in use; 0 = no warning
    gpu_memory_warning_threshold: float = 95.0  # percent of the GPU's memory in use; 0 = no warning
    slow_batch_threshold: float = 0.0  # seconds of a step; 0 = no warning

    def validate(self) -> None:
        for item in fields(self):
            value, percent = getattr(self, item.name), item.name != "slow_batch_threshold"
            allowed = "a percentage, 0 (no warning) to 100" if percent else "seconds, 0 or more"
            check(0 <= value <= (100 if percent else float("inf")), f"resources.{item.name}", value, allowed)


@dataclass
class LoggerConfig:
    """Where the numbers go besides ``metrics.jsonl``, which is always written."""

    tensorboard: bool = True  # event files in tb/
    wandb: bool = False  # needs: pip install wandb
    trackio: bool = False  # needs: pip install trackio
    mlflow: bool = False  # needs: pip install mlflow

    def validate(self) -> None:
        """Every combination is allowed."""


@dataclass
class RunConfig:
    """The root of a run's settings. Families subclass it."""

    seed: int = 42  # of the weights, the order of the samples and all noise
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps
    threads: int = 0  # CPU threads; 0 = as torch decides. Part of the result: other counts, other bits
    name: str = ""  # goes into the name of the run folder
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    curriculum: list[CurriculumStage] = field(default_factory=list)  # [{dim: 64, epochs: 2}, {epochs: 4}]
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def validate(self) -> None:
        """Check every section and what goes across them. Raises ``ConfigError`` that names the key."""
        check(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")
        device = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device)
        check(bool(device), "device", self.device, "auto, cpu, cuda, cuda:N or mps")
        check(self.threads >= 0, "threads", self.threads, "0 (torch decides) or more")
        name = re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,59})?", self.name)
        check(bool(name), "name", self.name, "at most 60 letters, digits, dots, dashes and underscores")
        for item in fields(self):
            section = getattr(self, item.name)
            for part in section if isinstance(section, list) else [section]:
                if hasattr(part, "validate"):
                    part.validate()
        budget = self.trainer.max_steps or self.trainer.max_minutes
        check(
            not (self.curriculum and budget),
            "curriculum",
            f"{len(self.curriculum)} stages",
            "it counts in epochs: set neither trainer.max_steps nor trainer.max_minutes",
        )
        check(
            self.scheduler.min_lr <= self.optimizer.lr,
            "scheduler.min_lr",
            self.scheduler.min_lr,
            f"at most optimizer.lr={self.optimizer.lr}",
        )

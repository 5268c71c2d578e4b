import dataclasses
import re
from typing import Any

import pytest

from tinsmith.engine.config import (
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULERS,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
    check,
    check_choice,
)
from tinsmith.errors import ConfigError

NAN, INF = float("nan"), float("inf")


def with_value(key: str, value: Any) -> RunConfig:
    """The default config with one value of any section replaced."""
    cfg = RunConfig()
    section, _, name = key.rpartition(".")
    setattr(getattr(cfg, section) if section else cfg, name, value)
    return cfg


WRONG = {
    "optimizer.name": ["adamm", ""],
    "optimizer.lr": [0.0, -1.0, NAN, INF],
    "optimizer.weight_decay": [-0.1, NAN, INF],
    "scheduler.name": ["cosine"],
    "scheduler.warmup": [-0.1, 1.0, 5.0, NAN],
    "scheduler.min_lr": [-1.0, NAN, 1.0],
    "trainer.epochs": [0, -1],
    "trainer.max_steps": [-1],
    "trainer.max_minutes": [-1.0, NAN, INF],
    "trainer.batch_size": [0],
    "trainer.grad_clip": [-1.0, NAN],
    "trainer.mixed_precision": ["bf61", "true"],
    "trainer.compile": ["yes", "true"],
    "trainer.accumulate": [0],
    "trainer.ema": [1.0, -0.1, NAN],
    "trainer.log_every": [0],
    "trainer.eval_every": [-1],
    "trainer.save_seconds": [-1.0, NAN],
    "trainer.keep_checkpoints": [1],
    "trainer.early_stopping": [-1],
    "trainer.num_workers": [-1],
    "trainer.on_nonfinite": ["stopp", "ignore"],
    "trainer.on_spike": ["stop"],
    "trainer.spike_factor": [1.0, NAN],
    "resources.cpu_warning_threshold": [-1.0, 101.0, NAN],
    "resources.memory_warning_threshold": [-1.0, 101.0, NAN],
    "resources.gpu_memory_warning_threshold": [-1.0, 101.0, NAN],
    "resources.slow_batch_threshold": [-1.0, NAN],
    "seed": [-1, 2**63],
    "device": ["gpu", "cuda:", "cuda:x", "CPU"],
    "threads": [-1],
    "name": ["a/b", "..", ".hidden", "-flag", "x" * 61, "a b"],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_named_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{key}=")) as caught:
        with_value(key, value).validate()
    assert caught.value.exit_code == 2
    assert re.search(r"is not allowed: .{5}|no such choice\..* All: ", str(caught.value))


def test_every_setting_with_limits_is_in_the_table_above() -> None:
    free = {
        "trainer.deterministic",
        "curriculum",
        *(f"logger.{name}" for name in ("tensorboard", "wandb", "trackio", "mlflow")),
    }
    cfg = dataclasses.asdict(RunConfig())
    keys = {f"{a}.{b}" for a, part in cfg.items() if isinstance(part, dict) for b in part}
    keys |= {key for key, value in cfg.items() if not isinstance(value, dict)}
    assert keys - free == set(WRONG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("optimizer.name", name) for name in OPTIMIZERS),
        *(("scheduler.name", name) for name in SCHEDULERS),
        *(("trainer.mixed_precision", name) for name in PRECISIONS),
        *(("device", name) for name in ("auto", "cpu", "cuda", "cuda:1", "mps")),
        ("name", "sts_2.b-1"),
        ("scheduler.min_lr", 1e-3),
        ("trainer.ema", 0.999),
    ],
)
def test_a_right_value_passes(key: str, value: Any) -> None:
    with_value(key, value).validate()


def test_both_numbers_stand_in_a_message_about_two_settings() -> None:
    cfg = RunConfig(optimizer=OptimizerConfig(lr=0.01), scheduler=SchedulerConfig(min_lr=0.1))
    with pytest.raises(ConfigError, match=r"scheduler\.min_lr=0\.1 .* at most optimizer\.lr=0\.01"):
        cfg.validate()


def test_sections_of_a_subclass_are_validated_too() -> None:
    @dataclasses.dataclass
    class Section:
        dim: int = 3

        def validate(self) -> None:
            check(self.dim % 2 == 0, "model.dim", self.dim, "an even number")

    @dataclasses.dataclass
    class Family(RunConfig):
        model: Section = dataclasses.field(default_factory=Section)

    with pytest.raises(ConfigError, match=r"model\.dim=3 is not allowed: an even number\."):
        Family().validate()
    Family(model=Section(4)).validate()


def test_configs_do_not_share_sections() -> None:
    assert RunConfig().trainer is not RunConfig().trainer
    assert RunConfig().trainer == TrainerConfig()


def test_check_choice_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"x='bta': no such choice\. Did you mean: beta\? All: alpha, beta\."
    ):
        check_choice("x", "bta", ["alpha", "beta"])

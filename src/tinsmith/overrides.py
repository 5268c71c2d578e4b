"""What a user types: ``key=value`` in Hydra's grammar, near misses of names, bars such as ``cosine>=0.9``.

Bare Hydra accepts ``+trainer.epoch=5`` and trains with the default; here a key that no code reads is an
error that names the right one. Imports no torch, and Hydra only when there is a value to parse.
"""

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from tinsmith.errors import ConfigError
from tinsmith.settings import Plain, Setting

# What people type from habit -> what it is called here; used only where a family has that setting.
ALIASES = {
    "optimizer.lr": "learning_rate learningrate lr lr0 eta",
    "optimizer.weight_decay": "wd decay l2",
    "optimizer.name": "optim opt",
    "scheduler.name": "sched schedule lr_scheduler",
    "scheduler.warmup": "warmup_steps warmup_ratio warmup_epochs",
    "trainer.batch_size": "batch batchsize bs per_device_train_batch_size",
    "trainer.epochs": "epoch num_epochs n_epochs num_train_epochs max_epochs",
    "trainer.max_steps": "steps num_steps iters max_iters iterations",
    "trainer.max_minutes": "minutes time max_time",
    "trainer.grad_clip": "clip max_grad_norm gradient_clip_val clip_grad",
    "trainer.mixed_precision": "amp fp16 bf16 precision dtype",
    "trainer.accumulate": "accumulation accumulation_steps gradient_accumulation_steps grad_accum",
    "trainer.early_stopping": "patience",
    "trainer.num_workers": "workers",
    "threads": "num_threads",
    "seed": "random_seed",
    "device": "gpu cuda",
    "name": "run_name",
}
_HABITS = {habit: key for key, habits in ALIASES.items() for habit in habits.split()}


def nearest(word: str, keys: Iterable[str]) -> str | None:
    """The key that ``word`` most likely means: by habit, by its last part, by its letters; or None."""
    known = list(keys)
    lower = word.lower().replace("-", "_")
    habit = _HABITS.get(lower) or _HABITS.get(lower.rpartition(".")[2])
    if habit in known and lower.rpartition(".")[2] not in {key.rpartition(".")[2] for key in known}:
        return habit
    best = max(known, key=lambda key: _likeness(lower, key), default=None)
    return best if best and _likeness(lower, best) >= 0.6 else None


def _likeness(word: str, key: str) -> float:
    """How alike two keys are, 0 to 1: as a whole, or in the last part where the section differs."""
    whole = SequenceMatcher(None, word, key).ratio()
    section, _, leaf = word.rpartition(".")
    same = SequenceMatcher(None, leaf, key.rpartition(".")[2]).ratio()
    return max(whole, 0.9 * same if section else 0.95 * same) + 0.01 * whole


def parse_value(text: str, setting: Setting | None) -> Any:
    """The value of the override ``text`` (``key=value``) by Hydra's grammar; ``Plain`` if it stood unquoted.

    Args:
        setting: what the key names, or None for a group or a section. What the grammar cannot read stands
            for itself if the setting is a text (``data.path=a=b.txt``).

    Raises:
        ConfigError: a sweep (``a=1,2``), or a value that the grammar cannot read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    raw = text.partition("=")[2]
    try:
        override = OverridesParser.create().parse_override(f"key={raw}")
    except HydraException:
        if setting and setting.is_text and raw[:1] not in ("'", '"', "[", "{"):
            return Plain(raw)
        example = f" Example: {setting.key}={setting.example}" if setting else ""
        raise ConfigError(
            f"{text}: cannot read the value; are its quotes and brackets closed?{example}"
        ) from None
    if override.is_sweep_override():
        raise ConfigError(
            f"{text}: that is a sweep of several values, and this verb takes one.{_one_value(raw, setting)}"
        )
    value = override.value()
    if value is None or isinstance(value, (bool, int, float)):  # the setting's type reads the text
        return Plain(value if "(" in raw else raw)
    return Plain(raw) if value == raw else value


def _one_value(raw: str, setting: Setting | None) -> str:
    if setting and setting.is_text:
        return f" One text with a comma in it: \"{setting.key}='{raw}'\"."
    return f" A list: {setting.key}=[{raw}]." if setting and setting.type_name.startswith("list") else ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bar that a metric has to reach: ``cosine>=0.9``."""

    metric: str
    sign: str
    bound: float

    def holds(self, value: float) -> bool:
        """Whether ``value`` reaches the bar. NaN reaches none."""
        compare = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}[self.sign]
        return bool(compare(value, self.bound))

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"


def parse_requirement(text: str) -> Requirement:
    """Read ``cosine>=0.9``. Raises ``ConfigError`` if it is not of that form."""
    match = re.fullmatch(r"\s*([\w@./-]+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*", text)
    try:
        if match:
            return Requirement(match[1], match[2], float(match[3]))
    except ValueError:
        pass
    raise ConfigError(f"--require '{text}' is not a bar. Write metric, sign, number: \"cosine>=0.9\".")

"""Steps that torch compiled: as exact as others, and taken only where they pay."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import same, weights
from torch import nn
from torch.utils.data import TensorDataset

from tinsmith import Trainer, get_optimizer, get_scheduler
from tinsmith.engine import budget, compiled
from tinsmith.engine.compiled import Compiled
from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.engine.data import Loader
from tinsmith.errors import ConfigError

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)


class Noisy(Task):
    """A regression with dropout; counts what Python sees of its steps."""

    def __init__(self, by_step: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.by_step = by_step

    def forward(self, batch: Any, ctx: Context) -> StepOutput:
        x, y = batch
        loss = ((self.model(x) - y) ** 2).mean()
        return StepOutput(loss * (1 + 1 / (1 + ctx.step)) if self.by_step else loss, len(x))

    def evaluate(self, batches: Any) -> dict[str, float]:
        losses = [float(self(batch, Context()).loss) for batch in batches]
        return {"loss": sum(losses) / len(losses)}


def loader(rows: int = 60, batch: int = 6) -> Loader:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    return Loader(TensorDataset(x, x @ torch.tensor([[1.0], [-2.0], [0.5]])), batch, shuffle=True)


def make(folder: Path | None = None, task: Task | None = None, **options: Any) -> Trainer:
    task = task or Noisy()
    optimizer = get_optimizer(task, "adamw", lr=1e-2)
    options = {"device": "cpu", "progress": False, **options}
    return Trainer(task, optimizer, get_scheduler(optimizer, "linear"), checkpoint_dir=folder, **options)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without a compiler: the graphs are taken, and run as they are."""
    compile = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda task, **kw: compile(task, backend="eager", **kw))


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated:DeprecationWarning")  # torch's own import
def test_a_compiled_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", compile="on", max_steps=30)
    whole.fit(loader(62), loader())  # the last batch of an epoch has two rows: a second shape
    begun = make(tmp_path / "parts", compile="on", max_steps=30, log_every=1)
    begun.add_log_hook(lambda metrics, step, prefix: begun.stop() if step == 21 else None)
    begun.fit(loader(62), loader())
    assert begun.state.step == 21
    rest = make(tmp_path / "parts", compile="on", max_steps=30)
    torch._dynamo.reset()  # as a new process: the short batch comes first now
    rest.fit(loader(62), loader(), resume=True)
    assert rest.state.step == 30
    assert same(weights(whole), weights(rest))
    assert isinstance(rest.parts.call, Compiled)


@pytest.mark.usefixtures("traced")
def test_compiled_steps_are_the_task_s_own() -> None:
    plain = make(max_steps=12)
    plain.fit(loader(), loader())
    other = make(max_steps=12, compile="on")
    other.fit(loader(), loader())
    assert same(weights(plain), weights(other))


@pytest.mark.usefixtures("traced")
def test_too_many_shapes_and_steps_that_go_by_their_number_are_refused() -> None:
    many = [(torch.randn(rows, 3), torch.randn(rows, 1)) for rows in range(2, 14)]
    for trainer, batches in (
        (make(compile="on"), many),
        (make(task=Noisy(by_step=True), compile="on"), loader()),
    ):
        with pytest.raises(ConfigError, match=r"changes too often.*trainer\.compile=off"):
            trainer.fit(batches)


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no such program: g++")

    compile = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda task, **kw: compile(task, backend=fails, **kw))
    with pytest.raises(ConfigError, match=r"no such program: g\+\+.*C\+\+ compiler.*trainer\.compile=off"):
        make(compile="on").fit(loader())


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("minutes", "seconds", "by_step", "expected"),
    [(20, 0.7, False, True), (20, 0.99, False, False), (5, 0.7, False, False), (20, 0.7, True, False)],
)
def test_auto_compiles_where_it_is_faster(
    minutes: float,
    seconds: float,
    by_step: bool,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time_steps = budget._time_steps

    def timed(trainer: Trainer, batches: Any) -> float:
        time_steps(trainer, batches)
        return 120 * (seconds if isinstance(trainer.parts.call, Compiled) else 1.0)

    monkeypatch.setattr(budget, "_time_steps", timed)
    monkeypatch.setattr(budget, "_TIMED_SECONDS", 0.0)
    monkeypatch.setattr(budget, "revise", lambda *_: None)
    trainer = make(tmp_path, Noisy(by_step), compile="auto", max_minutes=minutes)
    trainer.fit(loader(), loader())
    assert trainer.state.compiled is isinstance(trainer.parts.call, Compiled) is expected
    assert trainer.state.step == int((60 * minutes * 0.98 - 1) / (120 * (seconds if expected else 1)))
    again = make(tmp_path, Noisy(by_step), compile="auto", max_minutes=minutes)
    again.fit(loader(), loader(), resume=True)
    assert isinstance(again.parts.call, Compiled) is expected


def test_a_setting_that_is_not_one() -> None:
    with pytest.raises(ConfigError, match=r"All: off, on, auto\."):
        make(compile="yes")

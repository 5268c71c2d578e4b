"""What every family has to hold, over the table of families. A new family is a row in ``tiny.py``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families.tiny import TINY, Built, build, folder, name
from torch import Tensor

from tinsmith.engine.contract import Context
from tinsmith.engine.data import Loader, to_device
from tinsmith.families import FAMILIES

__all__ = ["folder", "name"]  # fixtures

FILES = (
    "__init__.py",
    "config.py",
    "data.py",
    "model.py",
    "task.py",
    "predict.py",
    "README.md",
    "conf/preset",
)


@pytest.fixture
def built(name: str, folder: Path) -> Built:
    return build(name, folder)


def first_batch(built: Built) -> Any:
    return next(iter(built.data.train))


def weights(task: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in task.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_files_have_the_names_of_all_families(name: str) -> None:
    module = FAMILIES[name].replace(".", "/")
    root = Path(__file__).parents[2] / "src" / module
    assert [file for file in FILES if not (root / file).exists()] == []
    assert list((root / "conf" / "preset").glob("demo.yaml"))


def test_loss_is_finite_weighted_and_what_theory_says(name: str, built: Built) -> None:
    batch = first_batch(built)
    out = built.task(batch, Context())
    assert torch.isfinite(out.loss)
    assert out.loss.ndim == 0
    assert float(out.weight) > 0
    assert all(torch.isfinite(value) for value in out.metrics.values())
    with torch.no_grad():
        assert out.loss.item() == pytest.approx(TINY[name].first_loss(built.task, batch), rel=1e-4)


def test_gradient_reaches_every_parameter(built: Built, folder: Path) -> None:
    trainer = built.trainer(folder / "gradient", max_steps=3)  # what starts at zero has let go by then
    trainer.fit(built.data.train)
    for batch in built.data.train:  # not each batch is of use to each part
        built.task(batch, Context(3, 3)).loss.backward()
    without = [
        key
        for key, parameter in built.task.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.to_dense().any())
    ]
    assert without == []


def test_overfits_eight_samples(name: str, built: Built, folder: Path) -> None:
    metric, bar = TINY[name].overfits
    batch = built.data.train.dataset.batch(torch.arange(8))
    trainer = built.trainer(folder / "overfit", max_steps=120, eval_every=120)
    trainer.fit([batch], [batch])
    assert trainer.metrics[metric] >= bar


def test_resume_inside_an_epoch_is_bitwise(name: str, folder: Path, tmp_path: Path) -> None:
    def fit(steps: int, checkpoints: Path, load: bool = False) -> dict[str, Tensor]:
        built = build(name, folder)
        trainer = built.trainer(checkpoints, max_steps=12, ema=0.9, eval_every=5)
        if load:
            torch.manual_seed(99)  # whatever a new process starts with
            trainer.load_checkpoint(checkpoints)
            assert trainer.state.step == steps
        else:
            trainer.add_log_hook(lambda metrics, step, prefix: trainer.stop() if step == steps else None)
        trainer.fit(built.data.train, built.data.valid)
        assert trainer.parts.ema is not None
        return {
            **weights(built.task),
            **{"ema." + k: v for k, v in trainer.parts.ema.state_dict()["shadow"].items()},
        }

    per_epoch = len(build(name, folder).data.train)
    assert per_epoch > 5
    whole = fit(12, tmp_path / "whole")
    for steps in (5, per_epoch):
        stopped = fit(steps, tmp_path / str(steps))
        assert not same(stopped, whole)
        assert same(fit(steps, tmp_path / str(steps), load=True), whole)


def test_same_seed_same_weights(name: str, folder: Path, tmp_path: Path) -> None:
    def train(seed: int) -> dict[str, Tensor]:
        built = build(name, folder, f"seed={seed}")
        built.trainer(tmp_path / f"{seed}", max_steps=3).fit(built.data.train)
        return weights(built.task)

    first = train(3)
    assert same(first, train(3))
    assert not same(first, train(4))


def test_saved_model_gives_equal_outputs(name: str, built: Built, folder: Path, tmp_path: Path) -> None:
    built.trainer(folder / "saved", max_steps=3).fit(built.data.train)
    built.family.save_model(built.cfg, built.task, built.data, tmp_path / "model")
    one, two = (built.family.predictor.load(tmp_path / "model") for _ in range(2))
    inputs = TINY[name].inputs
    assert one(inputs) == two(inputs)
    assert len(one(inputs)) == len(inputs)
    json.dumps(one(inputs), allow_nan=False)
    rows = built.family.table(one, built.data, "valid")
    assert len(rows) >= 2  # the model and what it has to beat
    expected = built.trainer(folder / "saved").eval_epoch(built.data.valid)
    assert rows[0][built.task.monitor[0]] == pytest.approx(expected[built.task.monitor[0]], abs=1e-4)


def test_a_row_alone_equals_the_row_in_a_batch(name: str, built: Built, folder: Path, tmp_path: Path) -> None:
    built.trainer(folder / "alone", max_steps=3).fit(built.data.train)
    built.family.save_model(built.cfg, built.task, built.data, tmp_path / "model")
    predictor = built.family.predictor.load(tmp_path / "model")
    together = predictor(TINY[name].inputs)
    for item, answer in zip(TINY[name].inputs, together, strict=True):
        assert near(predictor([item])[0], answer)


def near(a: Any, b: Any) -> bool:
    """Equal, but for the last bits of numbers."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(near, a, b))
    return bool(a == pytest.approx(b, abs=2e-6)) if isinstance(a, float) else bool(a == b)


def test_evaluation_does_not_depend_on_the_batch_size(built: Built, folder: Path) -> None:
    trainer = built.trainer(folder / "batches")
    dataset = built.data.valid.dataset
    lengths = getattr(dataset, "lengths", None)
    values = [trainer.eval_epoch(Loader(dataset, size, lengths=lengths)) for size in (1, 5, 16)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert values[0] == pytest.approx(values[2], abs=1e-5)


def test_predictor_runs_without_the_trainer(name: str, built: Built, tmp_path: Path) -> None:
    built.family.save_model(built.cfg, built.task, built.data, tmp_path / "model")
    module = built.family.predictor.__module__
    code = f"""
import json, sys, importlib
kind = importlib.import_module({module!r}).{built.family.predictor.__name__}
predictor = kind.load({str(tmp_path / "model")!r})
answers = predictor(json.loads({json.dumps(json.dumps(TINY[name].inputs))}))
print(len(answers), [m for m in sys.modules if m in ("tinsmith.engine.trainer", "{FAMILIES[name]}.task")])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.split("\n")[-2] == f"{len(TINY[name].inputs)} []", out.stderr


def test_batches_move_to_a_device_whole(built: Built) -> None:
    moved = to_device(first_batch(built), torch.device("meta"))
    tensors = [value for value in moved.values() if isinstance(value, Tensor)]
    assert tensors
    assert all(value.device.type == "meta" for value in tensors)

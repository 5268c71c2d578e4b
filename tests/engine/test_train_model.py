import pytest
import torch
from torch import Tensor, nn

from tinsmith import train_model

Batches = list[tuple[Tensor, Tensor]]


def classes(count: int = 8, seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.randn(16, 4, generator=generator) for _ in range(count)]
    return [(x, (x[:, 0] > 0).long()) for x in xs]


def test_classification_is_seen_from_the_targets() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    history = train_model(model, classes(), classes(2, seed=1), epochs=6, learning_rate=0.05, progress=False)
    assert history["val_accuracy"][-1] > 0.9 > history["val_accuracy"][0] - 0.4
    assert len(history["train_loss"]) == len(history["val_loss"]) == 6
    assert history["val_loss"][-1] < history["val_loss"][0]


def test_regression_without_validation() -> None:
    torch.manual_seed(0)
    data = [(x, 2 * x.sum(1, keepdim=True)) for x, _ in classes()]
    history = train_model(nn.Linear(4, 1), data, epochs=30, learning_rate=0.1, device="cpu", progress=False)
    assert history["train_loss"][-1] < 0.05 < history["train_loss"][0]
    assert "val_loss" not in history
    assert "val_accuracy" not in history


def test_stops_early() -> None:
    torch.manual_seed(0)
    data = [(x, torch.randn(16, 1)) for x, _ in classes()]  # nothing to learn: validation only gets worse
    other = [(x, torch.randn(16, 1)) for x, _ in classes(seed=5)]
    history = train_model(
        nn.Linear(4, 1), data, other, epochs=60, learning_rate=0.1, early_stopping_patience=2, progress=False
    )
    assert len(history["val_loss"]) < 60


def test_goes_on_from_its_checkpoints(tmp_path: pytest.TempPathFactory) -> None:
    def run(folder: object, epochs: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        train_model(model, classes(), epochs=epochs, checkpoint_dir=folder, progress=False)  # type: ignore[arg-type]
        return model

    first = run(tmp_path / "a", 3)  # type: ignore[operator]
    again = run(tmp_path / "a", 3)  # type: ignore[operator]
    assert torch.equal(first.weight, again.weight)

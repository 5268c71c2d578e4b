"""Pictures of a training history."""

import sys

import pytest

from tinsmith.engine.history import plot_learning_rate, plot_training_history
from tinsmith.errors import ConfigError, MissingExtraError

HISTORY = {
    "epoch": [1.0, 2.0, 3.0],
    "train_loss": [3.0, 2.0, 1.0],
    "val_loss": [3.5, 2.5, 2.0],
    "val_cosine": [0.1, 0.5, 0.7],
    "val_r1": [0.2, 0.3, 0.4],
    "val_ppl": [30.0, 20.0, 10.0],
    "lr": [1e-3, 5e-4, 0.0],
    "seconds": [1.0, 1.0, 1.0],
}


def curves(axes) -> dict:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_losses_share_a_panel_and_each_metric_has_its_own(tmp_path):
    pytest.importorskip("matplotlib")
    figure = plot_training_history(HISTORY, tmp_path / "history.png")
    shown = figure.axes
    assert [axes.get_title() for axes in shown] == ["loss", "cosine", "r1", "ppl"]
    assert curves(shown[0]) == {
        "train_loss": ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]),
        "val_loss": ([1.0, 2.0, 3.0], [3.5, 2.5, 2.0]),
    }
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_the_learning_rate_is_drawn_over_the_epochs():
    pytest.importorskip("matplotlib")
    (axes,) = plot_learning_rate(HISTORY).axes
    assert curves(axes) == {"lr": ([1.0, 2.0, 3.0], [1e-3, 5e-4, 0.0])}


def test_values_without_an_epoch_each_are_counted():
    pytest.importorskip("matplotlib")
    (axes,) = plot_training_history({"epoch": [1.0, 2.0], "train_loss": [3.0, 2.0, 1.0]}).axes
    assert curves(axes)["train_loss"][0] == [1.0, 2.0, 3.0]


def test_no_pyplot_is_imported():
    pytest.importorskip("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    plot_training_history(HISTORY)
    assert ("matplotlib.pyplot" in sys.modules) == before


@pytest.mark.parametrize("plot", [plot_training_history, plot_learning_rate])
def test_an_empty_history_says_what_is_missing(plot):
    with pytest.raises(ConfigError, match=r"has no '(train_loss|lr)' to plot \(it has: epoch\)"):
        plot({"epoch": []})


def test_without_matplotlib_the_message_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinsmith\[plots\]'"):
        plot_learning_rate(HISTORY)

"""Pictures of a training history, drawn without pyplot: no global state, no display, safe in a thread."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = dict[str, list[float]]


def plot_training_history(history: History, path: str | Path | None = None) -> Figure:
    """Draw the losses in one panel and each validation metric in one of its own.

    Args:
        history: what ``Trainer.fit`` returns: lists ``train_loss``, ``val_loss``, ``val_<metric>``,
            ``epoch``.
        path: where to save the picture, if anywhere (the suffix chooses the format).

    Returns:
        The matplotlib figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: the history has no loss.
    """
    losses = [name for name in ("train_loss", "val_loss") if history.get(name)]
    if not losses:
        raise ConfigError(_nothing_to_plot("train_loss", history))
    metrics = [name for name in history if name.startswith("val_") and name != "val_loss" and history[name]]
    panels = [("loss", losses), *((name.removeprefix("val_"), [name]) for name in metrics)]
    return _draw(history, panels, path)


def plot_learning_rate(history: History, path: str | Path | None = None) -> Figure:
    """Draw the learning rate of a history. Arguments, result and errors as for the losses."""
    if not history.get("lr"):
        raise ConfigError(_nothing_to_plot("lr", history))
    return _draw(history, [("learning rate", ["lr"])], path)


def _draw(history: History, panels: list[tuple[str, list[str]]], path: str | Path | None) -> Figure:
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _figure(figsize=(4.5 * columns + 0.5, 3.2 * rows), layout="constrained")
    for place, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for name in names:
            x = _positions(history, name)
            axes.plot(x, history[name], label=name, marker="o" if len(x) < 20 else "", markersize=3)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _positions(history: History, name: str) -> list[float]:
    """The epochs of a list, or 1, 2, ... where the history has not one epoch for each value."""
    epochs = history.get("epoch", [])
    count = len(history[name])
    return epochs if len(epochs) == count else [float(n) for n in range(1, count + 1)]


def _figure(**options: Any) -> Figure:
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise missing_extra("plots", "plots") from error
    figure: Figure = module.Figure(**options)
    return figure


def _nothing_to_plot(name: str, history: History) -> str:
    return f"the history has no '{name}' to plot (it has: {', '.join(history) or 'nothing'}). Train first."

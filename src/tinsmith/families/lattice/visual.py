"""Pictures of a lattice at work, drawn without pyplot: no global state, no display, safe in a thread.

Shapes: K steps, B rows of a batch, C channels, and X, Y, Z the sides of the cube (not the embedding size).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.history import History, plot_training_history
from tinsmith.engine.loggers import read_metrics
from tinsmith.errors import ConfigError, DataError, missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]

_NOT_CURVES = ("step", "split", "epoch", "seconds", "time", "lr")  # in the rows of a log


class DataVisualizer:
    """Draws cubes, their slices over the steps, and training curves; each method returns a matplotlib figure.

    A cell is shown by its activity, the root mean square over its channels. ``states`` are those of
    ``Lattice.states``: [K + 1, B, C, X, Y, Z], the first before any step.

    Args:
        folder: where pictures are saved, as ``<name>.png``; None: nowhere.
        axis: the side of the cube along which the signal goes, 0 to 2: slices are taken across it.

    Raises:
        ConfigError: an axis that a cube does not have.
    """

    def __init__(self, folder: str | Path | None = None, axis: int = 0) -> None:
        if axis not in (0, 1, 2):
            raise ConfigError(f"axis={axis} is not allowed: 0, 1 or 2, a side of the cube.")
        self.folder = None if folder is None else Path(folder)
        self.axis = axis

    def cube(self, states: Tensor, row: int = 0, step: int = -1, name: str = "cube") -> Figure:
        """One state as a cloud of cells in space: the more active, the larger and brighter.

        Args:
            states: [K + 1, B, C, X, Y, Z].
            row: of the batch.
            step: 0 is the start, -1 the end.
            name: of the file.
        """
        activity = _activity(states, row)
        _check_index("step", step, len(activity))
        cells, top = activity[step], float(activity.max()) or 1.0
        x, y, z = (axis.ravel() for axis in np.indices(cells.shape))
        figure = _figure(figsize=(5.5, 5), layout="constrained")
        axes = figure.add_subplot(projection="3d")
        share = cells.ravel() / top
        shown = axes.scatter(x, y, z, c=cells.ravel(), s=4 + 150 * share, vmin=0, vmax=top, alpha=0.7)
        axes.set(title=f"step {step % len(activity)}", xlabel="x", ylabel="y", zlabel="z")
        figure.colorbar(shown, ax=axes, shrink=0.7, label="activity")
        return self._saved(figure, name)

    def slices(
        self, states: Tensor, row: int = 0, steps: Sequence[int] | None = None, name: str = "slices"
    ) -> Figure:
        """The slices of the cube, from the first face to the one opposite, a line for each step.

        Args:
            states: [K + 1, B, C, X, Y, Z].
            row: of the batch.
            steps: which to show; None: all.
            name: of the file.
        """
        activity = np.moveaxis(_activity(states, row), self.axis + 1, 1)  # [K + 1, slices, ., .]
        shown = list(range(len(activity))) if steps is None else list(steps)
        for step in shown:
            _check_index("step", step, len(activity))
        if not shown:
            raise ConfigError(f"steps={shown} is not allowed: at least one of 0 to {len(activity) - 1}.")
        count, top = activity.shape[1], float(activity.max()) or 1.0
        figure = _figure(figsize=(1.1 * count + 1.2, 1.1 * len(shown) + 0.6), layout="constrained")
        grid = figure.subplots(len(shown), count, squeeze=False)
        for line, step in zip(grid, shown, strict=True):
            for number, axes in enumerate(line):
                image = axes.imshow(activity[step, number], vmin=0, vmax=top, cmap="viridis")
                axes.set(xticks=[], yticks=[])
                if line is grid[0]:
                    axes.set_title("xyz"[self.axis] + f" = {number}", fontsize=8)
            line[0].set_ylabel(f"step {step % len(activity)}", fontsize=8)
        figure.colorbar(image, ax=grid, shrink=0.6, label="activity")
        return self._saved(figure, name)

    def curves(self, history: History | str | Path, name: str = "curves") -> Figure:
        """The losses and validation metrics.

        Args:
            history: what ``Trainer.fit`` returns, or a run folder.
            name: of the file.

        Raises:
            DataError: the folder holds no run.
            ConfigError: nothing was logged yet.
        """
        if isinstance(history, str | Path):
            history = _history(Path(history))
        return self._saved(plot_training_history(history), name)

    def _saved(self, figure: Figure, name: str) -> Figure:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.folder / f"{name}.png", dpi=150)
        return figure


def _activity(states: Tensor, row: int) -> Floats:
    """Root mean square over the channels of one row: [K + 1, X, Y, Z]."""
    if states.ndim != 6:
        raise DataError(
            f"states are {list(states.shape)}, not [K + 1, B, C, X, Y, Z]: that is what Lattice.states gives"
        )
    _check_index("row", row, states.shape[1])
    cells = states[:, row].detach().float().square().mean(1).sqrt().cpu()
    if not torch.isfinite(cells).all():
        raise DataError("a state is not finite: the model has diverged")
    activity: Floats = cells.numpy()
    return activity


def _check_index(what: str, value: int, count: int) -> None:
    if not -count <= value < count:
        raise ConfigError(f"{what}={value} is not allowed: 0 to {count - 1}.")


def _history(run: Path) -> History:
    """The curves of a run's log: a value for each validation, and the last training loss before it."""
    history: History = {}
    loss = None
    for row in read_metrics(run / "metrics.jsonl"):
        if row.get("split") == "train":
            loss = row.get("loss")
            continue
        found = {"val_" + key: value for key, value in row.items() if key not in _NOT_CURVES}
        if loss is not None:
            found["train_loss"] = loss
        for key, value in {"epoch": row.get("epoch"), **found}.items():
            if isinstance(value, int | float):
                history.setdefault(key, []).append(float(value))
    return history


def _figure(**options: Any) -> Figure:
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise missing_extra("pictures of a lattice", "plots") from error
    figure: Figure = module.Figure(**options)
    return figure

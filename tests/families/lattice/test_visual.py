"""Pictures of a lattice: what is in them, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tinsmith.errors import ConfigError, DataError, MissingExtraError
from tinsmith.families.lattice.visual import DataVisualizer


def states() -> torch.Tensor:
    """Three states of two rows: a 4x3x2 cube of five channels, dark but for one cell in each."""
    cube = torch.zeros(3, 2, 5, 4, 3, 2)
    cube[0, :, :, 0, 0, 0] = 1
    cube[1, :, :, 1, 2, 1] = -2
    cube[2, 1, :, 3, 1, 0] = 4
    return cube


def test_slices_are_those_across_the_axis_step_by_step(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = DataVisualizer(tmp_path).slices(states(), row=1)
    pictures = [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()][: 3 * 4]
    assert np.shape(pictures) == (12, 3, 2)
    assert [float(np.max(picture)) for picture in pictures] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4]
    assert pictures[5][2, 1] == 2  # the sign does not count: it is how active a cell is
    assert (tmp_path / "slices.png").read_bytes().startswith(b"\x89PNG")
    last = DataVisualizer(axis=2).slices(states(), row=1, steps=[-1])
    assert np.shape([axes.get_images()[0].get_array() for axes in last.axes[:2]]) == (2, 4, 3)
    assert last.axes[0].get_ylabel() == "step 2"


def test_a_cube_shows_every_cell(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = DataVisualizer(tmp_path / "new").cube(states(), row=1, step=1, name="middle")
    (cells,) = figure.axes[0].collections
    values = np.sort(np.asarray(cells.get_array()))
    assert values.tolist() == [0.0] * 23 + [2.0]
    assert (tmp_path / "new" / "middle.png").read_bytes().startswith(b"\x89PNG")
    assert DataVisualizer().cube(torch.zeros_like(states())).axes[0].get_title() == "step 2"


def test_curves_of_a_history_and_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = {"epoch": [1.0, 2.0], "train_loss": [2.0, 1.0], "val_cosine": [0.1, 0.2]}
    titles = [axes.get_title() for axes in DataVisualizer().curves(history).axes]
    assert titles == ["loss", "cosine"]
    rows = [
        {"step": 1, "split": "train", "epoch": 0, "loss": 3.0, "lr": 0.1},
        {"step": 2, "split": "train", "epoch": 0, "loss": 2.0, "lr": 0.1},
        {"step": 2, "split": "val", "epoch": 1, "cosine": 0.5, "seconds": 1.0, "time": 5.0},
        {"step": 4, "split": "train", "epoch": 1, "loss": 1.0, "lr": 0.1},
        {"step": 4, "split": "val", "epoch": 2, "cosine": 0.6, "seconds": 2.0, "time": 6.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    loss, cosine = DataVisualizer(tmp_path).curves(tmp_path).axes
    lines = [list(line.get_ydata()) for axes in (loss, cosine) for line in axes.get_lines()]
    assert lines == [[2, 1], [0.5, 0.6]]
    assert list(cosine.get_lines()[0].get_xdata()) == [1, 2]
    with pytest.raises(DataError, match="no metrics at"):
        DataVisualizer().curves(tmp_path / "none")


def test_mistakes_are_named() -> None:
    pytest.importorskip("matplotlib")
    draw = DataVisualizer()
    with pytest.raises(DataError, match=r"states are \[2, 5, 4, 3, 2\]"):
        draw.cube(states()[0])
    with pytest.raises(ConfigError, match="row=2 is not allowed: 0 to 1"):
        draw.slices(states(), row=2)
    with pytest.raises(ConfigError, match="step=3 is not allowed: 0 to 2"):
        draw.cube(states(), step=3)
    with pytest.raises(ConfigError, match="axis=3"):
        DataVisualizer(axis=3)
    with pytest.raises(DataError, match="not finite"):
        draw.cube(states() / 0)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"tinsmith\[plots\]"):
        DataVisualizer().cube(states())

import json
from pathlib import Path

import numpy as np
import pytest

from tinsmith.compose import compose
from tinsmith.errors import DataError
from tinsmith.families.trm import arc
from tinsmith.families.trm.data import build_data
from tinsmith.families.trm.model import IGNORE


def test_canvas_and_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        grid = rng.integers(0, 10, rng.integers(1, 7, 2))
        assert (arc.from_canvas(arc.to_canvas(grid, 6), 6) == grid).all()
    assert arc.from_canvas(np.zeros(9), 3).shape == (1, 1)  # no grid at all: something is answered


def test_versions_are_undone() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for number in range(12):
        version = arc.version(3, number)
        grid = rng.integers(0, 10, (3, 5))
        assert (version.undo(version.apply(grid)) == grid).all()
        assert version.colours[0] == 0
        assert sorted(version.colours) == list(range(10))
        seen.add((version.turn, version.colours))
    assert len(seen) == 12
    assert arc.version(3, 0) == arc.Version(0, tuple(range(10)))
    assert arc.version(3, 5) == arc.version(3, 5) != arc.version(4, 5)


def test_a_rule_holds_in_each_version() -> None:
    """What a version makes of an output is the output of what it makes of the input, for turned rules too."""
    version = arc.version(0, 3)
    grid = np.array([[1, 0, 2], [3, 0, 0]])
    turned, out = version.apply(grid), version.apply(np.rot90(grid))
    assert out.shape == turned.shape[::-1]
    assert sorted(out.ravel()) == sorted(turned.ravel())


def test_votes() -> None:
    a, b, c = np.array([[1]]), np.array([[2]]), np.array([[1, 0]])
    assert arc.vote([a, b, a, c], [0.1, 0.9, 0.2, 0.5]) == [[[1]], [[2]]]
    assert arc.vote([a, b], [0.1, 0.9]) == [[[2]], [[1]]]
    assert arc.vote([np.array([[1], [0]]), c], [0.5, 0.4]) == [
        [[1], [0]],
        [[1, 0]],
    ]  # same cells, other shape


def test_files(tmp_path: Path) -> None:
    tasks = dict(list(arc.toy_tasks().items())[:3])
    plain = {
        name: {part: [{k: g.tolist() for k, g in pair.items()} for pair in task[part]] for part in task}
        for name, task in tasks.items()
    }
    (tmp_path / "folder").mkdir()
    for name, task in plain.items():
        (tmp_path / "folder" / f"{name}.json").write_text(json.dumps(task), "utf-8")
    (tmp_path / "all.json").write_text(json.dumps(plain), "utf-8")
    lines = [json.dumps({"id": name, **task}) for name, task in plain.items()]
    (tmp_path / "all.jsonl").write_text("\n".join(lines), "utf-8")
    for path in ("folder", "all.json", "all.jsonl"):
        found = arc.read_tasks(tmp_path / path)
        assert set(found) == set(tasks)
        assert all((found[n]["train"][0]["input"] == tasks[n]["train"][0]["input"]).all() for n in tasks)
    (tmp_path / "all.jsonl").write_text(
        '{"id": "x", "train": [{"input": [[1, 2], [3]], "output": [[1]]}]}', "utf-8"
    )
    with pytest.raises(DataError, match="task x, train 0: a grid is a list of rows"):
        arc.read_tasks(tmp_path / "all.jsonl")
    (tmp_path / "all.jsonl").write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"all.jsonl:1: broken JSON"):
        arc.read_tasks(tmp_path / "all.jsonl")


def test_data_hold_out_the_tests() -> None:
    cfg = compose("trm", ["data.task=arc", "data.size=6", "data.augmentations=3", "device=cpu"]).cfg
    data = build_data(cfg)
    tasks = arc.toy_tasks()
    assert len(data.train.dataset) == 3 * sum(len(t["train"]) for t in tasks.values())
    assert len(data.valid.dataset) == len(data.test.dataset) == len(tasks)
    assert data.spec.num_outputs == 12
    assert data.spec.num_tokens == 12 + 3 * len(tasks)
    row = data.valid.dataset.batch(np_to_index([0]))
    assert row["inputs"][0, 0] == 12  # the first task, as it is
    assert row["labels"][0, 0] == IGNORE
    grid = arc.from_canvas(row["inputs"][0, 1:].numpy(), 6)
    assert (grid == next(iter(tasks.values()))["test"][0]["input"]).all()


def np_to_index(rows: list[int]):
    import torch

    return torch.tensor(rows)

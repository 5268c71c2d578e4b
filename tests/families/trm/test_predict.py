from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinsmith.compose import compose
from tinsmith.engine.seed import set_seed
from tinsmith.errors import DataError
from tinsmith.families import load_family
from tinsmith.families.trm import ModelLoader, TRMInference, sudoku
from tinsmith.families.trm.predict import is_legal

SMALL = ["device=cpu", "model.dim=16", "model.depth=1", "halt.max_steps=2", "data.train=40", "data.valid=6"]
SMALL += ["data.test=6", "trainer.batch_size=8"]


def saved(folder: Path, *words: str) -> tuple[TRMInference, Any]:
    """An untrained model of some settings, as a user loads it."""
    cfg = compose("trm", [*SMALL, *words]).cfg
    family = load_family("trm")
    data = family.build_data(cfg)
    set_seed(0)
    task = family.build_task(cfg, family.build_model(cfg, data.spec), data)
    with torch.no_grad():
        task.model.to_pred.weight.normal_()
    family.save_model(cfg, task, data, folder / "model")
    return TRMInference.load(folder), data


def test_boards_are_answered_and_checked(tmp_path: Path) -> None:
    solver, _ = saved(tmp_path)
    made = sudoku.generate(3, 4, 7, seed=3)
    answers = solver([sudoku.show(made.boards[0]), {"puzzle": made.boards[1].reshape(4, 4).tolist()}])
    for answer, board, solution in zip(answers, made.boards, made.solutions, strict=False):
        assert set(answer) == {"puzzle", "solution", "solved", "steps", "sure"}
        full = sudoku.parse(answer["solution"].replace(".", "0"), 4)
        assert (full[board > 0] == board[board > 0]).all()
        assert answer["solved"] == (full == solution).all()
    assert is_legal(made.solutions[2])
    assert not is_legal(np.roll(made.solutions[2], 1))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("." * 16, "input 0: this board has several solutions"),
        ("11" + "." * 14, "input 0: this board has no solution"),
        ("12345", "input 0: a board has 16 cells, this one has 5"),
        ("." * 15 + "7", "cell 16 holds '7'"),
        ({"board": "."}, "a text, or an object with 'puzzle', is needed"),
        (3, "a text, or an object with 'puzzle'"),
    ],
)
def test_bad_boards_have_messages(tmp_path_factory: pytest.TempPathFactory, item: Any, message: str) -> None:
    global _solver
    if _solver is None:
        _solver, _ = saved(tmp_path_factory.mktemp("bad"))
    with pytest.raises(DataError, match=message):
        _solver([item])


_solver: TRMInference | None = None


def test_mazes(tmp_path: Path) -> None:
    solver, _ = saved(
        tmp_path,
        "data.task=maze",
        "data.size=5",
        "model.core=relation",
        "data.train=8",
        "data.valid=1",
        "data.test=0",
    )
    lines = ["#####", "#S  #", "# ###", "#  G#", "#####"]
    one, two = solver([{"maze": lines}, "/".join(lines)])
    assert one == two
    assert len(one["maze"]) == 5
    assert isinstance(one["solved"], bool)
    with pytest.raises(DataError, match=r"input 0: .*no way"):
        solver(["#####/#S###/#####/###G#/#####"])


def test_arc_votes(tmp_path: Path) -> None:
    solver, _ = saved(tmp_path, "data.task=arc", "data.size=6", "data.augmentations=2")
    (answer,) = solver([{"id": "mirror", "input": [[1, 2], [3, 4]]}])
    assert answer["id"] == "mirror"
    assert 1 <= len(answer["attempts"]) <= 2
    with pytest.raises(DataError, match="'id', a task of the training"):
        solver([{"id": "other", "input": [[1]]}])
    with pytest.raises(DataError, match="the model's largest is 6"):
        solver([{"id": "mirror", "input": [[1] * 7]}])


def test_code_fills_the_gap(tmp_path: Path) -> None:
    solver, _ = saved(tmp_path, "data.task=code", "data.seq_len=64", "data.span=5")
    (answer,) = solver([{"code": "def f(x):\n    return ___ + 1", "context": "adds one"}])
    assert answer["code"] == f"def f(x):\n    return {answer['span']} + 1"
    with pytest.raises(DataError, match="one gap of three or more underscores"):
        solver(["x = 1"])
    with pytest.raises(DataError, match="the model reads 64"):
        solver(["y" * 80 + "___"])


def test_code_is_read_as_in_training(tmp_path: Path) -> None:
    solver, data = saved(tmp_path, "data.task=code", "data.seq_len=160", "data.span=5")
    rows, compared = data.train.dataset.samples.inputs, 0
    for row, snippet in zip(rows, data.artifacts["snippets"]["train"], strict=True):
        code = snippet["code"]
        if "_" not in code[9:16] and len(code) < 100:
            asked, start, _ = solver._code_row(
                {"code": f"{code[:10]}___{code[15:]}", "context": snippet["context"]}
            )
            expected = row.tolist()
            expected[start : start + 5] = [solver.tokenizer.mask_id] * 5
            assert asked == expected
            compared += 1
    assert compared


def test_code_with_retrieval_finds_what_it_was_trained_with(tmp_path: Path) -> None:
    solver, data = saved(tmp_path, "data.task=code", "data.seq_len=64", "retrieval.encoder=chars")
    assert solver.retriever is not None
    assert len(solver.retriever) == len(data.artifacts["snippets"]["train"])
    row, _, _ = solver._code_row({"code": "def get(x):\n    return ___", "context": ""})
    assert solver.tokenizer.decode(row).partition("<sep>")[0]


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        TRMInference.load(tmp_path)
    with pytest.raises(DataError, match="no recursive model in"):
        TRMInference.load(tmp_path / "elsewhere")


def test_the_loader_tells_what_it_loads(tmp_path: Path) -> None:
    saved(tmp_path, "model.latents=3")
    loader = ModelLoader(tmp_path)
    model = loader.load()
    assert loader.spec.task == "sudoku"
    assert loader.config.latents == model.num_latent_refinements == 3
    assert not model.training


def test_effort_can_be_changed(tmp_path: Path) -> None:
    solver, data = saved(tmp_path)
    inputs = data.valid.dataset.batch(torch.arange(4))["inputs"].numpy()
    assert solver.solve(inputs).steps == 4 * 2
    assert solver.solve(inputs, steps=5, restarts=3).steps == 4 * 5 * 3


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["depth.restarts=3"],
        ["data.task=arc", "data.size=6", "data.augmentations=2"],
        ["data.task=code", "data.seq_len=48"],
    ],
)
def test_table_has_costs_and_baselines(tmp_path: Path, words: list[str]) -> None:
    solver, data = saved(tmp_path, *words)
    family = load_family("trm")
    rows = {row["name"]: row for row in family.table(solver, data, "valid")}
    assert rows["trm"]["steps"] == 2
    assert rows["trm, steps x 4"]["steps"] == 8
    assert rows["trm, halting"]["steps"] <= 2
    assert {"constant", "by position"} <= set(rows)
    assert ("trm, 3 restarts" in rows) == ("depth.restarts=3" in words)
    if not words:
        assert rows["singles, then guesses"]["cell_accuracy"] > rows["constant"]["cell_accuracy"]
    if "data.task=arc" in words:
        assert rows["trm, votes"]["pass_at_2"] >= rows["trm, votes"]["exact"]
    shown = family.examples(solver, data)
    assert len(shown) == 3
    assert all(len(row) == 3 for table in shown for row in table["rows"])
    other = compose("trm", [*SMALL, "data.size=6", "data.clues=14"]).cfg
    with pytest.raises(DataError, match="trained for"):
        family.table(solver, family.build_data(other), "valid")

from pathlib import Path

import numpy as np
import pytest
import torch

from tinsmith.compose import compose
from tinsmith.errors import ConfigError, DataError
from tinsmith.families.trm import sudoku
from tinsmith.families.trm.data import BLANK, build_data, code_query
from tinsmith.families.trm.dataset import GridDataset, Samples, split_by_class
from tinsmith.families.trm.model import IGNORE
from tinsmith.families.trm.symmetry import SudokuSymmetry, fingerprints

SMALL = ["device=cpu", "data.train=60", "data.valid=12", "data.test=12", "trainer.batch_size=8"]


def data(*words: str):
    return build_data(compose("trm", [*SMALL, *words]).cfg)


def boards_of(loader) -> np.ndarray:
    return np.maximum(loader.dataset.samples.inputs.astype(np.int64) - BLANK, 0).astype(np.uint8)


@pytest.mark.parametrize("words", [["data.clues=7"], ["data.size=6", "data.clues=14"]])
def test_no_board_of_a_held_out_split_is_a_symmetry_of_a_training_one(words: list[str]) -> None:
    found = data(*words)
    classes = {
        split: set(fingerprints(boards_of(getattr(found, split))).tolist())
        for split in ("train", "valid", "test")
    }
    assert not classes["train"] & classes["valid"]
    assert not classes["train"] & classes["test"]
    assert not classes["valid"] & classes["test"]
    assert len(found.valid.dataset) == len(found.test.dataset) == 12


def test_batches_hold_puzzles_and_their_solutions() -> None:
    found = data("data.size=6", "data.clues=14")
    for source in (
        found.train.dataset.augmented(torch.arange(20), 1, 2),
        found.valid.dataset.batch(torch.arange(12)),
    ):
        boards = np.maximum(source["inputs"].numpy() - BLANK, 0).astype(np.uint8)
        labels = source["labels"].numpy()
        solved = sudoku.solve(boards)
        assert (solved.count == 1).all()
        assert ((labels == IGNORE) == (boards > 0)).all()
        blank = boards == 0
        assert (labels[blank] == solved.grids[blank] + BLANK).all()


def test_epochs_differ_and_repeat_and_batches_do_not_matter() -> None:
    train = data().train
    rows = torch.tensor([3, 1, 4])
    first = train.dataset.augmented(rows, 7, 0)["inputs"]
    assert torch.equal(train.dataset.augmented(rows, 7, 0)["inputs"], first)
    assert torch.equal(train.dataset.augmented(rows[1:2], 7, 0)["inputs"], first[1:2])
    assert not torch.equal(train.dataset.augmented(rows, 7, 1)["inputs"], first)
    batches = [[b["inputs"] for _, b in train.epoch(e)] for e in (0, 0, 1)]
    assert all(map(torch.equal, batches[0], batches[1]))
    assert not all(map(torch.equal, batches[0], batches[2]))
    assert all(len(b) == 8 for b in batches[0])
    plain = data("data.augment=false").train
    assert torch.equal(plain.dataset.augmented(rows, 7, 1)["inputs"], plain.dataset.batch(rows)["inputs"])


def test_hard_samples_have_low_ranks() -> None:
    found = data("data.size=6", "data.clues=14", "data.clues_to=20").train.dataset
    blanks = (boards_of(data("data.size=6", "data.clues=14", "data.clues_to=20").train) == 0).sum(1)
    ranks = found.batch(torch.arange(len(found)))["rank"].numpy()
    assert blanks[ranks.argmin()] == blanks.max()
    assert blanks[ranks.argmax()] == blanks.min()
    assert ranks.min() > 0
    assert ranks.max() == 1


def test_boards_from_a_file(tmp_path: Path) -> None:
    made = sudoku.generate(40, 4, 7, seed=5)
    path = tmp_path / "boards.txt"
    lines = [sudoku.show(board) for board in made.boards]
    path.write_text("# boards\n" + "\n".join(f"{line},comment" for line in lines), "utf-8")
    words = [f"data.path={path}", "data.train=0", "data.valid=4", "data.test=4"]
    found = data(*words)
    assert len(found.valid.dataset) == 4
    assert 20 <= len(found.train.dataset) <= 32
    path.write_text("\n".join([*lines, "." * 16]), "utf-8")
    with pytest.raises(DataError, match=r"has several solutions.*on_bad_record=skip"):
        data(*words)
    assert len(data(*words, "data.on_bad_record=skip").train.dataset) >= 20
    path.write_text("\n".join([*lines, "1" * 15]), "utf-8")
    with pytest.raises(DataError, match=r"boards.txt:41: a board has 16 cells, this one has 15"):
        data(*words)


def test_mazes() -> None:
    found = data("data.task=maze", "data.size=9", "model.core=relation")
    batch = found.train.dataset.augmented(torch.arange(10), 0, 0)
    assert batch["inputs"].shape == (10, 81)
    assert ((batch["labels"] != IGNORE) == (batch["inputs"] == 2)).all()
    assert set(batch["labels"].unique().tolist()) == {IGNORE, 2, 5}


def test_code_masks_new_spans_in_training_and_the_same_in_validation() -> None:
    found = data("data.task=code", "data.seq_len=64", "data.train=30")
    train, valid = found.train.dataset, found.valid.dataset
    a, b = (train.augmented(torch.arange(5), 0, epoch)["labels"] for epoch in (0, 1))
    assert not torch.equal(a, b)
    one = valid.batch(torch.arange(5))["labels"]
    assert torch.equal(one, valid.augmented(torch.arange(5), 0, 0)["labels"])
    assert ((one != IGNORE).sum(1) <= 8).all()
    assert ((a != IGNORE).sum(1) <= 32).all()
    assert ((a != IGNORE).sum(1) > 8).any()
    groups = {s: {x["group"] for x in found.artifacts["snippets"][s]} for s in ("train", "valid", "test")}
    assert not groups["train"] & groups["valid"]


def test_retrieval_puts_other_code_in_front_never_the_own() -> None:
    words = ["data.task=code", "data.seq_len=96", "data.train=60"]
    plain, told = data(*words), data(*words, "retrieval.encoder=chars", "retrieval.count=2")
    tokenizer = plain.artifacts["tokenizer"]
    changed = 0
    for split in ("train", "valid"):
        before, after = (getattr(d, split).dataset.samples.inputs for d in (plain, told))
        for row_before, row_after, snippet in zip(
            before, after, told.artifacts["snippets"][split], strict=True
        ):
            context = tokenizer.decode(row_after).partition("<sep>")[0]
            changed += context != tokenizer.decode(row_before).partition("<sep>")[0]
            body = snippet["code"].partition("\n")[2].strip()
            assert not body or body[:32] not in context or len(body) < 32
    assert changed > 40
    assert code_query({"context": "c", "code": "def f():\n    secret"}) == "c def f():"


def test_splits_are_whole_classes() -> None:
    classes = np.random.default_rng(0).integers(0, 30, 500)
    train, valid, test = split_by_class(classes, (50, 60), 0, 1)
    assert len(valid) == 50
    assert len(test) == 60
    parts = [set(classes[part].tolist()) for part in (train, valid, test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert len({*train.tolist(), *valid.tolist(), *test.tolist()}) == len(train) + 110
    one = split_by_class([1, 1, 1], (2, 5), 0, 0)
    assert [len(part) for part in one] == [0, 2, 0]


def test_a_symmetry_moves_inputs_and_labels_alike() -> None:
    made = sudoku.generate(10, 4, 8, seed=0)
    tokens = made.solutions + BLANK
    dataset = GridDataset(
        Samples(tokens, tokens.astype(np.int16), np.zeros(10, np.float32)), SudokuSymmetry(4, 2)
    )
    batch = dataset.augmented(torch.arange(10), 0, 3)
    assert torch.equal(batch["inputs"], batch["labels"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.size=5"], "data.size=5 is not allowed: a board of side 4, 6 or 9"),
        (["data.clues=3"], "data.clues=3 is not allowed: 4 to 16"),
        (["data.size=9", "data.clues=16"], "17 to 81"),
        (["data.clues=8", "data.clues_to=7"], "data.clues_to=7 is not allowed"),
        (["data.task=maze", "data.size=10"], "odd"),
        (["data.task=sudokus"], "Did you mean: sudoku"),
        (["model.max_recursion_depth=20"], "8 steps of 3 calls make a depth of 24"),
        (["depth.stages=[{until: 0.5}]"], "end at 1"),
        (["depth.stages=[{until: 1, latents: 5}]"], "its last stage has the depth of use"),
        (["model.core=relation", "data.task=code"], "only boards and mazes have cells"),
        (["retrieval.encoder=chars"], "for data.task=code only"),
        (["model.core=attention", "model.dim=20"], "a multiple of twice model.heads=4"),
        (["model.kernel=4"], "odd, or 0 for none"),
        (["data.spans=0"], "data.spans"),
        (["halt.explore=2"], "0 <= explore <= 1"),
        (["data.train=0"], "say how many are to be made"),
        (["curriculum=[{seq_len: 20}]"], None),
    ],
)
def test_wrong_settings_have_messages(words: list[str], message: str | None) -> None:
    if message is None:  # a stage's value is checked when the stage begins
        assert compose("trm", [*SMALL, *words]).cfg.curriculum[0].seq_len == 20
        return
    with pytest.raises(ConfigError, match=message):
        data(*words)


def test_a_stage_of_a_curriculum_is_a_board_of_so_many_cells() -> None:
    found = data("data.seq_len=36", "data.clues=14")
    assert found.spec.side == 6
    with pytest.raises(ConfigError, match=r"data.seq_len=20 is not allowed"):
        data("data.seq_len=20")

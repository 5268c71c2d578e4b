"""What a recursive model has to beat: answers that need no network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinsmith.families.trm import sudoku
from tinsmith.families.trm.data import BLANK
from tinsmith.families.trm.dataset import GridDataset
from tinsmith.families.trm.model import IGNORE, TRMSpec
from tinsmith.families.trm.tokens import SpanMasking

Rows = NDArray[np.int64]
_FITTED = 20_000  # training samples that are counted
_LONGEST = 12  # tokens in front of a gap that are looked for


def rows_of(dataset: GridDataset, limit: int | None = None) -> tuple[Rows, Rows]:
    """Inputs and labels [N, L] as evaluation sees them."""
    batch = dataset.batch(torch.arange(min(len(dataset), limit or len(dataset))))
    return batch["inputs"].numpy(), batch["labels"].numpy()


def score(answers: Rows, labels: Rows) -> dict[str, float]:
    """Share of samples with all cells right, and the mean share of cells that are."""
    counts = labels != IGNORE
    right = (answers == labels) | ~counts
    cells = ((right & counts).sum(1) / np.maximum(counts.sum(1), 1)).mean()
    return {"exact": float(right.all(1).mean()), "cell_accuracy": float(cells)}


def baselines(train: GridDataset, inputs: Rows, spec: TRMSpec) -> dict[str, Rows]:
    """Answers [N, L] by name: the most frequent token; the most frequent one of each position; for a sudoku
    what naked and hidden singles alone find, and a random candidate elsewhere; for code what follows where
    the same characters stand already."""
    _, labels = rows_of(train, _FITTED)
    counted = np.where(labels == IGNORE, -1, labels)
    everywhere = np.bincount(counted[counted >= 0], minlength=spec.num_outputs).argmax()
    by_place = np.array([_most_frequent(column, int(everywhere)) for column in counted.T])
    found: dict[str, Rows] = {
        "constant": np.full_like(inputs, everywhere),
        "by position": np.tile(by_place, (len(inputs), 1)),
    }
    if spec.task == "sudoku":
        found["singles, then guesses"] = singles((inputs - BLANK).astype(np.uint8)) + BLANK
    if isinstance(train.masking, SpanMasking):
        found["copied"] = copied(inputs, train.masking.mask_id, int(everywhere))
    return found


def _most_frequent(column: Any, default: int) -> int:
    seen = column[column >= 0]
    return int(np.bincount(seen).argmax()) if len(seen) else default


def copied(inputs: Rows, mask_id: int, default: int) -> Rows:
    """What follows the longest run of tokens in front of the gap where it stands elsewhere in the row [N, L];
    ``default`` where it stands nowhere else, or is shorter than three."""
    answers = np.full_like(inputs, default)
    for row, answer in zip(inputs, answers, strict=True):
        text = "".join(map(chr, row))  # to search it as such: the characters mean nothing
        start, size = text.find(chr(mask_id)), text.count(chr(mask_id))
        for length in range(min(start, _LONGEST), 2, -1):
            run = text[start - length : start]
            at = text.find(run, 0, start - 1)
            at = at if at >= 0 else text.find(run, start + size)
            if at >= 0:
                new = row[at + length : at + length + size]
                answer[start : start + len(new)] = new
                break
    return answers


def singles(boards: sudoku.Boards, seed: int = 0) -> Rows:
    """Boards [N, L] filled as far as naked and hidden singles go, the rest with a random candidate each."""
    lay = sudoku.layout(round(boards.shape[1] ** 0.5))
    cand = sudoku.to_bits(boards.T, lay)
    for _ in range(lay.cells):
        after, _, _ = sudoku.sweep(cand, lay)
        if np.array_equal(after, cand):
            break
        cand = after
    rng = np.random.default_rng(seed)
    bits = (cand[..., None] >> np.arange(lay.side)) & 1
    chosen = (bits * rng.random(bits.shape)).argmax(-1) + 1
    return np.asarray(chosen.T, np.int64)

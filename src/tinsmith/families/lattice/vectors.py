"""Sentence vectors that are given, in files or in memory: checked row by row, at length one.

Shapes: N rows, Z embedding size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.errors import DataError, did_you_mean
from tinsmith.text.shards import load_array

SUFFIXES = (".npy", ".safetensors")


def is_vector_file(path: str | Path) -> bool:
    """Whether a file's name says that it holds vectors, not texts."""
    return Path(path).suffix.lower() in SUFFIXES


def unit_vectors(values: Any, where: str, size: int | None = None) -> Tensor:
    """Vectors at length one, [N, Z] float32.

    Args:
        values: [N, Z] numbers: a tensor, an array or a list of lists.
        where: what they are called in a message: a file, or what they are for.
        size: the Z that they must have; None: any.

    Raises:
        DataError: another shape or size, no rows, or a row that is not finite or all zeros. Names the row.
    """
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and named below
            array = np.array(_as_numpy(values), np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: not a table of numbers: {error}; every row needs equally many") from None
    tensor = torch.from_numpy(array)
    if tensor.ndim != 2:
        raise DataError(f"{where}: the shape is {list(tensor.shape)}; vectors are [N, Z], one a row")
    if not len(tensor):
        raise DataError(f"{where}: there are no vectors in it")
    if tensor.shape[1] != (size or tensor.shape[1]) or not tensor.shape[1]:
        raise DataError(
            f"{where}: the vectors have {tensor.shape[1]} numbers, expected {size or 'at least one'}; "
            "all vectors of a run come from one teacher"
        )
    for bad, what in ((~torch.isfinite(tensor).all(1), "is not finite"), (~tensor.any(1), "is all zeros")):
        if bad.any():
            rows = bad.nonzero()[:, 0]
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            raise DataError(f"{where}: row {int(rows[0])}{more} {what}; leave it out, or compute it again")
    tensor = tensor / tensor.abs().amax(1, keepdim=True)  # squares of 1e30 or 1e-30 are no numbers any more
    return F.normalize(tensor, dim=-1)


def _as_numpy(values: Any) -> Any:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values


def load_vectors(path: str | Path, size: int | None = None) -> Tensor:
    """The vectors of a file at length one, [N, Z].

    Args:
        path: ``.npy`` of [N, Z], or ``.safetensors`` with one tensor or one named ``vectors``.
        size: the Z that they must have; None: any.

    Raises:
        DataError: no such file, or it holds something else; names the file and the row.
    """
    arrays = _arrays(Path(path))
    if len(arrays) == 1:
        return unit_vectors(next(iter(arrays.values())), str(path), size)
    return unit_vectors(_named(arrays, "vectors", path, "save them under that name"), str(path), size)


def load_vector_pairs(
    path: str | Path, question: str = "question", answer: str = "answer"
) -> tuple[Tensor, Tensor]:
    """The vectors of questions and of their answers at length one, [N, Z] each.

    Args:
        path: ``.safetensors`` with a tensor [N, Z] for each, or ``.npy`` of [N, 2, Z].
        question, answer: the names of the two tensors.

    Raises:
        DataError: no such file, a tensor is missing, or they do not belong together; names the file.
    """
    arrays = _arrays(Path(path))
    if "" in arrays:
        both = arrays[""]
        if both.ndim != 3 or both.shape[1] != 2:
            raise DataError(f"{path}: the shape is {list(both.shape)}; pairs are [N, 2, Z]: question, answer")
        pair = (both[:, 0], both[:, 1])
    else:
        hint = "set dialogue_data.{}=<name>"
        pair = (
            _named(arrays, question, path, hint.format("question")),
            _named(arrays, answer, path, hint.format("answer")),
        )
    x = unit_vectors(pair[0], f"{path}, {question}")
    y = unit_vectors(pair[1], f"{path}, {answer}", x.shape[1])
    if len(x) != len(y):
        raise DataError(f"{path}: {len(x)} questions and {len(y)} answers; row i of both is pair i")
    return x, y


def _arrays(path: Path) -> dict[str, Any]:
    """The tensors of a file by name; that of an ``.npy`` has none."""
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file.{did_you_mean(path.name, beside)}")
    if path.suffix.lower() == ".npy":
        return {"": load_array(path, "r")}
    try:
        tensors: dict[str, Any] = safetensors.torch.load_file(path)
    except Exception as error:  # a header of nonsense fails in more kinds than its own
        raise DataError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
    if not tensors:
        raise DataError(f"{path}: there are no tensors in it")
    return tensors


def _named(arrays: dict[str, Any], name: str, path: str | Path, hint: str) -> Any:
    if name not in arrays:
        has = ", ".join(f"'{key}'" for key in list(arrays)[:20])
        raise DataError(f"{path}: no tensor '{name}'; it has: {has}; {hint}")
    return arrays[name]

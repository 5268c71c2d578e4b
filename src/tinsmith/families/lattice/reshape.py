"""A vector as a box of numbers, and back.

Shapes: N numbers of a vector, A x B x C sides of the box.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.config import check, check_choice
from tinsmith.errors import DataError


class EmbeddingReshaper:
    """Vectors [..., N] to boxes [..., A, B, C] and back, without loss.

    Args:
        size: N.
        method: ``adaptive`` looks for the box nearest to a cube that holds N numbers and at most N / 16 zeros
            beside them; ``exact`` wants A B C = N.

    Attributes:
        shape: (A, B, C), the shortest side first.
        padding: zeros at the end of the box, A B C - N.
    """

    def __init__(self, size: int, method: str = "adaptive") -> None:
        check(size >= 1, "size", size, "1 or more")
        check_choice("method", method, ("adaptive", "exact"))
        self.size = size
        most = size // 16 if method == "adaptive" else 0
        self.shape = min((_best_box(size + extra) for extra in range(most + 1)), key=_elongation)
        self.padding = self.shape[0] * self.shape[1] * self.shape[2] - size

    def to_3d(self, vectors: Any) -> Tensor:
        """[..., N] -> [..., A, B, C]; what is beyond N is zero.

        Raises:
            DataError: another number of numbers.
        """
        tensor = torch.as_tensor(vectors)
        if tensor.ndim < 1 or tensor.shape[-1] != self.size:
            raise DataError(f"vectors {list(tensor.shape)} do not fit: expected [..., {self.size}]")
        return F.pad(tensor, (0, self.padding)).reshape(*tensor.shape[:-1], *self.shape)

    def to_1d(self, boxes: Any) -> Tensor:
        """[..., A, B, C] -> [..., N], the inverse of ``to_3d``.

        Raises:
            DataError: a box of other sides.
        """
        tensor = torch.as_tensor(boxes)
        if tuple(tensor.shape[-3:]) != self.shape:
            raise DataError(f"boxes {list(tensor.shape)} do not fit: expected [..., {_listed(self.shape)}]")
        return tensor.flatten(-3)[..., : self.size]


def _best_box(numbers: int) -> tuple[int, int, int]:
    """The sides a <= b <= c with a b c = ``numbers`` that are nearest to one another."""
    boxes = []
    for a in range(1, round(numbers ** (1 / 3)) + 1):
        if numbers % a == 0:
            rest = numbers // a
            b = next(b for b in range(int(rest**0.5), 0, -1) if rest % b == 0)
            sides = sorted((a, b, rest // b))
            boxes.append((sides[0], sides[1], sides[2]))
    return min(boxes, key=_elongation)


def _elongation(box: tuple[int, int, int]) -> tuple[float, int]:
    """How far from a cube: the longest side over the shortest; of equals the smaller box is the better."""
    return max(box) / min(box), box[0] * box[1] * box[2]


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))

"""The gradient of a batch that several processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tinsmith.engine.accumulate import GradientAccumulator

if TYPE_CHECKING:
    from tinsmith.engine.ranks import Ranks


class Exchange:
    """Makes the gradients of a step those of the whole batch, in one collective.

    One buffer holds the gradients, which of them there are, the buffers of rank 0, and what has to be agreed
    on. The gradients of tables with ``sparse=True`` go by themselves, row by row.

    Args:
        ranks: the processes.
        task: whose saved floating-point buffers become those of rank 0.
        params: what the optimiser moves.
    """

    def __init__(self, ranks: Ranks, task: nn.Module, params: list[nn.Parameter]) -> None:
        tables = (nn.Embedding, nn.EmbeddingBag)
        sparse = {id(m.weight) for m in task.modules() if isinstance(m, tables) and m.sparse}
        self.ranks = ranks
        self.tables = [p for p in params if id(p) in sparse]
        self.params = [p for p in params if id(p) not in sparse]
        kept = set(task.state_dict())
        named = [(name, b) for name, b in task.named_buffers() if name in kept and b.is_floating_point()]
        self.buffers = [buffer for _, buffer in named]
        self.wishes = sorted(ranks.wishes)
        double = any(p.dtype == torch.float64 for p in self.params)
        device = params[0].device
        sizes = [p.numel() for p in self.params]
        rest = [b.numel() for b in self.buffers]
        self.tail = len(self.params) + 2 + ranks.size + len(self.wishes)
        self.flat = torch.zeros(
            sum(sizes) + sum(rest) + self.tail,
            dtype=torch.float64 if double else torch.float32,
            device=device,
        )
        pieces = torch.split(self.flat, [*sizes, *rest, self.tail])
        self.views = [view.view(p.shape) for view, p in zip(pieces, self.params, strict=False)]
        self.copies = [
            view.view(b.shape)
            for view, b in zip(pieces[len(sizes) : len(sizes) + len(rest)], self.buffers, strict=True)
        ]
        self.last = pieces[-1]
        self.grads = self.flat[: sum(sizes)]

    @torch.no_grad()
    def __call__(
        self, accumulator: GradientAccumulator, loss: Tensor | float, trouble: bool
    ) -> tuple[float, int | None]:
        """Finish the window of all processes.

        Args:
            accumulator: has this process's sums; its window is finished.
            loss: sum of this process's losses, each times its weight.
            trouble: whether one of them is not finite.

        Returns:
            The mean loss over all processes, and the first rank in trouble.
        """
        ranks = self.ranks
        factor, weight = accumulator.take()
        self._fill(factor, weight, loss, trouble)
        ranks.sum(self.flat)
        tail = self.last.tolist()
        count = len(self.params)
        present, total, summed = tail[:count], tail[count] or 1.0, tail[count + 1]
        bad = [rank for rank, flag in enumerate(tail[count + 2 : count + 2 + ranks.size]) if flag]
        wished = tail[count + 2 + ranks.size :]
        ranks.agreed = {name: flag > 0 for name, flag in zip(self.wishes, wished, strict=True)}
        self.grads.div_(total)
        for param, view, there in zip(self.params, self.views, present, strict=True):
            param.grad = view.to(param.dtype) if there else None
        if self.copies:
            torch._foreach_copy_(self.buffers, self.copies)
        for table in self.tables:
            self._sum_rows(table, factor, total)
        return summed / total, bad[0] if bad else None

    def _fill(
        self, factor: Tensor | float, weight: Tensor | float, loss: Tensor | float, trouble: bool
    ) -> None:
        pairs = [(v, p.grad) for v, p in zip(self.views, self.params, strict=True) if p.grad is not None]
        if len(pairs) < len(self.params):
            self.grads.zero_()
        if pairs:
            views, grads = zip(*pairs, strict=True)
            torch._foreach_copy_(views, grads)
            self.grads.mul_(factor)
        for copy, buffer in zip(self.copies, self.buffers, strict=True):
            copy.copy_(buffer) if self.ranks.first else copy.zero_()
        self.last.zero_()
        count, wishes = len(self.params), self.ranks.wishes
        present = [float(p.grad is not None) for p in self.params]
        flags = [float(trouble and rank == self.ranks.rank) for rank in range(self.ranks.size)]
        wanted = [float(wishes[name]()) for name in self.wishes]
        self.last.copy_(torch.tensor([*present, 0.0, 0.0, *flags, *wanted], dtype=self.flat.dtype))
        self.last[count], self.last[count + 1] = weight, loss

    def _sum_rows(self, table: nn.Parameter, factor: Tensor | float, total: float) -> None:
        """The rows of all processes' gradients of a table, one after another."""
        width = table.shape[1:]
        if table.grad is None:
            rows, values = torch.empty(0, dtype=torch.int64, device=table.device), table.new_empty(0, *width)
        else:
            grad = table.grad.coalesce()
            rows, values = grad.indices()[0], grad.values() * factor
        counts = torch.zeros(self.ranks.size, dtype=torch.int64, device=table.device)
        counts[self.ranks.rank] = len(rows)
        self.ranks.sum(counts)
        longest = int(counts.max())
        if not longest:
            return
        mine = values.new_zeros(longest, *width), rows.new_zeros(longest)
        mine[0][: len(rows)], mine[1][: len(rows)] = values, rows
        values, rows = (
            torch.cat([part[:n] for part, n in zip(self.ranks.stack(padded), counts.tolist(), strict=True)])
            for padded in mine
        )
        values.div_(total)
        table.grad = torch.sparse_coo_tensor(
            rows[None], values, table.shape, check_invariants=False
        ).coalesce()

"""nanoGPT's own model and setting for a CPU, from a checkout of it, in a loop with its own arithmetic."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BLOCK, BATCH = 64, 12


def load(checkout: str | None) -> Any:
    """Its module ``model``, or None (and a line that says so) without a checkout."""
    if checkout is None:
        print("the row of nanoGPT is left out: give --nanogpt PATH, a checkout of karpathy/nanoGPT")
        return None
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(checkout) / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    return module


class Run:
    """Its ``train.py --device=cpu --compile=False ... --n_layer=4 --n_head=4 --n_embd=128 --dropout=0``."""

    def __init__(self, module: Any, ids: Tensor, vocab_size: int, max_steps: int) -> None:
        torch.manual_seed(1337)
        config = module.GPTConfig(
            block_size=BLOCK, vocab_size=vocab_size, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False
        )
        self.model = module.GPT(config)
        self.optimizer = self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
        self.ids, self.max_steps, self.number = ids, max_steps, 0

    def rate(self, step: int) -> float:
        """100 steps of warm-up, a cosine to a tenth."""
        if step < 100:
            return 1e-3 * (step + 1) / 101
        share = min(1.0, (step - 100) / max(1, self.max_steps - 100))
        return 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * 9e-4

    def step(self) -> None:
        """One optimiser step on random windows."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.number)
        starts = torch.randint(len(self.ids) - BLOCK, (BATCH,))
        window = self.ids[starts[:, None] + torch.arange(BLOCK + 1)]
        _, loss = self.model(window[:, :-1], window[:, 1:].contiguous())  # as its memory map gives them
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.number += 1

    def train(self, seconds: float) -> None:
        """Steps for ``seconds``; their number, which its schedule needs, is told by the first ones."""
        start = time.perf_counter()
        while self.number < 30:
            self.step()
        self.max_steps = int(30 * seconds / (time.perf_counter() - start))
        while time.perf_counter() - start < seconds:
            self.step()

    @torch.no_grad()
    def loss(self, ids: Tensor) -> float:
        """Over all of ``ids``, in windows that do not overlap."""
        self.model.eval()
        total, count = 0.0, 0
        for first in range(0, len(ids) - 1, BLOCK * 64):
            part = ids[first : first + BLOCK * 64 + 1]
            rows = (len(part) - 1) // BLOCK
            pieces = (
                [(part[: rows * BLOCK].view(rows, BLOCK), part[1 : rows * BLOCK + 1].view(rows, BLOCK))]
                if rows
                else []
            )
            if len(part) - 1 > rows * BLOCK:
                pieces.append((part[rows * BLOCK : -1][None], part[rows * BLOCK + 1 :][None]))
            for x, y in pieces:
                _, loss = self.model(x, y)
                total, count = total + float(loss) * y.numel(), count + y.numel()
        self.model.train()
        return total / count

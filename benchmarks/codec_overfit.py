"""Can the student learn at all? 100 sentences to a training cosine of 0.95, in under a minute.

python benchmarks/codec_overfit.py
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from shown import show
from torch import Tensor

from tinsmith import Trainer
from tinsmith.compose import compose
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.data import BatchDataset, Loader
from tinsmith.engine.seed import set_seed
from tinsmith.families import load_family


class FirstRows(BatchDataset):
    """The first sentences of a data set."""

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset, self.lengths = dataset, dataset.lengths[:count]

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Tensor) -> Any:
        return self.dataset.batch(indices)


def main() -> int:
    cfg = compose("codec", ["trainer.max_steps=200", "trainer.eval_every=20", "trainer.batch_size=50"]).cfg
    family = load_family("codec")
    set_seed(cfg.seed)
    data = family.build_data(cfg)
    task = family.build_task(cfg, family.build_model(cfg, data.spec), data)
    trainer: Trainer = build_trainer(cfg, task, None)
    few = FirstRows(data.train.dataset, 100)
    rows = []
    start = time.monotonic()
    trainer.fit(Loader(few, 50, shuffle=True, lengths=few.lengths), Loader(few, 100))
    history = trainer.state.history
    for step, seconds, cosine in zip(history["step"], history["seconds"], history["val_cosine"], strict=True):
        rows.append({"step": step, "seconds": round(seconds, 1), "cosine": cosine})
    reached = next((row["seconds"] for row in rows if row["cosine"] >= 0.95), float("inf"))
    print(f"{time.monotonic() - start:.1f} s in all, {torch.get_num_threads()} threads")
    return show("codec overfit", rows, {"seconds to cosine 0.95": (reached, "<=", 60)})


if __name__ == "__main__":
    sys.exit(main())

"""tinsmith's Trainer with every promise on, with a weight average beside, or with all off that can be."""

from __future__ import annotations

from torch import nn

from engine_loops.case import EMA_DECAY, LR, WEIGHT_DECAY, Case
from tinsmith import Trainer, get_optimizer, get_scheduler
from tinsmith.engine.loggers import JsonlLogger

OFF = {"checkpoint_dir": None, "progress": False, "log_every": 10**9, "deterministic": False}


def train(case: Case, variant: str) -> None:
    optimizer = get_optimizer(case.model, "adamw", lr=LR, weight_decay=WEIGHT_DECAY)
    trainer = Trainer(
        case.model,
        optimizer,
        get_scheduler(optimizer, "cosine_warmup", total_steps=case.total),
        nn.CrossEntropyLoss(),
        task_type="classification",
        device="cpu",
        ema=EMA_DECAY if variant == "ema" else None,
        max_steps=case.total,
        **(OFF if variant == "off" else {}),
    )
    if variant != "off":
        trainer.add_log_hook(JsonlLogger("metrics.jsonl"))
    trainer.fit(case.loader())

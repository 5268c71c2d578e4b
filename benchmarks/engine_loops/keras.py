"""Keras 3 on torch: its own AdamW and loss around the same module."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported

import keras

from engine_loops.case import CLIP, LR, WEIGHT_DECAY, Case


def train(case: Case, variant: str) -> None:
    model = keras.Sequential([keras.Input((case.size.inputs,)), keras.layers.TorchModuleWrapper(case.model)])
    rate = keras.optimizers.schedules.CosineDecay(LR, case.total)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(case.loader(), epochs=case.epochs)

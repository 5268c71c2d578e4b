"""Real target and source tokens a second of training, against a padded ``nn.Transformer``; and of decoding.

    python benchmarks/seq2seq_speed.py [RUN] [--rounds 5] [--batches 6]

Training: Multi30k, 3 + 3 layers, 256 wide, 8,000 joint byte pairs, AdamW; random sentences padded to the
longest against our batches by length, taking turns in one process. Decoding: of a RUN on Multi30k (or with
``--sentences FILE`` of any other), greedy and with five beams, batch 64 against one by one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from shown import data_folder, show
from torch import Tensor, nn

from tinsmith.engine.contract import Context
from tinsmith.engine.data import Loader
from tinsmith.engine.optim import clip_grad_norm, get_optimizer
from tinsmith.families.seq2seq import Seq2SeqSpec, Transformer, Translator, train_joint_bpe_tokenizer
from tinsmith.families.seq2seq.config import ModelConfig
from tinsmith.families.seq2seq.data import PairDataset, encode_pairs
from tinsmith.families.seq2seq.task import Seq2SeqTask
from tinsmith.nn.masks import create_causal_mask, create_padding_mask, to_torch_transformer
from tinsmith.text.plain import read_lines

VOCAB, DIM, BATCH = 8000, 256, 64


class Tutorial(nn.Module):
    """``nn.Transformer`` between two tables and a linear layer, as tutorials build it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCAB, DIM), nn.Embedding(256, DIM)
        self.body = nn.Transformer(DIM, 8, 3, 3, 4 * DIM, 0.0, batch_first=True)
        self.head = nn.Linear(DIM, VOCAB)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        sides = [self.embed(x) + self.place.weight[: x.shape[1]] for x in (src, tgt)]
        padding = [to_torch_transformer(create_padding_mask(x)) for x in (src, tgt)]
        causal = to_torch_transformer(create_causal_mask(tgt.shape[1]))
        out = self.body(
            *sides,
            tgt_mask=causal,
            src_key_padding_mask=padding[0],
            tgt_key_padding_mask=padding[1],
            memory_key_padding_mask=padding[0],
        )
        logits: Tensor = self.head(out)
        return logits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sentences", type=Path, help="lines to translate; default: Multi30k's test")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, bars = training(args.rounds, args.batches)
    if args.run:
        more, more_bars = decoding(args.run, args.sentences)
        rows, bars = rows + more, bars | more_bars
    return show("seq2seq speed", rows, bars)


def training(rounds: int, batches: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Tokens a second that are not padding: source, and target to be predicted."""
    folder = data_folder() / "translation" / "multi30k"
    sides = [read_lines(folder / f"train.{side}.gz") for side in ("de", "en")]
    tokenizer = train_joint_bpe_tokenizer(*sides, VOCAB)
    data = PairDataset(*encode_pairs(tokenizer, list(zip(*sides, strict=True))))
    torch.manual_seed(0)
    own = Transformer(ModelConfig(num_heads=8, dim=DIM, mlp_dim=4 * DIM), Seq2SeqSpec(VOCAB, 128))
    plain = Transformer(
        ModelConfig(style="plain", num_heads=8, dim=DIM, mlp_dim=4 * DIM), Seq2SeqSpec(VOCAB, 128)
    )
    padded, bucketed = (
        Loader(data, BATCH, shuffle=True),
        Loader(data, BATCH, shuffle=True, lengths=data.lengths),
    )
    calls = {
        "nn.Transformer, padded": stepper(Tutorial(), padded),
        "nn.Transformer, buckets": stepper(Tutorial(), bucketed),
        "tinsmith, modern, buckets": stepper(own, bucketed),
        "tinsmith, plain, buckets": stepper(plain, bucketed),
    }
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            tokens = sum(call() for _ in range(batches))
            if turn:
                rates[name].append(tokens / (time.perf_counter() - start))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    base = middle["nn.Transformer, padded"]
    rows = [
        {"name": name, "tokens_per_sec": round(rate), "ratio": rate / base} for name, rate in middle.items()
    ]
    return rows, {"training against padded": (middle["tinsmith, modern, buckets"] / base, ">=", 1.55)}


def stepper(model: nn.Module, loader: Loader) -> Callable[[], int]:
    """A function that takes one step and returns its real tokens."""
    task = Seq2SeqTask(model, 0.1)
    optimizer = get_optimizer(task, "adamw", lr=1e-4)
    parameters = list(task.parameters())
    stream: Iterator[Any] = chain.from_iterable(loader.epoch(epoch) for epoch in range(1000))

    def step() -> int:
        _, batch = next(stream)
        out = task(batch, Context())
        out.loss.backward()
        clip_grad_norm(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return int(out.weight) + int((batch["src"] != 0).sum())

    return step


def decoding(run: str, sentences: Path | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Sentences a second, and whether the batch and the order matter."""
    path = sentences or data_folder() / "translation" / "multi30k" / "test_2016_flickr.de.gz"
    texts, user = read_lines(path), Translator.load(run)
    rows, seconds = [], {}
    for name, options in {"greedy": {}, "beam 5": {"num_beams": 5}}.items():
        user.generate(texts[:64], **options)
        start = time.perf_counter()
        together = user.generate(texts, **options)
        seconds[name] = time.perf_counter() - start
        few = texts[:200]
        alone = user.generate(few, batch_size=1, **options)
        turned = user.generate(texts[::-1], **options)[::-1]
        same = sum(a == b for a, b in zip(alone, together, strict=False)) + sum(
            a == b for a, b in zip(turned, together, strict=True)
        )
        rows.append(
            {
                "name": name,
                "sentences_per_sec": round(len(texts) / seconds[name]),
                "same": same,
                "of": len(few) + len(texts),
            }
        )
    differing = sum(row["of"] - row["same"] for row in rows)
    return rows, {
        "greedy, sentences a second": (len(texts) / seconds["greedy"], ">=", 300),
        "beam 5 against greedy, times the time": (seconds["beam 5"] / seconds["greedy"], "<=", 5),
        "answers that the batch or the order changes": (differing, "<=", 0),
    }


if __name__ == "__main__":
    sys.exit(main())

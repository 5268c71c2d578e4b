"""Cached against uncached writing, texts a second in batches, and INT8 against FP32: size, cosine, speed.

    python benchmarks/codec_writing_speed.py RUN [--threads 2]

Uncached means the whole text so far through the network for each new token. Both write exactly 32 tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shown import show
from torch import Tensor

from tinsmith.compose import compose
from tinsmith.families.codec import Codec, export
from tinsmith.families.codec.decoder import Decoder
from tinsmith.families.codec.decoding import write
from tinsmith.families.codec.predict import WRITTEN_AT_ONCE
from tinsmith.families.codec.probe import texts
from tinsmith.runs import settings_file
from tinsmith.text.decoding import vocabulary_of
from tinsmith.text.generation_config import GenerationConfig

_TOKENS = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sentences = texts(compose("codec", [], settings_file(args.run)).cfg, 512)
    codec = Codec.load(args.run)
    rows, bars = (
        writing(codec, codec.encode(sentences), args.rounds) if codec.decoder is not None else ([], {})
    )
    more, other = as_bytes(args.run, codec, sentences, args.rounds)
    return show("codec writing speed", [*rows, *more], {**bars, **other})


def writing(codec: Codec, z: Tensor, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rate of ``Codec.decode``; cached and uncached, one text, 64, and as many as it writes at once."""
    assert isinstance(codec.decoder, Decoder)
    rate = len(z) / median(lambda: codec.decode(z), rounds)
    rows = [{"name": "Codec.decode", "per_sec": round(rate)}]
    for count in (1, 64, WRITTEN_AT_ONCE):
        cached = median(partial(exactly, codec, z[:count], True), rounds)
        uncached = median(partial(exactly, codec, z[:count], False), 1)
        times = uncached / cached
        for name, took in (("cached", cached), ("uncached", uncached)):
            rows.append({"name": f"{count} at once, {name}", "per_sec": round(count / took, 1)})
    return rows, {
        f"cached against uncached at {_TOKENS} tokens, {WRITTEN_AT_ONCE} at once": (times, ">=", 10),
        "texts a second": (rate, ">=", 200),
    }


def exactly(codec: Codec, z: Tensor, use_cache: bool) -> None:
    """Write exactly 32 tokens of each vector."""
    assert codec.decoder is not None
    assert codec.writer is not None
    cfg = GenerationConfig(max_new_tokens=_TOKENS, min_new_tokens=_TOKENS, use_cache=use_cache)
    vocabulary = vocabulary_of(codec.writer, cfg, codec.writer.decode)
    answers = write(codec.decoder, z, cfg, vocabulary, [0] * len(z))
    assert all(len(several[0].tokens) == _TOKENS for several in answers)


def as_bytes(
    run: Path, codec: Codec, sentences: list[str], rounds: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """INT8 after training against FP32, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        report = export.export(run, Path(folder), "safetensors", True, sentences)
        small = Codec.load(folder)
    times: dict[str, list[float]] = {"fp32": [], "int8": []}
    for _ in range(rounds + 1):
        for name, one in (("fp32", codec), ("int8", small)):
            times[name].append(seconds(lambda one=one: one.encode(sentences)))  # type: ignore[misc]
    best = {name: statistics.median(values[1:]) for name, values in times.items()}
    rows = [{"name": f"encode, {name}", "per_sec": round(len(sentences) / s)} for name, s in best.items()]
    return rows, {
        "INT8, smallest cosine to FP32": (report["min_cosine"], ">=", 0.99),
        "INT8, share of the size": (report["of_fp32"], "<=", 0.3),
        # Bytes become floats on loading, so both compute the same products: all else is noise.
        "INT8, times the rate of FP32": (best["fp32"] / best["int8"], ">=", 1.0),
    }


def median(call: Callable[[], Any], rounds: int) -> float:
    call()
    return statistics.median(seconds(call) for _ in range(rounds))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())

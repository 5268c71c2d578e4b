"""Joint byte pairs over both sides of Multi30k: seconds to fit, megabytes a second to encode, round trips.

    python benchmarks/seq2seq_bpe.py [--rounds 3]

sentencepiece stands beside it where it is installed (it normalises, so not all of its lines come back).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shown import data_folder, show

from tinsmith.families.seq2seq import train_joint_bpe_tokenizer
from tinsmith.text.plain import read_lines

VOCAB = 8000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = data_folder() / "translation" / "multi30k"
    src, tgt = (read_lines(folder / f"train.{side}.gz") for side in ("de", "en"))
    lines = [*src, *tgt]
    size = sum(len(line.encode()) for line in lines) / 1e6
    times = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        tokenizer = train_joint_bpe_tokenizer(src, tgt, VOCAB)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    ids = tokenizer.encode_batch(lines)
    seconds = time.perf_counter() - start
    back = sum(tokenizer.decode(row) == line for row, line in zip(ids, lines, strict=True))
    rows: list[dict[str, Any]] = [
        {
            "name": "tinsmith",
            "seconds": statistics.median(times),
            "MB_per_sec": size / seconds,
            "tokens_per_line": sum(map(len, ids)) / len(lines),
            "round_trips": back,
        }
    ]
    if find_spec("sentencepiece"):
        rows.append(peer(lines, size))
    else:
        print("the row of sentencepiece is left out: it is not installed")
    bars = {
        "seconds to fit": (statistics.median(times), "<=", 3),
        "MB a second to encode": (size / seconds, ">=", 1.2),
        "lines that come back": (back, ">=", len(lines)),
    }
    return show("seq2seq bpe", rows, bars)


def peer(lines: list[str], size: float) -> dict[str, Any]:
    """sentencepiece's BPE on the same lines."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "lines.txt"
        text.write_text("\n".join(lines) + "\n", "utf-8")
        start = time.perf_counter()
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=f"{scratch}/m",
            vocab_size=VOCAB,
            model_type="bpe",
            num_threads=2,
            minloglevel=2,
        )
        fitted = time.perf_counter() - start
        model = sentencepiece.SentencePieceProcessor(model_file=f"{scratch}/m.model")
    start = time.perf_counter()
    ids = model.encode(lines)
    seconds = time.perf_counter() - start
    return {
        "name": "sentencepiece",
        "seconds": fitted,
        "MB_per_sec": size / seconds,
        "tokens_per_line": sum(map(len, ids)) / len(lines),
        "round_trips": sum(model.decode(row) == line for row, line in zip(ids, lines, strict=True)),
    }


if __name__ == "__main__":
    sys.exit(main())

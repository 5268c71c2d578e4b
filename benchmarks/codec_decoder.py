"""How well a decoder writes sentences from their teacher's vectors, after minutes of training from nothing.

    python benchmarks/codec_decoder.py --minutes 15 [--init RUN] [settings]
    python benchmarks/codec_decoder.py --run RUN              a run that is there already

Held-out sentences of the mixed data, up to 16 tokens of the teacher; BLEU of words in lower case, since the
teacher does not see the case; the re-encoded cosine is by the teacher. Beside it nearest-neighbour retrieval:
the training sentence whose teacher vector is nearest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from shown import sentence_files, show
from trained import train

from tinsmith import console, runs
from tinsmith.compose import compose
from tinsmith.families import load_family
from tinsmith.families.codec.write_rows import writing_rows

SHOWN = [
    "name",
    "bleu_16",
    "exact_16",
    "reencoded_16",
    "bleu",
    "exact",
    "reencoded",
    "diversity",
    "duplicates",
    "perplexity",
]
SHOWN += ["written_per_sec"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--run", type=Path, help="measure this run instead of training one")
    parser.add_argument("--init", help="a trained codec whose encoder is kept")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    console.configure(quiet=True)
    path = args.run or trained_decoder(args)
    cfg = compose("codec", [], runs.settings_file(path)).cfg
    family = load_family("codec")
    data = family.build_data(cfg)
    written = writing_rows(family.predictor.load(path), data, "test")
    rows = [{key: row.get(key) for key in SHOWN} for row in written]
    own, near = rows[0], next(row for row in rows if row["name"] == "nearest neighbour")
    print(f"{args.minutes:g} minutes: {path}", file=sys.stderr)
    return show("codec decoder", rows, bars(own, near))


def bars(own: dict[str, Any], near: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """The decoder's own bars, and that it is ahead of retrieval in both."""
    return {
        "BLEU, up to 16 tokens": (own["bleu_16"], ">=", 12),
        "re-encoded cosine, up to 16 tokens": (own["reencoded_16"], ">=", 0.65),
        "BLEU ahead of the nearest neighbour": (own["bleu_16"] - near["bleu_16"], ">=", 0),
        "re-encoded ahead of the nearest neighbour": (own["reencoded_16"] - near["reencoded_16"], ">=", 0),
        "texts a second": (own["written_per_sec"], ">=", 200),
    }


def trained_decoder(args: argparse.Namespace) -> Path:
    """Train a decoder for ``--minutes``; its run folder."""
    words = [
        *sentence_files(),
        "mode=decode",
        f"name=decoder-{args.minutes:g}min",
        f"trainer.max_minutes={args.minutes}",
        "trainer.eval_every=500",
    ]
    words += [f"init={args.init}"] if args.init else []
    return train("codec", [*words, *args.settings], args.runs)[1]


if __name__ == "__main__":
    sys.exit(main())

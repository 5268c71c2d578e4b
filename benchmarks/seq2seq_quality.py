"""BLEU of Multi30k, German to English, test 2016, after some minutes of training; the curve of the loss.

    python benchmarks/seq2seq_quality.py [--minutes 2 5 30] [settings of the run]

sacrebleu of cased whole texts, greedy and with five beams; without sacrebleu exact match alone, and no bars.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from shown import data_folder, show
from trained import train

from tinsmith.families.seq2seq import Translator, measure
from tinsmith.text.plain import read_lines

BARS = {2: 20, 5: 34, 30: 38}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5])
    parser.add_argument("--runs", default="runs", help="where the run folders go")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    folder = data_folder() / "translation" / "multi30k"
    files = {"": "train", "valid": "val", "test": "test_2016_flickr"}
    words = ["preset=multi30k"]
    for name, stem in files.items():
        words += [f"data.{name or 'path'}={folder}/{stem}.de.gz"]
        words += [f"data.{name + '_' if name else ''}target={folder}/{stem}.en.gz"]
    sources, references = (read_lines(folder / f"test_2016_flickr.{side}.gz") for side in ("de", "en"))
    rows: list[dict[str, Any]] = []
    bars = {}
    for minutes in args.minutes:
        budget = [f"trainer.max_minutes={minutes}", f"name=multi30k-{minutes:g}min"]
        curve, path = train("seq2seq", [*words, *budget, *args.settings], args.runs)
        for row in curve:
            rows.append(
                {
                    "minutes": minutes,
                    "step": row["step"],
                    "seconds": round(row["seconds"]),
                    "loss": row["loss"],
                    "perplexity": row["perplexity"],
                }
            )
        user = Translator.load(path)
        for beams in (1, 5):
            start = time.perf_counter()
            translations = user.generate(sources, num_beams=beams)
            seconds = time.perf_counter() - start
            scores = measure.scores(translations, references)
            rows.append(
                {
                    "minutes": minutes,
                    "beams": beams,
                    **scores,
                    "sentences_per_sec": round(len(sources) / seconds),
                }
            )
            if "bleu" in scores and beams == 1 and minutes in BARS:
                bars[f"BLEU after {minutes:g} min, greedy"] = (
                    scores["bleu"],
                    ">=",
                    float(BARS[int(minutes)]),
                )
        print(f"{minutes:g} minutes: {path}", file=sys.stderr)
    if not measure.has_sacrebleu():
        print("no bars: sacrebleu is not installed (pip install 'tinsmith[seq2seq]')")
    return show("seq2seq quality", rows, bars)


if __name__ == "__main__":
    sys.exit(main())

"""What each option of a decoder buys: the same decoder with one thing changed, after equally many steps.

    python benchmarks/codec_options.py [plain vq ctc ...] [--steps 400] [settings]

Held-out sentences of the mixed data, written greedily from their teacher's vectors; the measures are those of
codec_decoder.py. ``seconds`` are of the training, on this machine.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from shown import sentence_files, show
from trained import table_of, train

OPTIONS = {
    "plain": [],
    "vq": ["decoder.codes=64"],
    "ctc": ["decoder.kind=ctc"],
    "ssm": ["decoder.block=ssm"],
    "shared": ["decoder.shared=true"],
    "drop_path": ["decoder.drop_path=0.1"],
    "noise": ["decoder.noise=0.1"],
    "correct": ["decoder.correct=true"],
    "cycle": ["loss.cycle=0.3"],
    "contrast": ["loss.contrast=0.3"],
}
MEASURES = ["bleu_16", "exact_16", "reencoded_16", "bleu", "reencoded"]
MEASURES += ["perplexity", "diversity", "duplicates"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("words", nargs="*", help="names of options (none: all), and settings")
    args = parser.parse_intermixed_args()
    settings = [word for word in args.words if "=" in word]
    names = [word for word in args.words if "=" not in word] or list(OPTIONS)
    unknown = sorted(set(names) - set(OPTIONS))
    if unknown:
        parser.error(f"no such option: {', '.join(unknown)}. There are {', '.join(OPTIONS)}.")
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += trained(name, [*OPTIONS[name], *settings], args)
        print(rows[-1], file=sys.stderr, flush=True)
    return show("codec options", rows, {})


def trained(name: str, settings: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train a decoder with the settings; the row of what it writes, and of its second pass if it has one."""
    words = [
        *sentence_files(),
        "mode=decode",
        f"name=option-{name}",
        f"trainer.max_steps={args.steps}",
        f"trainer.eval_every={args.steps}",
    ]
    curve, path = train("codec", [*words, *settings], args.runs)
    table = table_of(path)
    first = {"option": name, "seconds": round(curve[-1]["seconds"]), **_measures(table[0])}
    twice = [row for row in table if row["name"] == "written twice"]
    return [first, *({"option": f"{name}, second pass", **_measures(row)} for row in twice)]


def _measures(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in MEASURES}


if __name__ == "__main__":
    sys.exit(main())

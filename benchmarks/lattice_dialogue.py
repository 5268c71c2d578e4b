"""Does the lattice find the right answer more often than the question's own vector, ridge and a plain MLP do?

    python benchmarks/lattice_dialogue.py [--pairs 60000] [--epochs 20] [--mixed]

60,000 pairs of a user's turn and the system's reply; 5,000 held-out pairs of services unseen in training. The
baselines are fitted in the same run on the same pairs. ``--mixed`` also trains an autoencoder alone and both
modes in one model, on the same rows, and shows what the one model keeps of each. Further words are settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lattice_autoencoder import train
from shown import data_folder, show

from tinsmith import console

KEEPS = 0.95  # of what each mode reaches alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60_000)
    parser.add_argument("--samples", type=int, default=10_000, help="sentences of the autoencoder rows")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--runs", default="runs", help="where the run folders go")
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    folder = data_folder()
    console.configure(quiet=True)
    common = [f"trainer.epochs={args.epochs}", f"dialogue_data.max_pairs={args.pairs}", *args.settings]
    rows, minutes, _ = train("dialogue", ["mode=dialogue", *pair_files(folder), *common], args.runs)
    rows[0]["minutes"] = round(minutes, 1)
    accuracy = {row["name"]: row["accuracy_1_of_100"] for row in rows}
    bars: dict[str, tuple[float, str, float]] = {"relevance": (rows[0]["relevance"], ">=", 0.85)}
    for name in ("identity", "ridge", "mlp"):
        bars[f"1-of-100 above {name}"] = (round(accuracy["lattice"] - accuracy[name], 5), ">=", 1e-4)
    if args.mixed:
        more, kept = mixed(folder, args.samples, common, args.runs)
        rows += more
        bars |= kept
    return show("lattice dialogue", rows, bars)


def pair_files(folder: Path) -> list[str]:
    pairs = folder / "dialogue"
    return [
        f"dialogue_data.source_file={pairs}/sgd_train.jsonl.gz",
        f"data.valid={pairs}/sgd_valid.jsonl.gz",
        f"data.test={pairs}/sgd_test.jsonl.gz",
    ]


def mixed(
    folder: Path, samples: int, common: list[str], root: str
) -> tuple[list[dict[str, Any]], dict[str, tuple[float, str, float]]]:
    """The lattice's rows of each mode alone and of both in one model, on the same rows, and the bars on them.

    In mixed mode the held-out pairs are split off the training file: the dialogue run that it is compared
    with does the same.
    """
    sentences = [
        "data.source=file",
        f"data.path={folder}/sentences/mixed_train.jsonl.gz",
        f"data.valid={folder}/sentences/mixed_valid.jsonl.gz",
        f"data.test={folder}/sentences/mixed_test.jsonl.gz",
        f"data.max_samples={samples}",
    ]
    pairs = pair_files(folder)[:1]
    settings = {"autoencoder": sentences, "dialogue": pairs, "mixed": [*sentences, *pairs]}
    rows = []
    for mode, words in settings.items():
        table, minutes, _ = train(f"alone-{mode}", [f"mode={mode}", *words, *common], root)
        rows.append({**table[0], "name": f"lattice, {mode}", "minutes": round(minutes, 1)})
    alone = {"autoencoder_cosine": rows[0]["cosine"]}
    alone["dialogue_accuracy_1_of_100"] = rows[1]["accuracy_1_of_100"]
    return rows, {
        f"mixed keeps of {name}": (round(rows[2][name] / value, 4), ">=", KEEPS)
        for name, value in alone.items()
    }


if __name__ == "__main__":
    sys.exit(main())

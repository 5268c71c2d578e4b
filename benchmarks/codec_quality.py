"""How near the student comes to its teacher in a given time: the curve of cosine against seconds and domain.

    python benchmarks/codec_quality.py --minutes 1 3 8        two cores, the bars
    python benchmarks/codec_quality.py --minutes 60 --more-data preset=deep

Teacher vectors are computed first and kept; the minutes are those of training (``trainer.max_minutes``),
evaluations included. Further words are settings of the run. ``--more-data`` adds to the training split, and
to nothing else, other English sentences of the same data folder and stretches of its longer sentences; what
a held-out split holds is left out. ``--sentences FILE`` (JSON lines with ``text`` and ``domain``) adds those
of a file of your own: any that shares six words in a row with a held-out sentence is left out.
``--twice DOMAIN`` has a domain's sentences there twice: all count a quarter, however few sentences they have.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shown import data_folder, show

from tinsmith import console, run, runs
from tinsmith.compose import compose
from tinsmith.engine.loggers import read_metrics

_SHOWN = ("cosine", "recall", "neighbours")
BARS = {1: ("cosine", 0.845), 3: ("cosine", 0.86), 8: ("cosine", 0.875), 60: ("cosine", 0.90)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 8])
    parser.add_argument("--runs", default="runs", help="where the run folders go")
    parser.add_argument("--more-data", action="store_true")
    parser.add_argument("--sentences", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--twice", action="append", default=[], metavar="DOMAIN")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    folder = data_folder() / "sentences"
    console.configure(quiet=True)
    with tempfile.TemporaryDirectory() as scratch:
        train_file = folder / "mixed_train.jsonl.gz"
        if args.more_data or args.sentences:
            train_file = Path(scratch) / "more_train.jsonl"
            more_sentences(folder, args.sentences, args.twice, train_file)
        return measure(args, folder, train_file)


def measure(args: argparse.Namespace, folder: Path, train_file: Path) -> int:
    """Train once for each of the given times, and show the curves and the bars."""
    rows: list[dict[str, Any]] = []
    bars = {}
    for minutes in args.minutes:
        curve, path = train(folder, train_file, minutes, args.runs, args.settings)
        rows += curve
        last = curve[-1]
        if minutes in BARS:
            name, bar = BARS[minutes]
            bars[f"{name} after {minutes:g} min"] = (last[name], ">=", bar)
        if minutes == 8:
            bars["cosine_dialogue after 8 min"] = (last["cosine_dialogue"], ">=", 0.90)
            bars["recall_at_1 after 8 min"] = (last["recall_at_1"], ">=", 0.995)
            bars["neighbours_at_10 after 8 min"] = (last["neighbours_at_10"], ">=", 0.75)
        print(f"{minutes:g} minutes: {path}", file=sys.stderr)
    return show("codec quality", rows, bars)


def train(
    folder: Path, train_file: Path, minutes: float, root: str, settings: list[str]
) -> tuple[list[dict[str, Any]], Path]:
    """Train for ``minutes`` of wall-clock time; the validation rows of the run."""
    files = [
        f"data.path={train_file}",
        f"data.valid={folder}/mixed_valid.jsonl.gz",
        f"data.test={folder}/mixed_test.jsonl.gz",
    ]
    words = [
        *files,
        f"name=quality-{minutes:g}min",
        f"trainer.max_minutes={minutes}",
        f"trainer.eval_every={250 if minutes <= 3 else 500}",
    ]
    resolved = compose("codec", [*words, *settings])
    run.train("codec", resolved.cfg, lambda: runs.start_run(root, resolved, sys.argv))
    path = max(Path(root).glob("codec/[0-9]*"))
    rows = []
    for row in read_metrics(path / "metrics.jsonl"):
        if row["split"] == "val":
            rows.append(
                {"minutes": minutes, "step": row["step"], "seconds": round(row["seconds"], 1)}
                | {key: value for key, value in row.items() if key.startswith(_SHOWN)}
            )
    return rows, path


def more_sentences(folder: Path, others: list[Path], twice: list[str], target: Path) -> None:
    """The training split, everyday sentences of translations, stretches of the long ones, and ``others``."""
    held_out = [
        row["text"] for split in ("valid", "test") for row in read(folder / f"mixed_{split}.jsonl.gz")
    ]
    rows = list(read(folder / "mixed_train.jsonl.gz"))
    translations = folder.parent / "translation" / "tatoeba_deu_eng.tsv.gz"
    everyday = [{"text": line.split("\t")[0], "domain": "tatoeba"} for line in lines(translations)]
    phrases = {phrase for text in held_out for phrase in six_words(text)}
    own = [
        row for file in others for row in read(file) if not any(p in phrases for p in six_words(row["text"]))
    ]
    seen, again = {bare(text) for text in held_out}, []
    with target.open("w", encoding="utf-8") as out:
        for row in [*rows, *everyday, *stretches(rows), *own]:
            if bare(row["text"]) not in seen and len(row["text"].split()) >= 3:
                seen.add(bare(row["text"]))
                line = json.dumps(row, ensure_ascii=False) + "\n"
                out.write(line)
                if row["domain"] in twice:
                    again.append(line)
        out.writelines(again)


def read(path: Path) -> Iterator[dict[str, str]]:
    return map(json.loads, lines(path))


def lines(path: Path) -> Iterator[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        yield from file


def six_words(text: str) -> Iterator[str]:
    """Every six words in a row."""
    words = bare(text).split()
    return (" ".join(words[i : i + 6]) for i in range(len(words) - 5))


def bare(text: str) -> str:
    """What makes two sentences the same: their words."""
    return " ".join(re.findall(r"\w+", text.lower()))


def stretches(rows: list[dict[str, str]], each: int = 3) -> Iterator[dict[str, str]]:
    """Runs of words, at least five, out of the sentences of twelve words or more that are not dialogue."""
    rng = random.Random(0)
    for row in rows:
        words = row["text"].split()
        if row["domain"] == "dialogue" or len(words) < 12:
            continue
        for _ in range(each):
            length = rng.randint(5, len(words) - 2)
            start = rng.randint(0, len(words) - length)
            yield {"text": " ".join(words[start : start + length]), "domain": row["domain"]}


if __name__ == "__main__":
    sys.exit(main())

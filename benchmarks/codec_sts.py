"""STS benchmark, dev split: Spearman of the cosines with people's scores, student against teacher.

python benchmarks/codec_sts.py RUN
"""

from __future__ import annotations

import csv
import sys

import torch
from shown import data_folder, show

from tinsmith.families.codec import Codec
from tinsmith.families.codec.pairs import Pairs
from tinsmith.text.teachers import EmbeddingLoader


def main() -> int:
    path = data_folder() / "sts" / "sts-dev.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) >= 7]
    score = torch.tensor([float(row[4]) for row in rows])
    pairs = Pairs([row[5] for row in rows], [row[6] for row in rows], score)
    codec, teacher = Codec.load(sys.argv[1]), EmbeddingLoader("minilm", device="cpu")
    encoders = {
        "teacher": lambda texts: torch.from_numpy(teacher.encode(texts)),
        "codec": codec.encode,
        "static tier": lambda texts: codec.encode(texts, tier="static"),
    }
    scores = {name: pairs.correlation(encode) for name, encode in encoders.items()}
    table = [
        {"name": name, "pairs": len(rows), "spearman": value, "of the teacher's": value / scores["teacher"]}
        for name, value in scores.items()
    ]
    return show(
        "codec STS", table, {"share of the teacher's": (scores["codec"] / scores["teacher"], ">=", 0.88)}
    )


if __name__ == "__main__":
    sys.exit(main())

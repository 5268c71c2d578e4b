import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tinsmith.errors import DataError
from tinsmith.families.codec.pairs import load_pairs


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def test_pairs_under_any_names(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y", "s": "4.5"}, {"a": "u", "b": "v", "s": 1}]
    pairs = load_pairs(write(tmp_path / "p.jsonl", *rows), {"text": "a", "other": "b", "score": "s"})
    assert (pairs.left, pairs.right, pairs.score.tolist()) == (["x", "u"], ["y", "v"], [4.5, 1.0])
    table = tmp_path / "p.csv"
    table.write_text("text,other,score\nx,y,3\n", "utf-8")
    assert load_pairs(str(table), {}).score.tolist() == [3.0]


def test_the_correlation_is_of_cosines_with_scores(tmp_path: Path) -> None:
    angles = {"a": 0.0, "b": 0.2, "c": 1.0, "d": 2.0}
    rows = [{"text": "a", "other": other, "score": score} for other, score in (("b", 5), ("c", 3), ("d", 1))]
    pairs = load_pairs(write(tmp_path / "p.jsonl", *rows), {})

    def encode(texts: list[str]) -> torch.Tensor:
        angle = torch.tensor([angles[text] for text in texts])
        return F.normalize(torch.stack([angle.cos(), angle.sin()], 1), dim=-1)

    assert pairs.correlation(encode) == pytest.approx(1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "other": "b"}, r"p\.jsonl:2: no field 'score'"),
        ({"text": "a", "other": "b", "score": "much"}, r"p\.jsonl:2: field 'score' is 'much', not a number"),
        ({"text": "a", "other": "b", "score": float("nan")}, r"p\.jsonl:2: .*NaN"),
        ({"text": "a", "score": 1}, r"p\.jsonl:2: no field 'other'"),
    ],
)
def test_bad_pairs_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = write(tmp_path / "p.jsonl", {"text": "a", "other": "b", "score": 1}, row)
    with pytest.raises(DataError, match=message):
        load_pairs(path, {})

"""Splits: no leak, stable under new rows, near their shares; files and their counts."""

import json
from pathlib import Path

import pytest

from tinsmith.errors import ConfigError, DataError
from tinsmith.text import corpora
from tinsmith.text.corpora import Corpus, Shares, load_corpus, split_rows
from tinsmith.text.prose import normalised


def make_rows(groups: int, per_group: int = 3) -> list[dict[str, str]]:
    return [
        {"text": f"Text {i} of group {g}.", "domain": "d", "group": f"g{g}"}
        for g in range(groups)
        for i in range(per_group)
    ]


def where(corpus: Corpus) -> dict[str, str]:
    return {row["text"]: name for name in corpora.SPLITS for row in getattr(corpus, name)}


def test_groups_stay_together_and_shares_are_near() -> None:
    corpus = split_rows(make_rows(2000), valid=0.1, test=0.2, seed=1)
    groups = [{row["group"] for row in getattr(corpus, name)} for name in corpora.SPLITS]
    assert sum(map(len, groups)) == 2000  # no group in two splits
    assert abs(len(groups[1]) - 200) < 40
    assert abs(len(groups[2]) - 400) < 55
    assert corpus.counts()["dropped"] == 0


def test_new_rows_move_no_old_ones_and_order_does_not_matter() -> None:
    rows = make_rows(300)
    before = where(split_rows(rows))
    after = where(split_rows(make_rows(400)[::-1]))
    assert {text: after[text] for text in before} == before
    assert where(split_rows(rows, seed=7)) != before


def test_no_text_is_in_two_splits() -> None:
    rows = make_rows(200, 2)
    spread = [{"text": "The  SAME text.", "group": f"g{g}"} for g in range(100)]
    spread += [{"text": "the same Text.", "group": f"g{g}"} for g in range(100, 200)]
    corpus = split_rows(rows + spread)
    held = [{normalised(row["text"]) for row in getattr(corpus, name)} for name in corpora.SPLITS]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    assert "the same text." in held[2]  # kept where it is held out most
    assert sum(corpus.counts()[name] for name in corpora.SPLITS) + corpus.dropped == len(rows + spread)
    assert corpus.dropped > 150


def test_rows_without_a_group_are_split_by_their_text() -> None:
    rows = [{"text": f"Sentence number {i}."} for i in range(500)] * 2
    corpus = split_rows(rows)
    assert corpus.dropped == 0  # both copies fall into one split
    assert min(corpus.counts()[name] for name in corpora.SPLITS) > 20


@pytest.mark.parametrize("groups", [3, 4, 7])
def test_a_few_groups_still_fill_every_split(groups: int) -> None:
    for seed in range(20):
        counts = split_rows(make_rows(groups), seed=seed).counts()
        assert min(counts["train"], counts["valid"], counts["test"]) > 0


def test_zero_shares_and_impossible_ones() -> None:
    assert split_rows(make_rows(50), valid=0, test=0).counts()["train"] == 150
    with pytest.raises(ConfigError, match=r"valid=0.5 and test=0.5 leave nothing"):
        split_rows(make_rows(5), valid=0.5, test=0.5)
    with pytest.raises(ConfigError, match=r"share of test=-0\.1"):
        split_rows(make_rows(5), test=-0.1)
    with pytest.raises(DataError, match="nothing is left of the train split"):
        split_rows([])


def write(path: Path, texts: list[str], **more: str) -> Path:
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return path


def test_one_file_is_split(tmp_path: Path) -> None:
    path = write(tmp_path / "talk.jsonl", [f"Sentence number {i}." for i in range(200)])
    corpus = load_corpus(path, shares=Shares(0.1, 0.1, 3))
    assert sum(corpus.counts().values()) == 200
    assert {row["domain"] for row in corpus.train} == {"talk"}  # the file's name
    assert where(corpus) == where(load_corpus(str(path), shares=Shares(0.1, 0.1, 3)))


def test_separate_files_are_kept_and_leaks_dropped_from_train(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ["One is one.", "Two  is TWO.", "Three."], domain="talk")
    valid = write(tmp_path / "valid.jsonl", ["two is two."])
    corpus = load_corpus(train, valid)
    assert corpus.counts() == {"train": 2, "valid": 1, "test": 0, "skipped": 0, "dropped": 1}
    assert corpus.train[0] == {"text": "One is one.", "domain": "talk"}
    with pytest.raises(DataError, match="nothing is left of the train split: every text is in valid or test"):
        load_corpus(valid, valid)
    with pytest.raises(ConfigError, match="needs a training file"):
        load_corpus(None, valid)


def test_columns_and_skipping_reach_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence,topic\none one,x\n,y\ntwo two,x\nthree three,z\n")
    corpus = load_corpus(path, columns={"text": "sentence", "group": "topic"}, on_bad="skip")
    assert corpus.skipped == 1
    assert {row["group"] for row in corpus.train + corpus.valid + corpus.test} == {"x", "z"}
    with pytest.raises(DataError, match=r"a\.csv:3: field 'sentence' is empty"):
        load_corpus(path, columns={"text": "sentence"})


def test_without_a_file_the_embedded_corpus_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(40)
    monkeypatch.setattr(corpora, "embedded_corpus", lambda cache_dir: rows)
    corpus = load_corpus(shares=Shares(0.1, 0.1))
    assert corpus.source == "embedded"
    assert sum(corpus.counts().values()) == len(rows)

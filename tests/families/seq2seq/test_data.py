import gzip
from collections import Counter
from pathlib import Path

import pytest
import torch
from families.tiny import build

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.seq2seq import train_joint_bpe_tokenizer
from tinsmith.families.seq2seq.config import DataConfig
from tinsmith.families.seq2seq.data import PairDataset
from tinsmith.families.seq2seq.pairs import load_pairs, read_pairs
from tinsmith.text.tokenizer import Tokenizer

GERMAN = ["Ein Hund läuft.", "Zwei Männer spielen Fußball.", "Über den Wolken 𝄞"] * 4
ENGLISH = ["A dog is running.", "Two men play football.", "Above the clouds"] * 4


def test_joint_pairs_of_bytes_round_trip(tmp_path: Path) -> None:
    tokenizer = train_joint_bpe_tokenizer(
        GERMAN, ENGLISH, vocab_size=400, min_frequency=2, save_dir=tmp_path / "bpe"
    )
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.vocab_size <= 400
    for text in [*GERMAN, *ENGLISH, " two  spaces ", "never seen: 漢字 \t\x07", "<pad> <eos>"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    again = Tokenizer.load(tmp_path / "bpe")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.pad_id, again.bos_id, again.eos_id, again.unk_id) == (0, 1, 2, 3)
    # words of both sides are merged
    assert len(tokenizer.encode("Hund")) == 1 or len(tokenizer.encode(" Hund")) == 1
    assert len(tokenizer.encode(" dog")) == 1


def test_batches_hold_the_pairs(tmp_path: Path) -> None:
    built = build("seq2seq", tmp_path)
    dataset, tokenizer = built.data.train.dataset, built.data.artifacts["tokenizer"]
    batch = dataset.batch(torch.tensor([5, 0, 17]))
    for row, index in enumerate((5, 0, 17)):
        source, target = built.data.artifacts["pairs"].train[index]
        src, tgt = (batch[side][row][batch[side][row] != 0].tolist() for side in ("src", "tgt"))
        assert src == [*tokenizer.encode(source), 2]
        assert tgt == [1, *tokenizer.encode(target), 2]
        assert tokenizer.decode(tgt) == target


def test_buckets_still_shuffle_and_lose_nothing(tmp_path: Path) -> None:
    loader = build("seq2seq", tmp_path).data.train

    def epoch(number: int, cursor: int = 0) -> list[str]:
        return [str(batch["tgt"].tolist()) for _, batch in loader.epoch(number, cursor)]

    def rows(number: int) -> Counter[str]:
        return Counter(
            str([i for i in row if i]) for _, batch in loader.epoch(number) for row in batch["tgt"].tolist()
        )

    assert rows(0) == rows(1)
    assert epoch(0) != epoch(1)
    assert epoch(0) == epoch(0)
    assert epoch(1, 24) == epoch(1)[3:]


def test_buckets_need_little_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(3, 40, (640, 2), generator=generator).tolist()
    dataset = PairDataset([[5] * (a - 1) + [2] for a, _ in sizes], [[1, *[5] * (b - 2), 2] for _, b in sizes])
    from tinsmith.engine.data import Loader

    def padding(loader: Loader) -> float:
        sides = [batch[side] for batch in loader for side in ("src", "tgt")]
        return sum(int((x == 0).sum()) for x in sides) / sum(x.numel() for x in sides)

    bucketed = padding(Loader(dataset, 16, shuffle=True, lengths=dataset.lengths))
    assert bucketed < 0.7 * padding(Loader(dataset, 16, shuffle=True))


def write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def test_aligned_files(tmp_path: Path) -> None:
    de, en = write(tmp_path / "a.de", GERMAN), write(tmp_path / "a.en", ENGLISH)
    assert read_pairs(de, en, DataConfig()) == list(zip(GERMAN, ENGLISH, strict=True))
    assert read_pairs(de, en, DataConfig(reverse=True)) == list(zip(ENGLISH, GERMAN, strict=True))
    (tmp_path / "b.de.gz").write_bytes(gzip.compress((tmp_path / "a.de").read_bytes()))
    assert read_pairs(str(tmp_path / "b.de.gz"), en, DataConfig()) == list(zip(GERMAN, ENGLISH, strict=True))


def test_what_looks_like_a_line_end_is_none(tmp_path: Path) -> None:
    de, en = write(tmp_path / "a.de", ["ein\u2028zwei", "drei\x85vier"]), write(tmp_path / "a.en", ["a", "b"])
    assert [source for source, _ in read_pairs(de, en, DataConfig())] == ["ein\u2028zwei", "drei\x85vier"]


def test_unaligned_files_are_refused_with_both_counts(tmp_path: Path) -> None:
    de, en = write(tmp_path / "a.de", GERMAN), write(tmp_path / "a.en", ENGLISH[:-1])
    with pytest.raises(DataError, match=r"a\.de has 12 lines and .*a\.en 11"):
        read_pairs(de, en, DataConfig())


def test_an_empty_line_is_named_or_skipped(tmp_path: Path) -> None:
    de, en = write(tmp_path / "a.de", GERMAN), write(tmp_path / "a.en", [*ENGLISH[:3], "  ", *ENGLISH[4:]])
    with pytest.raises(DataError, match=r"a\.en:4: an empty line"):
        read_pairs(de, en, DataConfig())
    pairs = read_pairs(de, en, DataConfig(on_bad_record="skip"))
    assert len(pairs) == 11
    assert (GERMAN[3], ENGLISH[3]) not in pairs[3:4]


def test_columns_without_a_file_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns=.* set data\.path"):
        load_pairs(DataConfig(columns={"source": "2", "target": "1"}), 0)


def test_columns_with_and_without_a_header(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.tsv", ["a dog\tein Hund\tCC", "a cat\teine Katze"])
    cfg = DataConfig(columns={"source": "2", "target": "1"})
    assert read_pairs(bare, "", cfg) == [("ein Hund", "a dog"), ("eine Katze", "a cat")]
    short = write(tmp_path / "short.tsv", ["a dog\tein Hund", "a cat"])
    with pytest.raises(DataError, match=r"short\.tsv:2"):
        read_pairs(short, "", cfg)
    named = write(tmp_path / "named.csv", ["de,en", "ein Hund,a dog"])
    assert read_pairs(named, "", DataConfig(columns={"source": "de", "target": "en"})) == [
        ("ein Hund", "a dog")
    ]
    with pytest.raises(DataError, match="no field 'source'; it has: 'de', 'en'"):
        read_pairs(named, "", DataConfig())


def test_sources_of_a_held_out_split_are_not_trained_on(tmp_path: Path) -> None:
    rows = [(f"source {i % 40}", f"target {i}") for i in range(80)]
    path = write(tmp_path / "a.tsv", [f"{a}\t{b}" for a, b in rows])
    valid = write(tmp_path / "v.tsv", ["Source  3\tx", "source 50\ty"])
    columns = {"source": "1", "target": "2"}
    parts = load_pairs(DataConfig(path=path, columns=columns, valid_share=0.2, test_share=0.2), 0)
    texts = [{source for source, _ in getattr(parts, name)} for name in ("train", "valid", "test")]
    assert all(texts)
    assert sum(map(len, texts)) == len(set().union(*texts))
    assert sum(len(getattr(parts, name)) for name in ("train", "valid", "test")) == 80
    parts = load_pairs(DataConfig(path=path, valid=valid, columns=columns), 0)
    assert len(parts.train) == 78
    assert len(parts.valid) == 2


def test_texts_that_are_too_long(tmp_path: Path) -> None:
    built = build("seq2seq", tmp_path)
    longest = int((built.data.train.dataset.lengths >> 20).max())
    short = build("seq2seq", tmp_path, f"data.max_len={longest + 5}")
    assert len(short.data.train.dataset) == len(built.data.train.dataset)
    with pytest.raises(DataError, match=r"pairs of the \w+ split are longer than data.max_len=3"):
        build("seq2seq", tmp_path, "data.max_len=3")

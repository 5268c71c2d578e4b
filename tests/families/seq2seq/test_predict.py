from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from families.damaged import refuses_damage
from families.tiny import build, sentences, trained

from tinsmith.errors import ConfigError, DataError, MissingExtraError
from tinsmith.families.seq2seq import Translator, measure
from tinsmith.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder."""
    return trained("seq2seq", tmp_path_factory.mktemp("seq2seq"), 80)


@pytest.fixture
def user(folder: Path) -> Translator:
    return Translator.load(folder)


TEXTS = [*sentences(7), "tin", "the red tin of the old house in it"]
KINDS: list[dict[str, Any]] = [
    {},
    {"num_beams": 4},
    {"num_beams": 3, "length_penalty": 0.6, "early_stopping": True},
    {"do_sample": True, "seed": 3, "top_k": 20},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_translations_do_not_depend_on_the_batch(user: Translator, options: dict[str, Any]) -> None:
    together = user.generate(TEXTS, **options)
    for size in (1, 4, 30):
        assert user.generate(TEXTS, batch_size=size, **options) == together
    assert user.generate(TEXTS[::-1], **options) == together[::-1]
    assert user.generate(TEXTS[0], **options) == together[0]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_without_the_cache_it_is_the_same(user: Translator, options: dict[str, Any]) -> None:
    assert user.generate(TEXTS, use_cache=False, **options) == user.generate(TEXTS, **options)


def test_special_tokens_never_come_and_the_end_once(user: Translator) -> None:
    out = user.generate(
        TEXTS, do_sample=True, temperature=4.0, seed=0, num_return_sequences=10, return_dict_in_generate=True
    )
    for row, mask in zip(out.sequences.tolist(), out.mask.tolist(), strict=True):
        ids = [i for i, kept in zip(row, mask, strict=True) if kept]
        assert not {0, 1, 3} & set(ids)
        assert max(ids) < user.spec.vocab_size
        assert ids.count(2) == (ids[-1] == 2)
        assert not any(row[len(ids) :])


def test_lengths_and_streams(user: Translator) -> None:
    out = user.generate(TEXTS[:2], max_new_tokens=3, return_dict_in_generate=True)
    assert int(out.mask.sum(1).max()) <= 3
    assert user.generate(TEXTS[:2], max_length=4, return_dict_in_generate=True).sequences.shape[1] <= 3
    assert user.generate(TEXTS[:2], max_length=1) == ["", ""]
    pieces: list[str] = []
    assert user.generate(TEXTS[0], stream=pieces.append) == "".join(pieces)
    best, scored = (
        user.generate(TEXTS[:1], num_beams=4, num_return_sequences=4)[0],
        user([{"text": TEXTS[0], "num_beams": 4, "output_scores": True}]),
    )
    assert scored[0]["translation"] == best[0]
    assert sum(scored[0]["scores"]) == pytest.approx(scored[0]["logprob"])


def test_mistakes_are_named(user: Translator) -> None:
    with pytest.raises(DataError, match="input 1: an empty text"):
        user(["tin", ""])
    with pytest.raises(DataError, match=r"input 1: a text of .* longer than the model's 128"):
        user.generate(["tin", "the red tin " * 100])
    with pytest.raises(ConfigError, match="Did you mean: num_beams"):
        user([{"text": "tin", "num_beam": 4}])
    with pytest.raises(ConfigError, match=r"temperature=0\.5 contradicts do_sample=false"):
        user.generate("tin", temperature=0.5)
    with pytest.raises(DataError, match="input 0: a text"):
        user([["tin"]])


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "generation_config.json", "tokenizer.json"]
)
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    refuses_damage(Translator.load, folder, tmp_path / "model", name, "seq2seq model")


def test_the_table_has_its_baselines(folder: Path, user: Translator) -> None:
    built = build("seq2seq", folder.parent)
    rows = built.family.table(user, built.data, "test")
    assert [row["name"] for row in rows] == ["seq2seq", "copy", "nearest", "constant"]
    assert all("exact_match" in row for row in rows)
    assert ("bleu_signature" in rows[0]) == measure.has_sacrebleu()


def test_measures_by_hand() -> None:
    assert measure.exact_match(["a b", "c"], ["a b", "d"]) == 0.5
    assert measure.most_frequent(["x", "y", "y"]) == "y"
    tokenizer = Tokenizer.fit(["the red tin", "an old house"], 300)
    train, asked = ["the red tin", "an old house"], ["an older house", "red tin"]
    ids = [tokenizer.encode_batch(texts) for texts in (asked, train)]
    assert measure.nearest_targets(*ids, ["tin", "house"], tokenizer.vocab_size) == ["house", "tin"]


@pytest.mark.skipif(find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
def test_bleu_is_sacrebleus() -> None:
    import sacrebleu

    mine, refs = ["the cat sat on the mat", "A dog ran."], ["the cat sat on a mat", "A dog ran away."]
    found = measure.bleu(mine, refs)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(mine, [refs]).score)
    assert "case:mixed" in found["bleu_signature"]
    assert "tok:13a" in found["bleu_signature"]


@pytest.mark.skipif(find_spec("sacrebleu") is not None, reason="sacrebleu is installed")
def test_without_sacrebleu_the_pip_line_is_shown() -> None:
    with pytest.raises(MissingExtraError, match=r"tinsmith\[seq2seq\]"):
        measure.bleu(["a"], ["a"])
    assert list(measure.scores(["a"], ["a"])) == ["exact_match"]

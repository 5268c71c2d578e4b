"""Use of a codec that writes, on the tiny run."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from families.codec.test_text_task import BOTH
from families.tiny import Built, build, sentences

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.codec import Codec
from tinsmith.families.codec.decoder import Decoder, shifted
from tinsmith.text.bleu import has_sacrebleu


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codec")


@pytest.fixture(scope="module")
def built(root: Path) -> Built:
    built = build("codec", root, *BOTH, "decoder.correct=true", "decoder.dim=32")
    built.trainer(root / "checkpoints", max_steps=200).fit(built.data.train)
    built.family.save_model(built.cfg, built.task, built.data, root / "model")
    return built


@pytest.fixture
def codec(root: Path, built: Built) -> Codec:
    return Codec.load(root / "model")


def test_half_precision_is_for_a_gpu(codec: Codec, root: Path) -> None:
    with pytest.raises(ConfigError, match="half=True is not allowed: false on a CPU"):
        Codec.load(root / "model", half=True)


def test_texts_in_order_whatever_the_batch(codec: Codec) -> None:
    z = codec.encode(sentences(70))
    texts = codec.decode(z)
    assert len(texts) == 70
    assert len(set(texts)) > 5
    for i in (0, 33, 69):
        assert codec.decode(z[i : i + 1]) == [texts[i]]
    assert codec.decode(3 * z[:2]) == texts[:2]  # the length does not matter
    assert codec.decode(z[:2].tolist()) == texts[:2]
    assert codec.decode(z[:0]) == []


def test_what_is_loaded_is_what_was_trained(codec: Codec, built: Built) -> None:
    batch = built.data.valid.dataset.batch(torch.arange(4))
    assert isinstance(codec.decoder, Decoder)
    built.task.eval()
    with torch.no_grad():
        theirs = built.task.model.decoder(batch["z"], shifted(batch["target"]))
        torch.testing.assert_close(codec.decoder(batch["z"], shifted(batch["target"])), theirs)


def test_draws_depend_on_the_seed_alone(codec: Codec) -> None:
    z = codec.encode(sentences(6))
    one, two, other = (codec.decode(z, temperature=2.0, seed=seed) for seed in (1, 1, 2))
    assert one == two != other
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = codec.decode(z, temperature=1.0, top_k=3, top_p=0.9)
    assert torch.equal(torch.get_rng_state(), before)
    assert codec.decode(z.flip(0), temperature=1.0, top_k=3, top_p=0.9) == drawn[::-1]
    assert codec.decode(z, top_k=3, top_p=0.9) == drawn  # one is drawn where only the likeliest are asked for
    assert codec.decode(z, top_k=1, temperature=5.0) == codec.decode(z) == codec.decode(z, temperature=0)


def test_beams_find_what_is_likelier(codec: Codec) -> None:
    z = codec.encode(sentences(12))
    assert codec.decode(z, num_beams=1) == codec.decode(z)
    assert len(codec.decode(z, num_beams=4)) == 12


def test_the_best_of_several_is_never_further_than_the_likeliest(codec: Codec) -> None:
    z = codec.encode(sentences(12))
    near = [(codec._read(codec.decode(z, best_of=n)) * z).sum(-1) for n in (1, 6)]
    assert (near[1] >= near[0] - 1e-6).all()
    assert near[1].mean() > near[0].mean()


def test_a_second_time_told_of_the_first(codec: Codec) -> None:
    z = codec.encode(sentences(12))
    assert len(codec.decode(z, correct=True)) == 12


def test_the_teachers_vectors(codec: Codec, built: Built) -> None:
    z = built.data.valid.dataset.targets(np.arange(3))
    own = codec.spec.teacher_fingerprint
    assert codec.decode_from_teacher(z, own, max_len=5) == codec.decode(z, max_len=5)
    with pytest.raises(DataError, match="vectors of another teacher"):
        codec.decode_from_teacher(z, "0" * 32)


def test_at_most_so_many_tokens(codec: Codec) -> None:
    z = codec.encode(sentences(4))
    assert codec.writer is not None
    for text in codec.decode(z, max_len=2):
        assert len(codec.writer.encode(text)) <= 2
    assert codec.decode(z, max_len=1000) == codec.decode(z)


def test_mistakes_are_named(codec: Codec, root: Path) -> None:
    with pytest.raises(DataError, match=r"vectors \[2, 3\] are given, \[N, 16\] are needed"):
        codec.decode(torch.zeros(2, 3))
    z = codec.encode(sentences(2))
    z[1, 3] = float("nan")
    with pytest.raises(DataError, match="vector 1 is zero or not finite"):
        codec.decode(z)
    for options, message in (
        ({"temperature": -1}, "temperature=-1"),
        ({"best_of": 0}, "best_of=0"),
        ({"max_len": 0}, "max_len=0"),
        ({"top_q": 0.5}, "no argument 'top_q'. Did you mean: top_k?"),
        ({"num_return_sequences": 2, "temperature": 1.0}, "num_return_sequences=2"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature=0.5 contradicts"),
        ({"best_of": 3, "temperature": 0}, "best_of=3"),
    ):
        with pytest.raises(ConfigError, match=message):
            codec.decode(codec.encode(["tin"]), **options)  # type: ignore[arg-type]
    plain = build("codec", root)
    plain.family.save_model(plain.cfg, plain.task, plain.data, root / "plain")
    with pytest.raises(ConfigError, match=r"this codec has no decoder\. Train one"):
        Codec.load(root / "plain").decode(z[:1])


def test_answers_hold_what_was_written(codec: Codec) -> None:
    z = codec.encode(["red tin"])[0].tolist()
    one, two = codec(["red tin", {"z": z}])
    assert one["written"] == two["written"] == codec.decode([z])[0]
    assert set(two) == {"z", "written"}
    json.dumps([one, two])
    with pytest.raises(DataError, match="input 1: 'z' is not a list of numbers"):
        codec(["tin", {"z": ["a"]}])
    with pytest.raises(DataError, match="input 1: 'z' has 2 numbers, not 16"):
        codec(["tin", {"z": [1, 2]}])
    assert codec([]) == []


def test_sixteen_threads_at_once_give_what_one_gives(codec: Codec) -> None:
    texts = sentences(24)
    z, written = codec.encode(texts), codec.decode(codec.encode(texts), temperature=1.0, seed=3)

    def work(i: int) -> bool:
        again = codec.encode(texts)
        return torch.equal(again, z) and codec.decode(again, temperature=1.0, seed=3) == written

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(32)))


def test_another_vocabulary_is_refused(root: Path, built: Built, tmp_path: Path) -> None:
    built.family.save_model(built.cfg, built.task, built.data, tmp_path / "model")
    built.data.artifacts["tokenizer"].save(tmp_path / "model" / "writer")
    with pytest.raises(DataError, match="not the vocabulary that this decoder was trained with"):
        Codec.load(tmp_path)


def test_the_table_has_the_decoder_and_its_baseline(codec: Codec, built: Built) -> None:
    rows = built.family.table(codec, built.data, "valid")
    names = [row["name"] for row in rows]
    assert names[0] == "codec"
    assert {"nearest neighbour", "written, own vectors", "the sentences themselves"} <= set(names)
    by_name = {row["name"]: row for row in rows}
    true = by_name["the sentences themselves"]
    assert true["exact"] == 1
    assert not has_sacrebleu() or true["bleu"] == pytest.approx(100)
    assert true["reencoded"] == pytest.approx(1, abs=1e-5)
    assert {"reencoded", "perplexity", "diversity", "duplicates"} <= set(by_name["codec"])
    found = built.trainer(Path("unused")).eval_epoch(built.data.valid)
    assert rows[0]["perplexity"] == pytest.approx(found["perplexity"], rel=1e-3)
    texts = {row["text"] for row in built.data.artifacts["corpus"].train}
    shown = built.family.examples(codec, built.data)[-1]
    assert all(near in texts for _, _, near in shown["rows"])

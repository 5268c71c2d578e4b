from pathlib import Path
from typing import Any

import pytest
import torch
from families.damaged import refuses_damage
from families.tiny import build, trained

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lm import TextGenerator
from tinsmith.families.lm.config import ModelConfig
from tinsmith.families.lm.model import LanguageModel, LMSpec
from tinsmith.families.lm.tokens import CharTokenizer

PROMPTS = ["the red tin", "a", "", "his hous", "iron", "the red tin"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder."""
    return trained("lm", tmp_path_factory.mktemp("lm"), 60)


@pytest.fixture
def user(folder: Path) -> TextGenerator:
    return TextGenerator.load(folder)


KINDS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 3, "temperature": 0.9, "top_p": 0.9},
    {"num_beams": 3},
    {"repetition_penalty": 1.3},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_answers_do_not_depend_on_the_batch(user: TextGenerator, options: dict[str, Any]) -> None:
    options = {"max_new_tokens": 12, **options}
    together = user.generate(PROMPTS, **options)
    for size in (1, 2, 64):
        assert user.generate(PROMPTS, batch_size=size, **options) == together
    distinct = PROMPTS[:5]
    assert [user.generate(prompt, **options) for prompt in distinct] == together[:5]
    assert user.generate(distinct[::-1], **options) == together[:5][::-1]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_without_the_cache_it_is_the_same(user: TextGenerator, options: dict[str, Any]) -> None:
    options = {"max_new_tokens": 25, **options}  # past the context of 16
    assert user.generate(PROMPTS, use_cache=False, **options) == user.generate(PROMPTS, **options)


def test_only_characters_come(user: TextGenerator) -> None:
    out = user.generate(
        ["the"] * 3,
        do_sample=True,
        temperature=5.0,
        seed=1,
        num_return_sequences=20,
        return_dict_in_generate=True,
    )
    ids = set(out.sequences[out.mask].tolist())
    assert ids.isdisjoint({0, 1, 3})
    assert max(ids) < user.spec.vocab_size
    assert len(out.texts) == 60


def test_lengths_stops_and_streams(user: TextGenerator) -> None:
    assert (
        len(user.generate("the", max_length=7, min_new_tokens=4)) == 4
    )  # characters, the prompt's among the 7
    assert len(user.generate("the", max_length=7, max_new_tokens=6, min_new_tokens=6)) == 6
    pieces: list[str] = []
    text = user.generate("the", stream=pieces.append, max_new_tokens=10)
    assert "".join(pieces) == text
    assert user.generate("the", max_new_tokens=10, stop_strings=text[2:4]).endswith(text[2:4])
    scored = user.generate(["the"], max_new_tokens=4, output_scores=True, return_dict_in_generate=True)
    assert scored.scores is not None
    assert sum(scored.scores[0]) == pytest.approx(scored.logprobs[0])
    assert scored.tokens_per_sec > 0


def test_the_score_is_the_log_probability(user: TextGenerator) -> None:
    answer = user.generate(["t"], max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True)
    whole = user.score(["t" + answer.texts[0]])[0]
    first = user.score(["t"])[0]
    nats = whole["loss"] * 6 - first["loss"]
    assert nats == pytest.approx(-answer.logprobs[0], abs=1e-3)
    assert whole["bits_per_byte"] == pytest.approx(whole["loss"] / 0.6931471805599453)
    assert user.score(["the red tin of the old house"])[0]["perplexity"] > 1


def test_mistakes_are_named(user: TextGenerator) -> None:
    with pytest.raises(DataError, match=r"input 1: a prompt of 17 tokens .* context of 16"):
        user.generate(["a", "the red tin of it"])
    with pytest.raises(DataError, match="input 2: a prompt of 17"):
        user(["a", {"text": "a", "max_new_tokens": 3}, "the red tin of it"])
    with pytest.raises(ConfigError, match=r"no argument 'max_tokens'.* Did you mean: "):
        user.generate("a", max_tokens=3)
    with pytest.raises(ConfigError, match="contradicts"):
        user([{"text": "a", "temperature": 0.5}])
    with pytest.raises(DataError, match="input 0: a text"):
        user([5])
    with pytest.raises(DataError, match="half a surrogate"):
        user(["\ud800"])
    with pytest.raises(DataError, match="input 0: an empty text"):
        user.score([""])


def test_learned_positions_end_with_the_context() -> None:
    tokens = CharTokenizer.fit("abc")
    model = LanguageModel(ModelConfig(dim=8, num_heads=2, num_layers=1, style="plain"), LMSpec(7, 8))
    user = TextGenerator(model, tokens)
    assert len(user.generate("abc", max_new_tokens=5, min_new_tokens=5)) == 5
    with pytest.raises(DataError, match="set max_new_tokens=5"):
        user.generate("abc", max_new_tokens=6)


def test_the_settings_of_generation_travel_with_the_model(tmp_path: Path) -> None:
    built = build(
        "lm", tmp_path, "generation.do_sample=true", "generation.seed=3", "generation.max_new_tokens=7"
    )
    built.family.save_model(built.cfg, built.task, built.data, tmp_path / "model")
    user = TextGenerator.load(tmp_path / "model")
    assert user.generation == built.cfg.generation
    assert len(user(["a"])[0]["continuation"]) <= 7
    assert user(["a"]) == user(["a"])


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "generation_config.json", "characters.json"]
)
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    refuses_damage(TextGenerator.load, folder, tmp_path / "model", name, "language model")


def test_generation_leaves_the_generators_alone(user: TextGenerator) -> None:
    before = torch.get_rng_state()
    user.generate(["a", "b"], do_sample=True, max_new_tokens=5)
    assert torch.equal(torch.get_rng_state(), before)

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tinsmith.errors import ConfigError
from tinsmith.text.beams import beam_search, penalised
from tinsmith.text.decoding import Vocabulary, change_logits, draw, warp
from tinsmith.text.generation import collect, generate, prompt_seeds
from tinsmith.text.generation_config import GenerationConfig

EOS, V = 2, 6
NEVER = (0, 1)  # padding and the beginning


def decode(ids: Any) -> str:
    return "".join("abc?"[i - 3] if i >= 3 else "" for i in ids)


VOCABULARY = Vocabulary(EOS, NEVER, decode)


class Toy:
    """A model whose logits hang on the last two tokens and the prompt: a table of random numbers."""

    def __init__(self, prompts: list[list[int]], sharp: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(4)
        self.table = sharp * torch.randn(V + 1, V + 1, V, generator=generator)
        self.rows = [[V, *prompt] for prompt in prompts]

    def start(self) -> Tensor:
        return self.logits()

    def step(self, tokens: Tensor) -> Tensor:
        self.rows = [[*row, token] for row, token in zip(self.rows, tokens.tolist(), strict=True)]
        return self.logits()

    def reorder(self, rows: Tensor) -> None:
        self.rows = [list(self.rows[i]) for i in rows.tolist()]

    def logits(self) -> Tensor:
        return torch.stack([self.table[row[-2] if len(row) > 1 else V, row[-1]] for row in self.rows])


def run(prompts: list[list[int]], **options: Any) -> list[list[Any]]:
    cfg = GenerationConfig(max_new_tokens=5).with_options(options)
    return generate(Toy(prompts), prompts, cfg, VOCABULARY)


PROMPTS = [[3], [4, 5], [5], [3, 3, 4], [4]]


def by_hand(prompt: list[int], limit: int) -> list[int]:
    """Greedy, one prompt, no batch."""
    ids: list[int] = []
    for _ in range(limit):
        logits = Toy([[*prompt, *ids]]).start()[0]
        logits[list(NEVER)] = -math.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == EOS:
            break
    return ids


def test_greedy_is_the_likeliest_token_each_time() -> None:
    for prompt, (answer,) in zip(PROMPTS, run(PROMPTS), strict=True):
        assert answer.tokens == by_hand(prompt, 5)
        assert answer.finished == (answer.tokens[-1] == EOS)
        assert answer.tokens.count(EOS) == answer.finished
        assert answer.text == decode(answer.tokens)
        logp = 0.0
        for i, token in enumerate(answer.tokens):
            logp += float(Toy([[*prompt, *answer.tokens[:i]]]).start()[0].log_softmax(0)[token])
        assert answer.logprob == pytest.approx(logp, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 5}, {"num_beams": 3}], ids=str)
def test_an_answer_does_not_depend_on_its_neighbours(options: dict[str, Any]) -> None:
    together = [answers[0].tokens for answers in run(PROMPTS, **options)]
    assert together == [run([prompt], **options)[0][0].tokens for prompt in PROMPTS]
    assert together[::-1] == [answers[0].tokens for answers in run(PROMPTS[::-1], **options)]


def every_answer(limit: int) -> list[list[int]]:
    """All token sequences that end with the end, or are as long as may be."""
    letters = [t for t in range(V) if t not in (*NEVER, EOS)]
    ended = [[*ids, EOS] for n in range(limit) for ids in itertools.product(letters, repeat=n)]
    return ended + [list(ids) for ids in itertools.product(letters, repeat=limit)]


def score(prompt: list[int], ids: list[int], power: float) -> float:
    logp = 0.0
    for i, token in enumerate(ids):
        logits = Toy([[*prompt, *ids[:i]]]).start()[0]
        logits[list(NEVER)] = -math.inf
        logp += float(logits.log_softmax(0)[token])
    return logp / len(ids) ** power


@pytest.mark.parametrize("power", [0.0, 0.6, 1.0])
def test_wide_beams_find_the_best_of_all(power: float) -> None:
    limit = 4
    cfg = GenerationConfig(max_new_tokens=limit, num_beams=V**limit // 4, length_penalty=power)
    for prompt in PROMPTS[:3]:
        (answers,) = beam_search(Toy([prompt]), [prompt], cfg, VOCABULARY, [limit])
        ranked = sorted(every_answer(limit), key=lambda ids: -score(prompt, ids, power))
        assert answers[0].tokens == ranked[0]
        assert answers[0].score == pytest.approx(score(prompt, ranked[0], power), abs=1e-5)


def test_the_length_penalty_by_hand() -> None:
    assert penalised(-6.0, 3, 1.0) == -2.0
    assert penalised(-6.0, 4, 0.5) == -3.0
    assert penalised(-6.0, 4, 0.0) == -6.0


def test_beams_end_when_what_goes_on_is_behind_at_its_length() -> None:
    """The end has 0.6 each time: after two tokens both finished ones are ahead, and 48 more are not read."""

    class Constant:
        steps = 0

        def start(self) -> Tensor:
            return torch.tensor([[math.log(0.6), math.log(0.4)]])

        def step(self, tokens: Tensor) -> Tensor:
            self.steps += 1
            return self.start().expand(len(tokens), 2)

        def reorder(self, rows: Tensor) -> None:
            pass

    decoder, cfg = Constant(), GenerationConfig(max_new_tokens=50, num_beams=2, num_return_sequences=2)
    (answers,) = beam_search(decoder, [[]], cfg, Vocabulary(0, (), str), [50])
    assert [answer.tokens for answer in answers] == [[0], [1, 0]]
    assert decoder.steps == 1


def test_one_beam_is_greedy_and_more_are_no_worse() -> None:
    cfg = GenerationConfig(max_new_tokens=5, num_beams=1, early_stopping=True)
    one = beam_search(Toy(PROMPTS), PROMPTS, cfg, VOCABULARY, [5] * 5)
    greedy = run(PROMPTS)
    assert [a[0].tokens for a in one] == [a[0].tokens for a in greedy]
    for prompt, (best, *_), (first,) in zip(
        PROMPTS, run(PROMPTS, num_beams=8, length_penalty=0.0), greedy, strict=True
    ):
        assert score(prompt, best.tokens, 0) >= score(prompt, first.tokens, 0) - 1e-6


def test_the_best_beam_does_not_hang_on_how_many_are_asked_for() -> None:
    several = run(PROMPTS, num_beams=4, num_return_sequences=4)
    assert [a[0].tokens for a in several] == [a[0].tokens for a in run(PROMPTS, num_beams=4)]
    for answers in several:
        values = [answer.score for answer in answers]
        assert values == sorted(values, reverse=True)
        assert len({tuple(answer.tokens) for answer in answers}) == len(answers)


LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, 2.0]])


def test_top_k_keeps_k_and_top_p_the_token_that_crosses() -> None:
    def kept(**options: Any) -> list[int]:
        cfg = GenerationConfig(do_sample=True, **options)
        return warp(LOGITS, cfg)[0].isfinite().nonzero()[:, 0].tolist()

    p = LOGITS.softmax(-1)[0]
    assert len(kept(top_k=1)) == 1  # of two that are equal
    assert kept(top_k=3) == [0, 1, 5]
    assert len(kept(top_p=1e-9)) == 1
    assert kept(top_p=float(p[0] + p[5]) + 1e-4) == [0, 1, 5]
    assert kept(top_p=1.0) == list(range(6))
    assert kept(min_p=0.3) == [0, 1, 5]
    # temperature first: a hotter distribution needs more tokens to reach p
    assert len(kept(top_p=0.9, temperature=5.0)) > len(kept(top_p=0.9))


def test_frequencies_are_the_distribution() -> None:
    cfg = GenerationConfig(do_sample=True, temperature=0.7, top_k=5, top_p=0.95)
    expected = warp(LOGITS, cfg).softmax(-1)[0]
    n = 20_000
    tokens = draw(LOGITS.expand(n, -1), np.random.default_rng(0).random(n), cfg)
    counts = torch.bincount(tokens, minlength=6).double()
    assert not counts[expected == 0].any()
    seen = expected > 0
    chi2 = float(((counts - n * expected) ** 2 / (n * expected))[seen].sum())
    assert chi2 < 20  # 4 degrees of freedom at most: one in two thousand


def test_no_spread_is_greedy_and_a_seed_repeats() -> None:
    greedy = [a[0].tokens for a in run(PROMPTS)]
    for options in ({"temperature": 0.0}, {"top_p": 1e-9}, {"top_k": 1}, {"temperature": 1e-4}):
        assert [a[0].tokens for a in run(PROMPTS, do_sample=True, seed=1, **options)] == greedy
    one, two, other = ([a[0].tokens for a in run(PROMPTS, do_sample=True, seed=seed)] for seed in (7, 7, 8))
    assert one == two
    assert one != other
    several = run([[3]], do_sample=True, seed=0, num_return_sequences=30)[0]
    assert len({tuple(answer.tokens) for answer in several}) > 3


def test_equal_prompts_get_seeds_of_their_own() -> None:
    seeds = prompt_seeds([[3], [4], [3]], 0)
    assert len(set(seeds)) == 3
    assert prompt_seeds([[4], [3], [3]], 0)[0] == seeds[1]
    assert set(prompt_seeds([[3], [3], [4]], 0)) == set(seeds)
    assert prompt_seeds([[3]], -1) != prompt_seeds([[3]], -1)


def test_what_changes_logits_by_hand() -> None:
    logits = torch.tensor([[1.0, 1.0, 4.0, 2.0, -2.0, 3.0]])
    cfg = GenerationConfig(repetition_penalty=2.0, min_new_tokens=1)
    out = change_logits(logits, cfg, VOCABULARY, 0, [[3, 4, 3]])[0]
    assert out.tolist() == [-math.inf, -math.inf, -math.inf, 1.0, -4.0, 3.0]
    assert change_logits(logits, cfg, VOCABULARY, 1, [[]])[0, 2:].tolist() == [4.0, 2.0, -2.0, 3.0]
    cfg = GenerationConfig(no_repeat_ngram_size=2)
    out = change_logits(logits, cfg, VOCABULARY, 3, [[3, 5, 4, 3]])[0]
    assert out[5] == -math.inf
    assert out[4] == -2.0
    assert logits[0, 0] == 1.0  # the model's own are not touched


def test_no_run_of_tokens_comes_twice() -> None:
    for answers in run(PROMPTS, no_repeat_ngram_size=2, min_new_tokens=5):
        ids = answers[0].tokens
        assert len(set(itertools.pairwise(ids))) == len(ids) - 1


def test_lengths() -> None:
    assert all(len(a[0].tokens) >= 4 for a in run(PROMPTS, min_new_tokens=3))
    assert all(len(a[0].tokens) == 5 for a in run(PROMPTS, min_new_tokens=5))
    for prompt, answers in zip(PROMPTS, run(PROMPTS, max_length=4, max_new_tokens=None), strict=True):
        assert len(answers[0].tokens) <= 4 - len(prompt)
    assert [len(a[0].tokens) for a in run(PROMPTS, max_length=1)] == [0] * 5
    assert run(PROMPTS, max_length=1, num_beams=2)[1][0].tokens == []
    ids = {
        token
        for answers in run(PROMPTS, do_sample=True, temperature=3.0, num_return_sequences=20)
        for a in answers
        for token in a.tokens
    }
    assert ids.isdisjoint(NEVER)
    assert max(ids) < V


def test_stop_strings_end_an_answer_with_them() -> None:
    free = run([[3]], min_new_tokens=5)[0][0].text
    stop = free[1:3]
    answer = run([[3]], min_new_tokens=5, stop_strings=[stop])[0][0]
    assert answer.text == free[: free.index(stop) + 2]
    assert len(answer.tokens) < 5


def test_a_stream_shows_the_answer_piece_by_piece() -> None:
    pieces: list[str] = []
    cfg = GenerationConfig(max_new_tokens=5, min_new_tokens=5)
    answer = generate(Toy([[3]]), [[3]], cfg, VOCABULARY, pieces.append)[0][0]
    assert "".join(pieces) == answer.text
    assert len(pieces) == 5
    with pytest.raises(ConfigError, match="one answer"):
        generate(Toy(PROMPTS), PROMPTS, cfg, VOCABULARY, pieces.append)


def test_half_a_character_is_not_shown() -> None:
    def halves(ids: Any) -> str:
        return bytes([0xC3, 0xA4] * (len(ids) // 2) + [0xC3] * (len(ids) % 2)).decode("utf-8", "replace")

    pieces: list[str] = []
    cfg = GenerationConfig(max_new_tokens=5, min_new_tokens=5)
    generate(Toy([[3]]), [[3]], cfg, Vocabulary(EOS, NEVER, halves), pieces.append)
    assert pieces == ["ä", "ä", "\ufffd"]


def test_all_answers_side_by_side() -> None:
    answers = [a for several in run(PROMPTS) for a in several]
    out = collect(answers, 0, 0.5, with_scores=True)
    assert out.mask.sum(1).tolist() == [len(a.tokens) for a in answers]
    assert not out.sequences[~out.mask].any()
    assert Counter(out.sequences[out.mask].tolist()) == Counter(t for a in answers for t in a.tokens)
    assert out.tokens_per_sec == sum(len(a.tokens) for a in answers) / 0.5
    assert out.scores == [a.scores for a in answers]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatur": 0.5}, "Did you mean: temperature"),
        ({"beam_size": 4}, "no argument 'beam_size'"),
        ({"temperature": 0.5}, "temperature=0.5 contradicts do_sample=false"),
        ({"do_sample": False, "top_p": 0.5}, "top_p=0.5 contradicts do_sample=false"),
        ({"do_sample": True, "num_beams": 4}, "num_beams=4 contradicts do_sample=true"),
        ({"length_penalty": 0.6}, "length_penalty=0.6 is for beams only"),
        ({"num_return_sequences": 3}, "contradicts num_beams=1"),
        ({"top_p": 0.0, "do_sample": True}, "top_p=0.0 is not allowed"),
        ({"temperature": -1.0, "do_sample": True}, "temperature=-1.0 is not allowed"),
        (
            {"max_new_tokens": 3, "min_new_tokens": 4},
            "min_new_tokens=4 is not allowed: at most max_new_tokens=3",
        ),
        ({"top_k": "5", "do_sample": True}, "top_k='5' is not allowed"),
        ({"stop_strings": [""]}, "stop_strings"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
    ],
    ids=str,
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig().with_options(options)


def test_a_call_overrides_what_the_configuration_says() -> None:
    own = GenerationConfig(do_sample=True, temperature=0.8, top_k=5)
    assert not own.with_options({"do_sample": False}).is_random
    assert own.with_options({"num_beams": 3}).temperature == 1.0
    assert own.with_options({"temperature": 0.5}).top_k == 5
    assert own.with_options({"top_k": None}).top_k == 5
    assert own.with_options({"stop_strings": "x"}).stop_strings == ["x"]
    assert GenerationConfig(num_beams=4).with_options({"do_sample": True}).num_beams == 1

"""Generation of text from any model that gives the next token's logits: greedy, sampling, beams.

What a prompt gets does not depend on the other prompts beside it, nor on their order: each draws from a
generator of its own, seeded by the prompt itself. Shapes: N rows under way, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.errors import ConfigError
from tinsmith.text.generation_config import GenerationConfig

Decode = Callable[[Sequence[int]], str]
_NEVER = float("-inf")


class Decoder(Protocol):
    """A model with prompts read in, one row each: gives the logits of what comes next."""

    def start(self) -> Tensor:
        """Logits [N, V] behind the prompts."""

    def step(self, tokens: Tensor) -> Tensor:
        """Take in a token a row [N]; logits [N, V] of what comes next."""

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was; rows may be left out and repeated."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What generation has to know of the ids: the end, those that are never given, and how to read them."""

    eos: int
    never: tuple[int, ...]
    decode: Decode


@dataclass(slots=True)
class Answer:
    """What was generated for a prompt.

    ``tokens`` has the end's id, once, where the answer ended by itself (``finished``). ``scores`` are the
    log-probabilities of its tokens under the model, before any change by options; ``score`` is what ordered
    the answers of beams.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    scores: list[float] = field(default_factory=list)
    finished: bool = False
    score: float = 0.0

    @property
    def logprob(self) -> float:
        """The log-probability of all tokens together."""
        return math.fsum(self.scores)


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    cfg: GenerationConfig,
    vocabulary: Vocabulary,
    stream: Callable[[str], None] | None = None,
    lengths: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[list[Answer]]:
    """Continue what a decoder has read.

    Args:
        decoder: one row a prompt, in order.
        prompts: the ids that count for repetitions (for an encoder-decoder: none), one list a row.
        stream: gets the text of a single greedy or sampled answer piece by piece.
        lengths: tokens of each prompt that ``max_length`` counts; by default those of ``prompts``.
        seeds: one for each prompt (``prompt_seeds``); by default from the prompts.

    Returns:
        For each prompt ``num_return_sequences`` answers, the best first where they are ordered.

    Raises:
        ConfigError: a contradiction, such as a stream of several answers.
    """
    if stream is not None and (len(prompts) != 1 or cfg.num_return_sequences != 1 or cfg.num_beams != 1):
        raise ConfigError("stream shows one answer while it grows: one prompt, no beams, one sequence.")
    sizes = [len(prompt) for prompt in prompts] if lengths is None else lengths
    limits = [cfg.limit(size) for size in sizes]
    if cfg.num_beams > 1:
        return beam_search(decoder, prompts, cfg, vocabulary, limits)
    if seeds is None:
        seeds = prompt_seeds(prompts, cfg.seed)
    return one_by_one(decoder, prompts, cfg, vocabulary, limits, seeds, stream)


def prompt_seeds(prompts: Sequence[Sequence[int]], seed: int) -> list[int]:
    """A seed for each prompt, from ``seed`` (-1: a new one), its ids, and how often it came before."""
    base = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) if seed < 0 else seed
    seen: dict[int, int] = {}
    seeds = []
    for prompt in prompts:
        key = xxhash.xxh3_64_intdigest(np.asarray(prompt, np.int64).tobytes())
        seen[key] = seen.get(key, -1) + 1
        seeds.append(int(np.random.SeedSequence([base, key, seen[key]]).generate_state(1, np.uint64)[0]))
    return seeds


# ---- one token after another --------------------------------------------------------------------------


def one_by_one(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    cfg: GenerationConfig,
    vocabulary: Vocabulary,
    limits: Sequence[int],
    seeds: Sequence[int],
    stream: Callable[[str], None] | None = None,
) -> list[list[Answer]]:
    """Greedy and sampling. A row that is done leaves the batch soon after."""
    each = cfg.num_return_sequences
    logits = decoder.start()
    if each > 1:
        rows = torch.arange(len(prompts), device=logits.device).repeat_interleave(each)
        decoder.reorder(rows)
        logits = logits[rows]
    answers = [Answer() for _ in range(len(prompts) * each)]
    limits = [limit for limit in limits for _ in range(each)]
    draws = _uniform(seeds, each, max(limits, default=0)) if cfg.is_random else None
    live = list(range(len(answers)))  # the answer of each row of the decoder
    done = {i for i in live if not limits[i]}
    piece = _Pieces(vocabulary.decode, stream) if stream is not None else None
    deadline = time.monotonic() + cfg.max_time if cfg.max_time else None
    for step in range(max(limits, default=0)):
        histories = [[*prompts[i // each], *answers[i].tokens] for i in live] if _needs_history(cfg) else None
        changed = change_logits(logits, cfg, vocabulary, step, histories)
        chosen = draw(changed, draws[live, step], cfg) if draws is not None else changed.argmax(-1)
        scores = logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        for i, token, score in zip(live, chosen.tolist(), scores, strict=True):
            if i in done:
                continue
            answers[i].tokens.append(token)
            answers[i].scores.append(score)
            answers[i].finished = token == vocabulary.eos
            if (
                answers[i].finished
                or len(answers[i].tokens) >= limits[i]
                or _stopped(answers[i], cfg, vocabulary)
            ):
                done.add(i)
        if piece is not None and not answers[0].text:  # with a text it has met a stop string: `end` cuts it
            piece.show(answers[0].tokens)
        if len(done) == len(answers) or (deadline is not None and time.monotonic() > deadline):
            break
        live, chosen = _drop_done(decoder, live, done, chosen)
        logits = decoder.step(chosen)
    for answer in answers:
        answer.text = answer.text or vocabulary.decode(_body(answer.tokens, vocabulary.eos))
        answer.score = answer.logprob
    if piece is not None:
        piece.end(answers[0].text)
    return [answers[i : i + each] for i in range(0, len(answers), each)]


def _drop_done(decoder: Decoder, live: list[int], done: set[int], chosen: Tensor) -> tuple[list[int], Tensor]:
    """Leave finished rows out once they are an eighth of the batch: each leaving copies what was read."""
    finished = sum(i in done for i in live)
    if not finished or finished < len(live) // 8:
        return live, chosen
    kept = [row for row, i in enumerate(live) if i not in done]
    rows = torch.tensor(kept, device=chosen.device)
    decoder.reorder(rows)
    return [live[row] for row in kept], chosen[rows]


def _stopped(answer: Answer, cfg: GenerationConfig, vocabulary: Vocabulary) -> bool:
    """Whether a stop string is in the answer; its text then ends with it."""
    if not cfg.stop_strings:
        return False
    text = vocabulary.decode(_body(answer.tokens, vocabulary.eos))
    ends = [text.index(stop) + len(stop) for stop in cfg.stop_strings if stop in text]
    if ends:
        answer.text = text[: min(ends)]
    return bool(ends)


def _body(tokens: list[int], eos: int) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] == eos else tokens


class _Pieces:
    """Text as it grows: whole characters only, whatever the tokens cut in two."""

    def __init__(self, decode: Decode, show: Callable[[str], None]) -> None:
        self._decode, self._show, self._shown = decode, show, 0

    def show(self, tokens: list[int]) -> None:
        text = self._decode(tokens)
        if not text.endswith("\ufffd"):
            self._give(text)

    def end(self, text: str) -> None:
        self._give(text)

    def _give(self, text: str) -> None:
        if len(text) > self._shown:
            self._show(text[self._shown :])
            self._shown = len(text)


# ---- logits -------------------------------------------------------------------------------------------


def _needs_history(cfg: GenerationConfig) -> bool:
    return cfg.repetition_penalty != 1 or cfg.no_repeat_ngram_size > 0


def change_logits(
    logits: Tensor,
    cfg: GenerationConfig,
    vocabulary: Vocabulary,
    step: int,
    histories: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Logits [N, V] as the options want them: penalties, and what may not come is -inf.

    Args:
        step: tokens generated so far. histories: ids of each row so far, prompt and answer; needed where
            repetitions count.
    """
    out = logits.float().clone()
    if histories is not None:
        for row, history in enumerate(histories):
            _discourage(out[row], history, cfg)
    if vocabulary.never:
        out[:, list(vocabulary.never)] = _NEVER
    if step < cfg.min_new_tokens:
        out[:, vocabulary.eos] = _NEVER
    return out


def _discourage(scores: Tensor, history: Sequence[int], cfg: GenerationConfig) -> None:
    """Penalise what was there: ``s / p`` above zero, ``s p`` below (Keskar et al. 2019, section 4.1)."""
    if cfg.repetition_penalty != 1 and history:
        seen = torch.tensor(sorted(set(history)), device=scores.device)
        value, p = scores[seen], cfg.repetition_penalty
        scores[seen] = torch.where(value > 0, value / p, value * p)
    n = cfg.no_repeat_ngram_size
    if n and len(history) >= n:
        last = tuple(history[len(history) - n + 1 :])
        for start in range(len(history) - n + 1):
            if tuple(history[start : start + n - 1]) == last:
                scores[history[start + n - 1]] = _NEVER


def warp(logits: Tensor, cfg: GenerationConfig) -> Tensor:
    """Temperature, top-k, top-p and min-p, in this order: [N, V], -inf where a token is out.

    Top-k keeps exactly k; top-p always the likeliest token, and the one that crosses p.
    """
    out = logits / cfg.temperature
    if 0 < cfg.top_k < out.shape[-1]:
        kept = torch.zeros_like(out, dtype=torch.bool).scatter_(1, out.topk(cfg.top_k).indices, True)
        out = out.masked_fill(~kept, _NEVER)
    if cfg.top_p < 1:
        ordered, index = torch.sort(out.softmax(-1), descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= cfg.top_p
        beyond[:, 0] = False
        out = out.masked_fill(torch.zeros_like(beyond).scatter_(1, index, beyond), _NEVER)
    if cfg.min_p > 0:
        p = out.softmax(-1)
        out = out.masked_fill(p < cfg.min_p * p.amax(-1, keepdim=True), _NEVER)
    return out


def draw(logits: Tensor, uniform: NDArray[np.float64], cfg: GenerationConfig) -> Tensor:
    """A token a row [N] from ``warp``'s distribution, by inverting its sum at numbers [N] from [0, 1)."""
    total = warp(logits, cfg).double().softmax(-1).cumsum(-1)
    point = torch.from_numpy(uniform).to(total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, point, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


def _uniform(seeds: Sequence[int], each: int, steps: int) -> NDArray[np.float64]:
    """Numbers from [0, 1) for every row and step: [N, steps]."""
    rows = [np.random.default_rng([seed, i]).random(steps) for seed in seeds for i in range(each)]
    return np.stack(rows) if rows else np.zeros((0, steps))


# ---- beams --------------------------------------------------------------------------------------------


def penalised(logprob: float, length: int, power: float) -> float:
    """``logprob / length^power``: Hugging Face's ``length_penalty``; the end counts as a token."""
    scale: float = max(1, length) ** power
    return logprob / scale


@dataclass(slots=True)
class _Hypothesis:
    """``total``: log-probability as the options change it; ``scores`` the model's own, token by token."""

    tokens: list[int]
    scores: list[float]
    total: float


class _Sentence:
    """The hypotheses of one prompt: those under way, and the best finished ones, which never change."""

    def __init__(self, cfg: GenerationConfig, limit: int, eos: int) -> None:
        self.width, self.power, self.early = cfg.num_beams, cfg.length_penalty, cfg.early_stopping
        self.limit, self.eos = limit, eos
        dead = [_Hypothesis([], [], _NEVER) for _ in range(self.width - 1)]
        self.going = [_Hypothesis([], [], 0.0), *dead]
        self.finished: list[Answer] = []

    def advance(self, candidates: Iterable[tuple[float, int, float]], vocab: int, late: bool) -> list[int]:
        """Go on with the best continuations.

        Args:
            candidates: (total, hypothesis * vocab + token, the model's log-probability), the best first.
            late: end here.

        Returns:
            The hypothesis that each new one goes on from; empty if the prompt is done with.
        """
        going: list[_Hypothesis] = []
        parents: list[int] = []
        for rank, (total, place, score) in enumerate(candidates):
            parent, token = divmod(place, vocab)
            ends = token == self.eos
            if total == _NEVER or (ends and rank >= self.width) or (not ends and len(going) == self.width):
                continue
            old = self.going[parent]
            new = _Hypothesis([*old.tokens, token], [*old.scores, score], total)
            if ends:
                self._finish(new, True)
            else:
                going.append(new)
                parents.append(parent)
        if self._is_done(going, late):
            return []
        self.going = going + [_Hypothesis([], [], _NEVER)] * (self.width - len(going))
        return parents + parents[:1] * (self.width - len(going))

    def _is_done(self, going: list[_Hypothesis], late: bool) -> bool:
        full = len(self.finished) >= self.width
        if not going or (self.early and full):
            return True
        length = len(going[0].tokens)
        if late or length >= self.limit:
            for hypothesis in going:
                self._finish(hypothesis, False)
            return True
        # At best a hypothesis gets no less likely; a penalty then favours the longest.
        longest = self.limit if self.power > 0 else length + 1
        return full and penalised(going[0].total, longest, self.power) <= self.finished[-1].score

    def _finish(self, hypothesis: _Hypothesis, by_itself: bool) -> None:
        score = penalised(hypothesis.total, len(hypothesis.tokens), self.power)
        self.finished.append(Answer(hypothesis.tokens, "", hypothesis.scores, by_itself, score))
        self.finished.sort(key=lambda answer: -answer.score)
        del self.finished[self.width :]


def beam_search(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    cfg: GenerationConfig,
    vocabulary: Vocabulary,
    limits: Sequence[int],
) -> list[list[Answer]]:
    """The best hypotheses by ``penalised`` log-probability; a finished one is never changed again.

    The ``num_beams`` best unfinished hypotheses go on. A prompt is done with when nothing unfinished can beat
    what is finished (or, with ``early_stopping``, when ``num_beams`` are finished).
    """
    sentences = [_Sentence(cfg, limit, vocabulary.eos) for limit in limits]
    live = [i for i, limit in enumerate(limits) if limit]  # the prompts whose rows the decoder holds
    logits = decoder.start()
    rows = torch.tensor([i for i in live for _ in range(cfg.num_beams)], device=logits.device)
    chosen: list[int] = []
    deadline = time.monotonic() + cfg.max_time if cfg.max_time else None
    for step in range(max(limits, default=0)):
        decoder.reorder(rows)
        if step:
            logits = decoder.step(torch.tensor(chosen, device=logits.device))
        else:
            logits = logits[rows]
        late = deadline is not None and time.monotonic() > deadline
        kept: list[int] = []
        parents: list[int] = []
        for at, candidates in enumerate(_candidates(logits, live, sentences, prompts, cfg, vocabulary, step)):
            own = sentences[live[at]].advance(candidates, logits.shape[-1], late)
            if own:
                kept.append(live[at])
                parents += [at * cfg.num_beams + parent for parent in own]
        live = kept
        if not live:
            break
        rows = torch.tensor(parents, device=logits.device)
        chosen = [(h.tokens or [vocabulary.eos])[-1] for i in live for h in sentences[i].going]
    return [_read(sentence, cfg, vocabulary) for sentence in sentences]


def _candidates(
    logits: Tensor,
    live: Sequence[int],
    sentences: Sequence[_Sentence],
    prompts: Sequence[Sequence[int]],
    cfg: GenerationConfig,
    vocabulary: Vocabulary,
    step: int,
) -> Iterable[Iterable[tuple[float, int, float]]]:
    """For each prompt the ``2 num_beams`` best continuations: enough for as many that do not end."""
    going = [sentences[i].going for i in live]
    histories = None
    if _needs_history(cfg):
        histories = [
            [*prompts[i], *h.tokens] for i, several in zip(live, going, strict=True) for h in several
        ]
    changed = change_logits(logits, cfg, vocabulary, step, histories).log_softmax(-1)
    so_far = torch.tensor([[h.total for h in several] for several in going], device=logits.device)
    totals = (so_far[..., None] + changed.view(len(live), cfg.num_beams, -1)).flatten(1)
    best, places = totals.topk(min(2 * cfg.num_beams, totals.shape[1]), -1)
    scores = logits.float().log_softmax(-1).view(len(live), -1).gather(1, places)
    lists = zip(best.tolist(), places.tolist(), scores.tolist(), strict=True)
    return (zip(*several, strict=True) for several in lists)


def _read(sentence: _Sentence, cfg: GenerationConfig, vocabulary: Vocabulary) -> list[Answer]:
    """The answers of a prompt, with their texts."""
    answers = sentence.finished[: cfg.num_return_sequences] or [Answer()]
    for answer in answers:
        text = vocabulary.decode(_body(answer.tokens, vocabulary.eos))
        ends = [text.index(stop) + len(stop) for stop in cfg.stop_strings if stop in text]
        answer.text = text[: min(ends)] if ends else text
    return answers


@dataclass(frozen=True, slots=True)
class Generation:
    """All answers of a call, as ``return_dict_in_generate`` asks for them.

    ``sequences`` [N, L] ids with padding behind, ``mask`` [N, L] True at tokens, ``texts`` and ``scores``
    (None without ``output_scores``) for each answer, ``tokens_per_sec`` over all.
    """

    sequences: Tensor
    mask: Tensor
    texts: list[str]
    logprobs: list[float]
    scores: list[list[float]] | None
    tokens_per_sec: float


def collect(answers: Sequence[Answer], pad: int, seconds: float, with_scores: bool) -> Generation:
    """Put answers side by side."""
    longest = max((len(answer.tokens) for answer in answers), default=0)
    sequences = torch.full((len(answers), longest), pad)
    for row, answer in enumerate(answers):
        sequences[row, : len(answer.tokens)] = torch.tensor(answer.tokens, dtype=torch.long)
    sizes = torch.tensor([len(answer.tokens) for answer in answers])
    mask = torch.arange(longest)[None] < sizes[:, None]
    scores = [answer.scores for answer in answers] if with_scores else None
    rate = float(sizes.sum()) / max(seconds, 1e-9)
    texts = [answer.text for answer in answers]
    return Generation(sequences, mask, texts, [answer.logprob for answer in answers], scores, rate)

"""Generation of text from any model that gives the next token's logits: greedy, sampling, beams.

What a prompt gets does not depend on the other prompts beside it, nor on their order: each draws from a
generator of its own, seeded by the prompt itself. Shapes: N rows under way, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.errors import ConfigError
from tinsmith.text.beams import beam_search
from tinsmith.text.decoding import (
    Answer,
    Decode,
    Decoder,
    Vocabulary,
    change_logits,
    draw,
    likeliest,
    needs_history,
    text_of,
)
from tinsmith.text.generation_config import GenerationConfig


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
        histories = [[*prompts[i // each], *answers[i].tokens] for i in live] if needs_history(cfg) else None
        changed = change_logits(logits, cfg, vocabulary, step, histories)
        chosen = draw(changed, draws[live, step], cfg) if draws is not None else likeliest(changed)
        own = logits.float()
        scores = (own.gather(1, chosen[:, None])[:, 0] - own.logsumexp(-1)).tolist()
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
        answer.text = answer.text or text_of(answer.tokens, cfg, vocabulary)[0]
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
    text, stopped = text_of(answer.tokens, cfg, vocabulary)
    if stopped:
        answer.text = text
    return stopped


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


def _uniform(seeds: Sequence[int], each: int, steps: int) -> NDArray[np.float64]:
    """Numbers from [0, 1) for every row and step: [N, steps]."""
    rows = [np.random.default_rng([seed, i]).random(steps) for seed in seeds for i in range(each)]
    return np.stack(rows) if rows else np.zeros((0, steps))


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


def plain_texts(answers: Sequence[Sequence[Answer]], cfg: GenerationConfig, single: bool) -> Any:
    """The text of each prompt's answer, of several sequences a list; of a ``single`` prompt not in a list."""
    each = [[answer.text for answer in several] for several in answers]
    plain: list[Any] = [several[0] for several in each] if cfg.num_return_sequences == 1 else each
    return plain[0] if single else plain


def shown(answers: Sequence[Answer], cfg: GenerationConfig, name: str, **more: Any) -> dict[str, Any]:
    """The fields of a prompt's answers that were asked for, the text under ``name``, ``more`` behind it."""
    first = answers[0]
    fields: dict[str, Any] = {name: first.text, **more}
    if cfg.num_return_sequences > 1:
        fields[f"{name}s"] = [answer.text for answer in answers]
    if cfg.output_scores or cfg.return_dict_in_generate:
        fields |= {"tokens": first.tokens, "logprob": first.logprob}
    if cfg.output_scores:
        fields["scores"] = first.scores
    return fields

"""Beams: the likeliest answers as a whole."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.text.decoding import NEVER, Answer, Decoder, Vocabulary, change_logits, needs_history, text_of
from tinsmith.text.generation_config import GenerationConfig
from tinsmith.text.topk import largest


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
        dead = [_Hypothesis([], [], NEVER) for _ in range(self.width - 1)]
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
            if total == NEVER or (ends and rank >= self.width) or (not ends and len(going) == self.width):
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
        self.going = going + [_Hypothesis([], [], NEVER)] * (self.width - len(going))
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
        # As Hugging Face has it: one that is behind now could catch up by length alone, but hardly ever does,
        # and waiting for the longest that it may get takes three times the steps.
        return full and penalised(going[0].total, length, self.power) <= self.finished[-1].score

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

    The ``num_beams`` best unfinished hypotheses go on. A prompt is done with when ``num_beams`` are finished
    and (unless ``early_stopping``) the best unfinished one is, at its length now, behind all of them.
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
    if needs_history(cfg):
        histories = [
            [*prompts[i], *h.tokens] for i, several in zip(live, going, strict=True) for h in several
        ]
    changed = change_logits(logits, cfg, vocabulary, step, histories)
    # The best of a prompt are among the best of each of its rows: all else stays a row's logits.
    top, tokens = largest(changed, min(2 * cfg.num_beams, changed.shape[1]))
    so_far = torch.tensor([h.total for several in going for h in several], device=logits.device)
    totals = so_far[:, None] + (top - changed.logsumexp(-1, keepdim=True))
    own = logits.float()
    scores = own.gather(1, tokens) - own.logsumexp(-1, keepdim=True)
    first = torch.arange(cfg.num_beams, device=logits.device) * logits.shape[-1]
    totals, scores, places = (
        x.view(len(live), -1) for x in (totals, scores, first.repeat(len(live))[:, None] + tokens)
    )
    best, order = totals.topk(min(2 * cfg.num_beams, totals.shape[1]), -1)
    places, scores = places.gather(1, order), scores.gather(1, order)
    lists = zip(best.tolist(), places.tolist(), scores.tolist(), strict=True)
    return (zip(*several, strict=True) for several in lists)


def _read(sentence: _Sentence, cfg: GenerationConfig, vocabulary: Vocabulary) -> list[Answer]:
    """The answers of a prompt, with their texts."""
    answers = sentence.finished[: cfg.num_return_sequences] or [Answer()]
    for answer in answers:
        answer.text, _ = text_of(answer.tokens, cfg, vocabulary)
    return answers

"""What generation stands on: a model that gives logits, its vocabulary, answers, and logits as options want.

Shapes: N rows under way, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.text.generation_config import GenerationConfig

Decode = Callable[[Sequence[int]], str]
NEVER = float("-inf")


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


def vocabulary_of(ids: Any, cfg: GenerationConfig, decode: Decode) -> Vocabulary:
    """The vocabulary of what has ``pad_id``, ``bos_id``, ``unk_id`` and ``eos_id``; or as options say."""
    eos = ids.eos_id if cfg.eos_token_id < 0 else cfg.eos_token_id
    never = {ids.pad_id, ids.bos_id, ids.unk_id} - {eos}
    return Vocabulary(eos, tuple(sorted(never)), decode)


def text_of(tokens: list[int], cfg: GenerationConfig, vocabulary: Vocabulary) -> tuple[str, bool]:
    """The text of an answer up to the end of its first stop string, and whether one is in it."""
    text = vocabulary.decode(tokens[:-1] if tokens and tokens[-1] == vocabulary.eos else tokens)
    ends = [text.index(stop) + len(stop) for stop in cfg.stop_strings if stop in text]
    return text[: min(ends)] if ends else text, bool(ends)


def needs_history(cfg: GenerationConfig) -> bool:
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
        out[:, list(vocabulary.never)] = NEVER
    if step < cfg.min_new_tokens:
        out[:, vocabulary.eos] = NEVER
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
                scores[history[start + n - 1]] = NEVER


def warp(logits: Tensor, cfg: GenerationConfig) -> Tensor:
    """Temperature, top-k, top-p and min-p, in this order: [N, V], -inf where a token is out.

    Top-k keeps exactly k; top-p always the likeliest token, and the one that crosses p.
    """
    out = logits / cfg.temperature
    if 0 < cfg.top_k < out.shape[-1]:
        kept = torch.zeros_like(out, dtype=torch.bool).scatter_(1, out.topk(cfg.top_k).indices, True)
        out = out.masked_fill(~kept, NEVER)
    if cfg.top_p < 1:
        ordered, index = torch.sort(out.softmax(-1), descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= cfg.top_p
        beyond[:, 0] = False
        out = out.masked_fill(torch.zeros_like(beyond).scatter_(1, index, beyond), NEVER)
    if cfg.min_p > 0:
        p = out.softmax(-1)
        out = out.masked_fill(p < cfg.min_p * p.amax(-1, keepdim=True), NEVER)
    return out


def likeliest(logits: Tensor) -> Tensor:
    """The first largest of each row: [N, V] -> [N]."""
    if logits.device.type == "cpu":  # numpy's is vectorised: a twentieth of torch's time
        return torch.from_numpy(logits.float().numpy().argmax(-1))
    return logits.argmax(-1)


def draw(logits: Tensor, uniform: NDArray[np.float64], cfg: GenerationConfig) -> Tensor:
    """A token a row [N] from ``warp``'s distribution, by inverting its sum at numbers [N] from [0, 1)."""
    total = warp(logits, cfg).double().softmax(-1).cumsum(-1)
    point = torch.from_numpy(uniform).to(total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, point, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)

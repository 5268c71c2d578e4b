"""Texts written from vectors: the decoder as a ``Decoder`` of generation, and the slots of CTC.

Shapes: N vectors, Z embedding size, S slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tinsmith.errors import check
from tinsmith.families.codec.ctc import BLANK, CtcDecoder
from tinsmith.families.codec.decoder import BOS, Decoder, Written
from tinsmith.text.decoding import NEVER, Answer, Vocabulary, draw, likeliest
from tinsmith.text.generation import generate, prompt_seeds
from tinsmith.text.generation_config import GenerationConfig

_STEPS = 10_000  # vectors whose numbers agree to so much of one draw the same


class VectorDecoder:
    """Writes from unit vectors, a token a row at a time.

    Args:
        model: in eval mode. z: [N, Z].
        draft: vectors of a first draft [N, Z], of a decoder that corrects.
        use_cache: keep the states of the layers; else the whole text is read again for each token (the slow
            twin).
    """

    def __init__(
        self, model: Decoder, z: Tensor, draft: Tensor | None = None, use_cache: bool = True
    ) -> None:
        self.model, self.use_cache = model, use_cache
        self.z, self.draft = z, draft
        self.tokens = torch.full((len(z), 1), BOS, device=z.device)
        self.state: Written | None = model.start(z, draft) if use_cache else None
        self.t = 0

    def start(self) -> Tensor:
        """Logits [N, V] of the first token."""
        return self._read()

    def step(self, tokens: Tensor) -> Tensor:
        """Take in a token a row [N]; logits [N, V]."""
        self.t += 1
        kept = self.tokens[:, :0] if self.use_cache else self.tokens
        self.tokens = torch.cat([kept, tokens[:, None]], 1)
        return self._read()

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was."""
        self.tokens = self.tokens.index_select(0, rows)
        if self.state is not None:
            self.state.reorder(rows)
            return
        self.z = self.z.index_select(0, rows)
        self.draft = None if self.draft is None else self.draft.index_select(0, rows)

    def _read(self) -> Tensor:
        if self.state is not None:
            return self.model.step(self.tokens[:, 0], self.state, self.t)
        logits: Tensor = self.model(self.z, self.tokens, self.draft)[:, -1]
        return logits


def vector_seeds(z: Tensor, seed: int) -> list[int]:
    """A seed for each vector [N, Z], from ``seed`` (-1: a new one), its numbers, how often it came before."""
    return prompt_seeds((z * _STEPS).round().long().tolist(), seed)


@torch.inference_mode()
def write(
    model: Decoder | CtcDecoder,
    z: Tensor,
    cfg: GenerationConfig,
    vocabulary: Vocabulary,
    seeds: Sequence[int],
    draft: Tensor | None = None,
) -> list[list[Answer]]:
    """For each unit vector [N, Z] ``cfg.num_return_sequences`` texts.

    Args:
        cfg: with ``max_new_tokens``. seeds: one for each vector (``vector_seeds``).
        draft: as of ``VectorDecoder``.

    Raises:
        ConfigError: an option that CTC, whose tokens do not follow one another, has no use for.
    """
    if not len(z):
        return []
    if isinstance(model, CtcDecoder):
        return _write_slots(model, z, cfg, vocabulary, seeds)
    decoder = VectorDecoder(model, z, draft, cfg.use_cache)
    return generate(decoder, [[] for _ in z], cfg, vocabulary, seeds=seeds)


def _write_slots(
    model: CtcDecoder, z: Tensor, cfg: GenerationConfig, vocabulary: Vocabulary, seeds: Sequence[int]
) -> list[list[Answer]]:
    """Fill all slots at once; blanks and repetitions are taken out."""
    for name in ("num_beams", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"):
        value, plain = getattr(cfg, name), getattr(GenerationConfig(), name)
        check(value == plain, name, value, f"{plain}, for decoder.kind=ctc fills all slots at once")
    logits = model(z)
    logits[..., [i for i in (*vocabulary.never, vocabulary.eos) if i != BLANK]] = NEVER
    flat, slots = logits.flatten(0, 1), logits.shape[1]
    answers: list[list[Answer]] = [[] for _ in z]
    for number in range(cfg.num_return_sequences):
        if cfg.is_random:
            uniform = [np.random.default_rng([seed, number]).random(slots) for seed in seeds]
            ids = draw(flat, np.concatenate(uniform), cfg).view(len(z), slots)
        else:
            ids = likeliest(flat).view(len(z), slots)
        for row, several in zip(ids.tolist(), answers, strict=True):
            tokens = merged(row)[: cfg.max_new_tokens]
            several.append(Answer([*tokens, vocabulary.eos], vocabulary.decode(tokens), finished=True))
    return answers


def merged(slots: Sequence[int]) -> list[int]:
    """The ids that slots stand for: of equal neighbours one, and no blanks."""
    kept = [i for at, i in enumerate(slots) if at == 0 or i != slots[at - 1]]
    return [i for i in kept if i != BLANK]

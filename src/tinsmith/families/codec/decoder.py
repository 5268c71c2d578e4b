"""The decoder: a causal convolution net that writes a text, told the vector in every block.

    h_0 = E x_t + c + W_s mean(E x_1..t),  c = W_z z        the last token, what to say, what was said
    h  <- h + O (u · silu(v)),  [u, v] = I ((1 + γ(c)) mix(LN(h)) + β(c))                each block
    logits = E O_e n + b + g(n) B z,  n = LN(h)

The vector comes in by FiLM (Perez et al. 2018, arXiv:1709.07871). ``B`` starts as the teacher's vectors of
the single tokens and ``b`` as the logarithm of their frequency: before any training the likely words are
those that the vector is near to. ``O`` and ``O_e`` start at zero, so that the tied table ``E`` does not start
by copying its input. ``mix`` is a depthwise causal convolution (Chollet 2017; a convolutional decoder as in
Kalchbrenner et al. 2016, arXiv:1610.10099) or a state space: whole sentences at once in training, one
position at a time with a cached state in use, to the same result.

Shapes: B batch, L length, D width, V vocabulary, Z embedding size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tinsmith.families.codec.config import DecoderConfig
from tinsmith.nn.mixing import CausalConv, CausalStateSpace

PAD, BOS, EOS, UNK = 0, 1, 2, 3  # as every fitted tokenizer numbers them
# Adam moves every element by the learning rate; the softmax's tables want a tenth of what the matrices want.
TABLE_SCALE = 0.1
_FIRST_LOGIT = 10.0  # of a word whose own vector is the one that is written out


class Channels(nn.Module):
    """``O (u · silu(v))`` with ``[u, v] = I x``; ``O`` starts at zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        u, v = self.inp(x).chunk(2, dim=-1)
        out: Tensor = self.out(u * F.silu(v))
        return out


class FilmBlock(nn.Module):
    """What a block adds, without its channel matrices, which blocks may share.

    Args:
        dim: D. mix: mixes positions. drop: share of the samples that skip it while training.
    """

    def __init__(self, dim: int, mix: nn.Module, drop: float) -> None:
        super().__init__()
        self.norm, self.mix, self.drop = nn.LayerNorm(dim), mix, drop
        self.film = nn.Linear(dim, 2 * dim)
        nn.init.normal_(self.film.weight, std=0.2 * dim**-0.5)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor, channels: nn.Module) -> Tensor:
        """``x`` [B, L, D], ``condition`` [B, D] -> [B, L, D]."""
        scale, shift = self.film(condition)[:, None].chunk(2, dim=-1)
        branch: Tensor = channels(torch.addcmul(shift, self.mix(self.norm(x)), 1 + scale))
        if self.drop and self.training:
            keep = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
            branch = branch * keep / (1 - self.drop)
        return x + branch

    def step(self, x: Tensor, film: Tensor, channels: nn.Module, state: Tensor, t: int) -> Tensor:
        """Position ``t``: ``x`` [B, D], ``film`` (of the condition) [B, 2 D] -> [B, D]. Writes ``state``."""
        scale, shift = film.chunk(2, dim=-1)
        mixed = self.mix.step(self.norm(x), state, t)  # type: ignore[operator]
        branch: Tensor = channels(torch.addcmul(shift, mixed, 1 + scale))
        return x + branch


@dataclass(slots=True)
class Written:
    """The state of a text that is being written.

    ``condition`` [B, D], ``bag`` [B, V] (``B z``), ``said`` [B, D] (the sum of the tokens' vectors), and for
    each block its FiLM [B, 2 D] and the state of its mixing.
    """

    condition: Tensor
    bag: Tensor
    said: Tensor
    films: list[Tensor]
    states: list[Tensor]

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was."""
        self.condition, self.bag, self.said = (
            tensor.index_select(0, rows) for tensor in (self.condition, self.bag, self.said)
        )
        self.films = [film.index_select(0, rows) for film in self.films]
        self.states = [state.index_select(0, rows) for state in self.states]


class Decoder(nn.Module):
    """A vector to a text, token by token.

    Args:
        cfg: sizes.
        vocab_size: V.
        z_dim: Z.
    """

    def __init__(self, cfg: DecoderConfig, vocab_size: int, z_dim: int) -> None:
        super().__init__()
        dim = cfg.dim
        self.max_len, self.correct = cfg.max_len, cfg.correct
        self.tokens, self.words = nn.Embedding(vocab_size, dim), nn.Embedding(vocab_size, z_dim)
        nn.init.normal_(self.tokens.weight, std=dim**-0.5 / TABLE_SCALE)
        nn.init.normal_(self.words.weight, std=z_dim**-0.5)
        self.unigram = nn.Parameter(torch.zeros(vocab_size))
        self.inp = nn.Linear(z_dim * (2 if cfg.correct else 1), dim)
        self.said = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(FilmBlock(dim, _mix(cfg, d), cfg.drop_path) for d in cfg.dilations)
        own = cfg.dilations[:1] if cfg.shared else cfg.dilations
        self.channels = nn.ModuleList(Channels(dim) for _ in own)
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    @torch.no_grad()
    def start_from(self, table: Tensor, log_share: Tensor) -> None:
        """Start as the words that a vector is near to: ``table`` [V, Z] of the teacher, ``log_share`` [V]."""
        start_words(self.words, table)
        self.unigram.copy_(log_share)

    def forward(self, z: Tensor, tokens: Tensor, draft: Tensor | None = None) -> Tensor:
        """The logits of each next token.

        Args:
            z: unit vectors [B, Z].
            tokens: what was written before, BOS first [B, L].
            draft: unit vectors of a first draft [B, Z], of a decoder that corrects.

        Returns:
            [B, L, V].
        """
        x = self._embed(self.dropout(self.tokens(tokens)))
        condition = self._condition(z, draft)
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None]
        h = x + condition[:, None] + self.said(x.cumsum(1) / count)
        for i, block in enumerate(self.blocks):
            h = block(h, condition, self._channels(i))
        n = self.norm(h)
        parts = self._own(n), self.gate(n), self._bag(z)
        logits: Tensor = _Gated.apply(*parts)  # type: ignore[no-untyped-call]
        return logits

    def start(self, z: Tensor, draft: Tensor | None = None) -> Written:
        """The state before the first token."""
        condition = self._condition(z, draft)
        return Written(
            condition,
            self._bag(z),
            torch.zeros_like(condition),
            [block.film(condition) for block in self.blocks],  # type: ignore[operator]
            [block.mix.start(len(z)) for block in self.blocks],  # type: ignore[operator, union-attr]
        )

    def step(self, token: Tensor, state: Written, t: int) -> Tensor:
        """The logits [B, V] of the token after ``token`` [B], which is the one at position ``t``."""
        x = self._embed(self.tokens(token))
        state.said += x
        h = x + state.condition + self.said(state.said / (t + 1))
        for i, block in enumerate(self.blocks):
            h = block.step(h, state.films[i], self._channels(i), state.states[i], t)  # type: ignore[operator]
        n = self.norm(h)
        own = self._own(n)
        return torch.addcmul(own, self.gate(n).to(own.dtype), state.bag.to(own.dtype))

    def _condition(self, z: Tensor, draft: Tensor | None) -> Tensor:
        if self.correct:
            z = torch.cat([z, torch.zeros_like(z) if draft is None else draft], -1)
        condition: Tensor = self.inp(z * math.sqrt(z.shape[-1]))
        return condition

    def _embed(self, rows: Tensor) -> Tensor:
        return rows * (TABLE_SCALE * math.sqrt(rows.shape[-1]))

    def _channels(self, block: int) -> nn.Module:
        return self.channels[block if len(self.channels) > 1 else 0]

    def _bag(self, z: Tensor) -> Tensor:
        return F.linear(z * TABLE_SCALE, self.words.weight)

    def _own(self, n: Tensor) -> Tensor:
        """The logits without the bag of words."""
        return F.linear(self.out(n) * TABLE_SCALE, self.tokens.weight, self.unigram)


def _mix(cfg: DecoderConfig, dilation: int) -> nn.Module:
    return CausalStateSpace(cfg.dim) if cfg.block == "ssm" else CausalConv(cfg.dim, cfg.kernel, dilation)


@torch.no_grad()
def start_words(words: nn.Embedding, table: Tensor) -> None:
    """Give a bag of words the teacher's vectors: ``words`` [V, Z] such that the own word's logit is 10."""
    centred = table - table[UNK + 1 :].mean(0)
    centred[: UNK + 1] = 0  # PAD, BOS, EOS and UNK are no words
    words.weight.copy_(F.normalize(centred, dim=-1) * (_FIRST_LOGIT / TABLE_SCALE))


def shifted(target: Tensor) -> Tensor:
    """What a decoder reads to write ``target`` [B, L]: BOS, and all but the last token."""
    return torch.cat([target.new_full((len(target), 1), BOS), target[:, :-1]], 1)


def token_losses(logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token, smoothed as ``(1 - e) one_hot + e / V``, and plain.

    Args:
        logits: [B, L, V]. target: ids [B, L]; where it is PAD, both are zero. smoothing: e.

    Returns:
        [B, L] with a gradient, [B, L] without one.
    """
    flat = target.reshape(-1)
    rows = logits.reshape(len(flat), -1)
    smooth, plain = _Losses.apply(rows, flat, smoothing)  # type: ignore[no-untyped-call]
    kept = target != PAD
    return smooth.view_as(target) * kept, plain.view_as(target) * kept


class _Gated(torch.autograd.Function):
    """``own + gate bag`` of [B, L, V], [B, L, 1] and [B, V], in place of ``own``; no product is kept."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, gate: Tensor, bag: Tensor) -> Tensor:
        gate, bag = gate.to(own.dtype), bag.to(own.dtype)
        ctx.save_for_backward(gate, bag)
        ctx.mark_dirty(own)
        return own.addcmul_(gate, bag[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, bag = ctx.saved_tensors
        return grad, torch.bmm(grad, bag[..., None]), torch.bmm(gate.mT, grad)[:, 0]


class _Losses(torch.autograd.Function):
    """``F.cross_entropy`` with a gradient that is written over the probabilities: half the memory traffic."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        logp = logits.float().log_softmax(-1)
        plain = -logp.gather(1, target[:, None])[:, 0]
        smooth = (1 - smoothing) * plain - smoothing * logp.mean(-1)
        ctx.mark_non_differentiable(plain)
        ctx.smoothing, ctx.dtype = smoothing, logits.dtype
        ctx.save_for_backward(logp, target)
        return smooth, plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        logp, target = ctx.saved_tensors
        inner = logp.exp()
        if ctx.smoothing:
            inner -= ctx.smoothing / inner.shape[1]
        at = target[:, None]
        inner.scatter_(1, at, inner.gather(1, at) - (1 - ctx.smoothing))
        return (inner.mul_(grad[:, None])).to(ctx.dtype), None, None

"""The objective of a codec that writes: vectors to texts (mode B), and sentences to vectors (mode A)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.contract import Context, Data, StepOutput, Task
from tinsmith.engine.losses import InfoNCELoss
from tinsmith.families.codec.config import CodecConfig
from tinsmith.families.codec.ctc import CtcDecoder
from tinsmith.families.codec.decoder import PAD, UNK, shifted, token_losses
from tinsmith.families.codec.decoding import write
from tinsmith.families.codec.measure import score
from tinsmith.families.codec.model import CodecModel
from tinsmith.families.codec.padding import padded
from tinsmith.families.codec.start import start_weights
from tinsmith.families.codec.task import encoding_loss, unit
from tinsmith.text.decoding import vocabulary_of
from tinsmith.text.generation_config import GenerationConfig
from tinsmith.text.tokenizer import Tokenizer

_CODES_SEEN = 20_000  # vectors that the bottleneck's codes are first fitted to


class TextTask(Task):
    """Cross-entropy of the texts under their vectors, and with ``mode=both`` the encoder's loss.

    Both either alternate from step to step, a function of the step alone, or are summed in each. No gradient
    reaches the teacher: its vectors are data. Without ``mode=both`` the encoder stays as it is.

    A batch is that of ``CodecTask`` with ``target`` [B, T].

    Args:
        model: what is trained. cfg: all settings. data: of the run: tokenizers, the words' vectors.
    """

    def __init__(self, model: CodecModel, cfg: CodecConfig, data: Data) -> None:
        super().__init__()
        self.model: CodecModel = model
        self.cfg, self.weights, self.domains = cfg.decoder, cfg.loss, data.spec.domains
        self.both = cfg.mode == "both"
        self.monitor = ("semantic", "max") if self.both else ("perplexity", "min")
        self.info_nce = InfoNCELoss(cfg.loss.temperature)
        self.reader: Tokenizer = data.artifacts["tokenizer"]
        self.writer: Tokenizer = data.artifacts["writer"]
        self.read_len = data.spec.max_len
        # What an expected text means: its tokens' vectors, averaged as the static tier does.
        words = data.artifacts["words"] * (1e-3 / (1e-3 + data.artifacts["log_share"].exp()))[:, None]
        words[: UNK + 1] = 0
        self.register_buffer("meaning", words if cfg.loss.cycle else None, persistent=False)
        if not self.both:
            model.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> TextTask:
        """As of ``nn.Module``; an encoder that stays as it is has no dropout."""
        super().train(mode)
        if not self.both:
            self.model.encoder.eval()
        return self

    def forward(self, batch: dict[str, Tensor], ctx: Context) -> StepOutput:
        """The loss; its weight is the number of sentences (mode A) or of tokens (mode B, and both summed)."""
        if self.both and self.weights.alternate and not writes(ctx.step, self.weights.share):
            loss, metrics = self._encode(batch)
            return StepOutput(loss, float(len(batch["z"])), metrics)
        loss, metrics = self._write(batch, ctx.step)
        if self.both and not self.weights.alternate:
            other, more = self._encode(batch)
            loss, metrics = self.weights.share * loss + (1 - self.weights.share) * other, metrics | more
        return StepOutput(loss, (batch["target"] != PAD).sum(), metrics)

    def _encode(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.model(batch["tokens"], batch["mask"])
        has_tiers = self.model.encoder.conv is not None
        loss, cos = encoding_loss(self.weights, self.info_nce, out, batch["z"], has_tiers)
        return loss, {"cosine": cos.detach()}

    def _write(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        w, target = self.weights, batch["target"]
        z, extra = self._vectors(batch)
        tokens = (target != PAD).sum()
        if isinstance(self.model.decoder, CtcDecoder):
            nll = self.model.decoder.losses(z, target).sum() / tokens
            return w.ce * nll + extra, {"nll": nll.detach()}
        draft = self._draft(z, step) if self.cfg.correct else None
        logits = self.model.decoder(z, shifted(target), draft)
        smooth, plain = token_losses(logits, target, w.label_smoothing)
        loss = w.ce * smooth.sum() / tokens + extra
        if w.cycle:
            loss = loss + w.cycle * self._cycle(logits, target, z)
        if w.contrast:
            loss = loss + w.contrast * self._contrast(smooth, z, target)
        return loss, {"nll": plain.sum() / tokens}

    def _vectors(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | float]:
        """What is written out, unit vectors [B, Z], and the bottleneck's own loss."""
        z, cfg = batch["z"].float(), self.cfg
        if cfg.source != "teacher":
            with torch.set_grad_enabled(self.both and self.weights.through > 0 and torch.is_grad_enabled()):
                own = unit(self.model(batch["tokens"], batch["mask"]))
            own = own.detach() + self.weights.through * (own - own.detach())
            odd = torch.arange(len(z), device=z.device)[:, None] % 2 == 1
            z = own if cfg.source == "student" else torch.where(odd, own, z)
        extra: Tensor | float = 0.0
        if self.model.codes is not None:
            z, extra = self.model.codes(z)
        if cfg.noise and self.training:
            z = F.normalize(z + cfg.noise * z.shape[-1] ** -0.5 * torch.randn_like(z), dim=-1)
        return z, extra

    def _cycle(self, logits: Tensor, target: Tensor, z: Tensor) -> Tensor:
        """``1 - cos`` of the mean vector of the expected words to ``z``: what is written must mean it."""
        assert isinstance(self.meaning, Tensor)
        share = logits.float().softmax(-1) * (target != PAD)[..., None]
        expected = share.sum(1) @ self.meaning  # [B, Z]
        return (1 - F.cosine_similarity(expected, z, dim=-1)).mean()

    def _contrast(self, smooth: Tensor, z: Tensor, target: Tensor) -> Tensor:
        """``softplus`` of how much more a token costs under its own vector than under the next sentence's."""
        other, _ = token_losses(
            self.model.decoder(z.roll(1, 0), shifted(target)), target, self.weights.label_smoothing
        )
        length = (target != PAD).sum(1)
        return F.softplus((smooth.sum(1) - other.sum(1)) / length).mean()

    def _draft(self, z: Tensor, step: int) -> Tensor | None:
        """The vectors of first drafts, in every second step; in the others the decoder writes them itself."""
        if step % 2 == 0:
            return None
        with torch.no_grad():
            return self.read(self.write(z.detach())).to(z.device).clone()

    def write(self, z: Tensor) -> list[str]:
        """Texts of unit vectors [B, Z], greedily."""
        cfg = GenerationConfig(max_new_tokens=self.model.decoder.max_len)
        vocabulary = vocabulary_of(self.writer, cfg, self.writer.decode)
        answers = write(self.model.decoder, z, cfg, vocabulary, [0] * len(z))
        return [several[0].text for several in answers]

    def read(self, texts: list[str]) -> Tensor:
        """The encoder's unit vectors of texts [B, Z]; zero for an empty one."""
        rows = self.reader.encode_batch(texts, self.read_len)
        z = self.model.encoder.table.weight.new_zeros(len(rows), self.model.encoder.table.weight.shape[1])
        some = [i for i, row in enumerate(rows) if row]
        if some:
            tokens, mask = padded([rows[i] for i in some])
            z[some] = unit(self.model(tokens.to(z.device), mask.to(z.device)))
        return z

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """``perplexity`` of the texts, ``reencoded`` cosine by the own encoder; of ``mode=both`` its scores.

        ``semantic`` is the mean of ``cosine`` and ``reencoded``. Texts are written from the teacher's
        vectors.
        """
        nll, tokens = 0.0, 0
        own, teacher, domain = [], [], []
        for batch in batches:
            loss, count = self._plain_loss(batch)
            nll, tokens = nll + loss, tokens + count
            if self.both:
                own.append(unit(self.model(batch["tokens"], batch["mask"])).cpu())
            teacher.append(batch["z"].float())
            domain.append(batch["domain"].cpu())
        z = torch.cat(teacher)
        found = {"perplexity": math.exp(min(nll / max(1, tokens), 30.0))}
        picked = torch.linspace(0, len(z) - 1, min(len(z), self.cfg.validate_texts)).long()
        if len(picked):
            found["reencoded"] = float((self._rewritten(z[picked]) * z[picked]).sum(-1).mean())
        if self.both:
            found |= score(torch.cat(own), z.cpu(), torch.cat(domain), self.domains)
            found["semantic"] = (found["cosine"] + found.get("reencoded", found["cosine"])) / 2
        return found

    def _rewritten(self, z: Tensor) -> Tensor:
        """The vectors of what is written of ``z`` [N, Z], in the smallest of batches that pay."""
        return torch.cat([self.read(self.write(self.model.squeeze(part))) for part in torch.split(z, 64)])

    def _plain_loss(self, batch: dict[str, Tensor]) -> tuple[float, int]:
        """The sum of the unsmoothed losses of a batch's tokens under the teacher's vectors; their number."""
        target, z = batch["target"], self.model.squeeze(batch["z"].float())
        count = int((target != PAD).sum())
        if isinstance(self.model.decoder, CtcDecoder):
            return float(self.model.decoder.losses(z, target).double().sum()), count
        _, plain = token_losses(self.model.decoder(z, shifted(target)), target, 0.0)
        return float(plain.double().sum()), count


def writes(step: int, share: float) -> bool:
    """Whether a step is one of the ``share`` that train the decoder: spread evenly, and known in advance."""
    return math.floor((step + 1) * share) > math.floor(step * share)


def build_text_task(cfg: CodecConfig, model: CodecModel, data: Data) -> TextTask:
    """The task of a run with a decoder, which starts at the teacher's vectors of single words."""
    model.decoder.start_from(data.artifacts["words"], data.artifacts["log_share"])
    if model.codes is not None:
        dataset = data.train.dataset
        model.codes.start_from(dataset.targets(_some(len(dataset))))
    if cfg.init:
        start_weights(cfg, model, data.spec)
    return TextTask(model, cfg, data)


def _some(count: int) -> Any:
    """Indices of up to ``_CODES_SEEN`` sentences, evenly spread."""
    return np.linspace(0, count - 1, min(count, _CODES_SEEN)).astype(np.int64)

"""The rows of the evaluation table about writing: the decoder, and retrieval in its place."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.contract import Data
from tinsmith.families.codec.ctc import CtcDecoder
from tinsmith.families.codec.decoder import PAD, shifted, token_losses
from tinsmith.families.codec.predict import Codec
from tinsmith.families.codec.writing import score_texts

_WRITTEN = 400  # held-out sentences that are written out
_SHORT = 16  # tokens of the encoder: a second set of figures is of sentences up to this length
_RETRIEVED_FROM = 200_000  # training sentences among which the baseline looks


def writing_rows(predictor: Codec, data: Data, split: str) -> list[dict[str, Any]]:
    """How well texts are written from vectors, over sentences of a split; none without a decoder.

    ``written`` is by the decoder from the teacher's vectors, ``written, own vectors`` from the codec's own,
    ``written, 4 beams`` the likeliest of four beams, ``written, best of 8`` the nearest of eight candidates
    by the codec's own encoder, ``written twice`` a second pass of a decoder that corrects, ``nearest
    neighbour`` the training sentence whose teacher vector is nearest, and ``the sentences themselves`` what
    there is to reach. ``reencoded`` is the mean cosine of the teacher's vector of what was written to that of
    the sentence. ``bleu_16`` and so on are of the
    sentences of up to 16 tokens.
    """
    if predictor.decoder is None:
        return []
    dataset = getattr(data, split).dataset
    picked = np.linspace(0, len(dataset) - 1, min(_WRITTEN, len(dataset))).astype(np.int64)
    rows = getattr(data.artifacts["corpus"], split)
    texts, z = [rows[i]["text"] for i in picked], dataset.targets(picked)
    short = (dataset.lengths[torch.from_numpy(picked)] <= _SHORT).tolist()
    start = time.perf_counter()
    written = predictor.decode(z)
    rate = round(len(texts) / (time.perf_counter() - start))
    made = {
        "written": written,
        "written, own vectors": predictor.decode(predictor.encode(texts)),
        "written, best of 8": predictor.decode(z, best_of=8),
        "nearest neighbour": _retrieved(z, data),
        "the sentences themselves": texts,
    }
    if not isinstance(predictor.decoder, CtcDecoder):
        made["written, 4 beams"] = predictor.decode(z, num_beams=4)
    if predictor.decoder.correct:
        made["written twice"] = predictor.decode(z, correct=True)
    result = []
    for name, candidate in made.items():
        row = {"name": name, **_scored(candidate, texts, z, short, data)}
        if name == "written":
            row["written_per_sec"] = rate
            row["perplexity"] = perplexity(predictor, getattr(data, split))
        result.append(row)
    return result


@torch.inference_mode()
def perplexity(predictor: Codec, loader: Any) -> float:
    """``exp`` of the mean unsmoothed loss of a token under its sentence's teacher vector, of a split."""
    decoder, codes, device = predictor.decoder, predictor.codes, predictor.device
    nll, tokens = 0.0, 0
    for batch in loader:
        z, target = batch["z"].to(device), batch["target"].to(device)
        z = z if codes is None else codes(z)[0]
        if isinstance(decoder, CtcDecoder):
            nll += float(decoder.losses(z, target).double().sum())
        else:
            assert decoder is not None
            nll += float(token_losses(decoder(z, shifted(target)), target, 0.0)[1].double().sum())
        tokens += int((target != PAD).sum())
    return math.exp(min(nll / max(1, tokens), 30.0))


def add_to_first(encoding: list[dict[str, Any]], writing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows; the first, which the bars of ``--require`` look at, has the decoder's figures too."""
    if writing:
        encoding[0] |= {key: value for key, value in writing[0].items() if key != "name"}
    return [*encoding, *writing[1:]]


def rewritings(
    predictor: Codec, data: Data, texts: list[str], z: Tensor, count: int = 5
) -> list[dict[str, Any]]:
    """A few held-out sentences, and what is written from their vectors."""
    if predictor.decoder is None:
        return []
    picked = torch.linspace(0, len(texts) - 1, count + 2).long()[1:-1].tolist()
    written, neighbour = predictor.decode(z[picked]), _retrieved(z[picked], data)
    lines = [[texts[i], text, near] for i, text, near in zip(picked, written, neighbour, strict=True)]
    columns = ["sentence", "written from its vector", "nearest training sentence"]
    return [{"title": "Vectors written out", "columns": columns, "rows": lines}]


def _retrieved(z: Tensor, data: Data) -> list[str]:
    """For each vector the training sentence whose teacher vector is nearest."""
    dataset, rows = data.train.dataset, data.artifacts["corpus"].train
    best = torch.full((len(z),), -2.0)
    index = torch.zeros(len(z), dtype=torch.long)
    for first in range(0, min(len(dataset), _RETRIEVED_FROM), 8192):
        part = dataset.targets(np.arange(first, min(first + 8192, len(dataset))))
        near, at = (z @ part.T).max(1)
        index = torch.where(near > best, at + first, index)
        best = torch.maximum(best, near)
    return [rows[i]["text"] for i in index.tolist()]


def _scored(
    candidate: list[str], texts: list[str], z: Tensor, short: list[bool], data: Data
) -> dict[str, float]:
    """The metrics of written texts against the true ones and their teacher vectors ``z`` [N, Z]."""
    near = (_reencoded(candidate, data) * z).sum(-1)
    kept = [i for i, is_short in enumerate(short) if is_short]
    found = {"reencoded": float(near.mean()), **score_texts(candidate, texts)}
    if kept:
        few = score_texts([candidate[i] for i in kept], [texts[i] for i in kept])
        found |= {"reencoded_16": float(near[kept].mean())}
        found |= {f"{name}_16": few[name] for name in ("bleu", "exact") if name in few}
    return found


def _reencoded(texts: list[str], data: Data) -> Tensor:
    """The teacher's unit vectors of texts [N, Z]; zero for an empty one."""
    some = [i for i, text in enumerate(texts) if text.strip()]
    teacher = data.artifacts["teacher"]
    out = torch.zeros(len(texts), teacher.size)
    if some:
        out[some] = torch.from_numpy(teacher.encode([texts[i] for i in some]))
    return out

"""BLEU and chrF by sacrebleu, with the signature that makes them comparable."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from tinsmith.errors import missing_extra


def has_sacrebleu() -> bool:
    """Whether ``bleu`` can be measured here."""
    return find_spec("sacrebleu") is not None


def bleu(written: Sequence[str], references: Sequence[str], lowercase: bool = False) -> dict[str, Any]:
    """sacrebleu's corpus BLEU and chrF of whole texts against one reference each, with BLEU's signature.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise missing_extra("BLEU", "seq2seq") from None
    metric = BLEU(lowercase=lowercase, force=True)  # without a warning of full stops that stand apart
    score = metric.corpus_score(list(written), [list(references)])
    chrf = CHRF(lowercase=lowercase).corpus_score(list(written), [list(references)])
    return {"bleu": score.score, "chrf": chrf.score, "bleu_signature": str(metric.get_signature())}

"""How good written texts are: BLEU, the diversity of their words, exact and repeated ones.

Texts are compared in lower case: most teachers do not see the case, so no vector tells of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tinsmith.text.bleu import bleu, has_sacrebleu

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def diversity(texts: Sequence[str], n: int = 2) -> float:
    """Distinct n-grams of all texts over their number (Li et al. 2016, arXiv:1510.03055)."""
    grams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        tokens = words(text)
        grams.update(zip(*(tokens[i:] for i in range(n)), strict=False))
    count = sum(grams.values())
    return len(grams) / count if count else 0.0


def exact(written: Sequence[str], true: Sequence[str]) -> float:
    """Share of the texts that are the true ones, word for word."""
    return sum(words(a) == words(b) for a, b in zip(written, true, strict=True)) / max(1, len(true))


def duplicates(texts: Sequence[str]) -> float:
    """Share of the texts that an earlier one equals: a collapsed decoder writes the same again and again."""
    return 1 - len({tuple(words(text)) for text in texts}) / max(1, len(texts))


def score_texts(written: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """All of the above, and sacrebleu's BLEU in lower case where it is installed.

    The true texts' own diversity is the measure of it.
    """
    found = {"bleu": bleu(written, true, lowercase=True)["bleu"]} if has_sacrebleu() and written else {}
    return {
        **found,
        "exact": exact(written, true),
        "diversity": diversity(written),
        "duplicates": duplicates(written),
    }

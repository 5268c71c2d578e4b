"""Answers without a network."""

import numpy as np

from tinsmith.families.trm.baselines import copied
from tinsmith.families.trm.tokens import CharTokenizer


def test_a_gap_is_filled_with_what_follows_where_the_same_characters_stand() -> None:
    tokenizer = CharTokenizer()
    cases = {
        "return total<sep>x = 1; return ~~~~~": "total",
        "for<sep>if a:~~~~~; if a: pass": " pass",  # behind the gap too
        "return a; xreturn b<sep>xreturn ~": "b",  # the longest run counts
        "ab<sep>cd ~~~": "...",  # two characters are no run
        "<sep>abc~~": "..",  # and its own place is no other
    }
    for text, expected in cases.items():
        before, _, after = text.partition("~")
        gap = [tokenizer.mask_id] * len(expected)
        inputs = np.array([[*tokenizer.encode(before), *gap, *tokenizer.encode(after.strip("~"))]])
        found = copied(inputs, tokenizer.mask_id, tokenizer.encode(".")[0])[0]
        assert tokenizer.decode(found[inputs[0] == tokenizer.mask_id]) == expected, text

import logging

import numpy as np
import pytest
import torch

from tinsmith.families.trm.symmetry import draw_keys
from tinsmith.families.trm.tokens import (
    MARKER,
    CharTokenizer,
    SpanMasking,
    load_tokenizer,
    pad_sequence,
    prepare_code_input,
    tokenize_and_pad,
    with_gap,
)


def test_text_comes_back() -> None:
    tokenizer = CharTokenizer()
    text = prepare_code_input("adds two", "def f(a, b):\n    return a + b  # ~{}")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text).count(tokenizer.sep_id) == 1
    assert tokenizer.decode(tokenizer.encode("naïve\t!")) == "na?ve    !"
    assert max(tokenizer.encode(text)) < tokenizer.vocab_size


def test_what_cannot_be_had_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture, tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text("{broken", "utf-8")
    with caplog.at_level(logging.WARNING):
        assert load_tokenizer(str(tmp_path)).name == "chars"
    assert "falling back to one token a character" in caplog.text


def test_a_subword_tokenizer_has_ids_of_its_own_behind_the_vocabulary(tmp_path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["def f(x): return x"] * 3, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    text = f"what{MARKER}def f(x): return x"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.sep_id) == 1
    assert tokenizer.decode([*ids, tokenizer.pad_id, tokenizer.mask_id]) == text
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    assert load_tokenizer(str(tmp_path / "again")).encode(text) == ids


def test_padding() -> None:
    assert pad_sequence([1, 2], 4) == [1, 2, 0, 0]
    assert pad_sequence([1, 2, 3], 2) == [2, 3]
    assert pad_sequence([1, 2, 3], 2, keep="start") == [1, 2]
    with pytest.raises(ValueError, match="keep='middle'"):
        pad_sequence([1], 2, keep="middle")
    ids, mask = tokenize_and_pad(["ab", "abcdef"], CharTokenizer(), 4)
    assert ids.shape == (2, 4)
    assert mask.sum(1).tolist() == [2, 4]
    assert (ids[~mask] == 0).all()
    assert ids[1].tolist() == CharTokenizer().encode("cdef")


def test_a_gap_is_masked() -> None:
    tokenizer = CharTokenizer()
    ids, start = with_gap("x = ___ + 1", tokenizer, 5)
    assert start == 4
    assert ids[4:9] == [tokenizer.mask_id] * 5
    assert tokenizer.decode(ids) == "x =  + 1"
    for text in ("no gap", "___ and ____"):
        with pytest.raises(ValueError, match="one gap"):
            with_gap(text, tokenizer, 5)


def test_spans_lie_in_the_code_and_everything_else_is_ignored() -> None:
    tokenizer = CharTokenizer()
    texts = [
        prepare_code_input("context", "abcdefghij"),
        prepare_code_input("", "xyz"),
        prepare_code_input("c", "k" * 9),
    ]
    ids, mask = tokenize_and_pad(texts, tokenizer, 24, keep="start")
    tokens = ids.numpy().astype(np.int32)
    masking = SpanMasking(tokenizer, 4)
    starts = set()
    for epoch in range(200):
        inputs, labels = masking.hide(tokens, draw_keys(0, epoch, np.arange(3), 1))
        hidden = inputs == tokenizer.mask_id
        assert hidden.sum(1).tolist() == [4, 3, 4]
        assert (labels[hidden] == tokens[hidden]).all()
        assert (labels[~hidden] == -100).all()
        assert (inputs[~hidden] == tokens[~hidden]).all()
        for row in range(3):
            sep = int((tokens[row] == tokenizer.sep_id).argmax())
            places = np.nonzero(hidden[row])[0]
            assert places.min() > sep
            assert places.max() < mask[row].sum()
            assert (np.diff(places) == 1).all()
        starts.add(int(np.nonzero(hidden[0])[0][0]) - 8)
    assert starts == set(range(7))  # each place of ten characters where four fit
    assert torch.from_numpy(inputs).dtype == torch.int32
    keys = draw_keys(0, 0, np.arange(3), 3)
    several = masking.hide(tokens, keys)[0] == tokenizer.mask_id
    alone = [masking.hide(tokens, keys[:, i : i + 1])[0] == tokenizer.mask_id for i in range(3)]
    assert (several == alone[0] | alone[1] | alone[2]).all()
    assert several.sum() > alone[0].sum()

from pathlib import Path

import pytest

from tinsmith.errors import DataError
from tinsmith.families.lm.tokens import ByteTokenizer, CharTokenizer, cut, encode_documents, load_tokens
from tinsmith.text.tokenizer import Tokenizer

TEXT = "Zwölf Boxkämpfer jagen Viktor 𝄞 \t über\n\nden großen Sylter Deich <eos>"


@pytest.mark.parametrize(
    "tokens",
    [CharTokenizer.fit(TEXT), ByteTokenizer(), Tokenizer.fit([TEXT], 280)],
    ids=["char", "byte", "bpe"],
)
def test_every_text_comes_back(tokens: CharTokenizer | ByteTokenizer | Tokenizer, tmp_path: Path) -> None:
    ids = tokens.encode(TEXT)
    assert tokens.decode(ids) == TEXT
    assert (tokens.pad_id, tokens.bos_id, tokens.eos_id, tokens.unk_id) == (0, 1, 2, 3)
    assert min(ids) > 3
    assert max(ids) < tokens.vocab_size
    sizes = tokens.byte_lengths()
    assert len(sizes) == tokens.vocab_size
    assert sum(sizes[i] for i in ids) == len(TEXT.encode())
    assert tokens.decode([1, *ids, 2, *ids, 0]) == TEXT
    tokens.save(tmp_path)
    level = {CharTokenizer: "char", ByteTokenizer: "byte", Tokenizer: "bpe"}[type(tokens)]
    again = load_tokens(level, tmp_path)
    assert again.encode(TEXT) == ids
    assert again.vocab_size == tokens.vocab_size


def test_an_unknown_character_is_unk() -> None:
    tokens = CharTokenizer.fit("abc")
    assert tokens.encode("aéc") == [4, 3, 6]
    assert tokens.decode([4, 3, 6]) == "a\ufffdc"
    assert CharTokenizer("").encode("ab") == [3, 3]


def test_damaged_characters_are_refused(tmp_path: Path) -> None:
    for content in ("", "[]", '{"characters": 5}', '{"characters": "aa"}'):
        (tmp_path / "characters.json").write_text(content, "utf-8")
        with pytest.raises(DataError, match="character"):
            CharTokenizer.load(tmp_path)
    with pytest.raises(DataError, match="characters"):
        CharTokenizer.load(tmp_path / "nowhere")


def test_long_texts_are_cut_behind_lines() -> None:
    text = "".join(f"line {i}\n" for i in range(100)) + "end"
    pieces = cut(text, 50)
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert cut("x" * 90, 50) == ["x" * 90]
    tokenizer = Tokenizer.fit([text], 300)
    (ids,) = encode_documents(tokenizer, [text])
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode(ids[1:].tolist()) == text

"""The tokenizer: byte-level BPE or words fitted on a corpus, or the teacher's own; ids never move."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import xxhash

from tinsmith.durable import replace_bytes
from tinsmith.errors import ConfigError, DataError, missing_extra

if TYPE_CHECKING:
    import tokenizers

log = logging.getLogger(__name__)

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIALS = (PAD, BOS, EOS, UNK)  # ids 0 to 3 of a fitted vocabulary
FILE, META = "tokenizer.json", "tinsmith_tokenizer.json"
_KEYS = ("pad_id", "bos_id", "eos_id", "unk_id")

# Under what names a teacher's configuration keeps each of them.
_TEACHER_NAMES = {
    PAD: ("pad_token",),
    BOS: ("bos_token", "cls_token"),
    EOS: ("eos_token", "sep_token"),
    UNK: ("unk_token",),
}


class Tokenizer:
    """Text to ids and back. Made by ``fit``, ``from_teacher`` or ``load``; its vocabulary is then frozen.

    Nothing is added to a text: no BOS, no EOS. A special token's name inside a text is text, never the token.

    Attributes:
        pad_id, bos_id, eos_id, unk_id: ids of the four special tokens; 0, 1, 2, 3 when fitted here.
    """

    def __init__(self, backend: "tokenizers.Tokenizer", special_ids: Sequence[int]) -> None:
        """Wrap a ``tokenizers.Tokenizer``; the vocabulary is open until ``freeze``.

        Args:
            backend: the tokenizer; its truncation, padding and special tokens are switched off.
            special_ids: ids of PAD, BOS, EOS, UNK.
        """
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # "</s>" in a text is five characters
        self._backend = backend
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = special_ids
        self._frozen = False
        # fast: without the offsets, which nobody asks for
        self._batch = getattr(backend, "encode_batch_fast", backend.encode_batch)

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        vocab_size: int = 8000,
        kind: Literal["bpe", "word"] = "bpe",
        min_frequency: int = 2,
        split_digits: bool = False,
    ) -> "Tokenizer":
        """Fit a vocabulary.

        Args:
            texts: the corpus; streamed once.
            vocab_size: ids in all, the four special ones (and for ``bpe`` 256 bytes) among them.
            kind: ``bpe``: byte-level BPE, every text round-trips, UNK never occurs. ``word``: words and
                punctuation in lower case, for small worlds; an unknown word is UNK.
            min_frequency: how often a merge or a word must occur.
            split_digits: with ``bpe``: each digit is a token of its own, so that figures are read and
                copied digit by digit.

        Raises:
            ConfigError: an impossible size or an unknown kind.
            DataError: no texts.
            MissingExtraError: the package ``tokenizers`` is not installed.
        """
        floor = {"bpe": 256 + len(SPECIALS), "word": 1 + len(SPECIALS)}
        if kind not in floor:
            raise ConfigError(f"tokenizer kind={kind!r}: allowed are 'bpe' and 'word'")
        if vocab_size < floor[kind]:
            raise ConfigError(f"vocab_size={vocab_size}: kind={kind!r} needs at least {floor[kind]}")
        backend, trainer = _untrained(kind, vocab_size, min_frequency, split_digits)
        counted = _Counted(texts)
        backend.train_from_iterator(counted, trainer)
        if not counted.number:
            raise DataError("the tokenizer got no texts to fit on")
        return cls(backend, range(len(SPECIALS))).freeze()

    @classmethod
    def from_teacher(cls, folder: str | Path) -> "Tokenizer":
        """The tokenizer of a teacher's folder, with the teacher's ids.

        PAD, BOS, EOS, UNK are the teacher's own (BERT: [PAD], [CLS], [SEP], [UNK]); one that the teacher
        lacks, or uses for another of the four, is added at the end of the vocabulary.

        Raises:
            DataError: no ``tokenizer.json`` in the folder, or a damaged one.
        """
        folder = Path(folder)
        backend = _backend(folder / FILE)
        names = _teacher_names(folder)
        ids: list[int] = []
        for name, keys in _TEACHER_NAMES.items():
            known = (backend.token_to_id(names[key]) for key in keys if key in names)
            found = next((index for index in known if index is not None and index not in ids), None)
            if found is None:
                backend.add_special_tokens([name])
                found = backend.token_to_id(name)
            ids.append(found)
        return cls(backend, ids).freeze()

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Load what ``save`` wrote.

        Raises:
            DataError: a file is missing, damaged or not the one that was saved.
        """
        meta_path = Path(folder) / META
        try:
            meta = json.loads(meta_path.read_text("utf-8"))
            ids, digest = [int(meta[key]) for key in _KEYS], meta["digest"]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{meta_path}: no tokenizer here, or a damaged one: {error}") from None
        path = Path(folder) / FILE
        if path.is_file() and _digest(ids, path.read_bytes()) != digest:
            raise DataError(
                f"{path}: not the file that was saved (its digest differs), or {META} is not; restore them"
            )
        return cls(_backend(path), ids).freeze()

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` (Hugging Face's format) and the special ids into ``folder``."""
        replace_bytes(Path(folder) / FILE, self._backend.to_str().encode())
        meta = {key: getattr(self, key) for key in _KEYS} | {"digest": self.fingerprint}
        replace_bytes(Path(folder) / META, json.dumps(meta, indent=1).encode())

    @property
    def vocab_size(self) -> int:
        """Number of rows that a table of embeddings needs: the largest id and one."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def fingerprint(self) -> str:
        """xxh3-128 of the vocabulary and the special ids, in hexadecimal."""
        return _digest([getattr(self, key) for key in _KEYS], self._backend.to_str().encode())

    def encode(self, text: str, max_len: int | None = None) -> list[int]:
        """The ids of a text, cut after ``max_len``."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids[:max_len]

    def encode_batch(self, texts: Sequence[str], max_len: int | None = None) -> list[list[int]]:
        """The ids of each text, cut after ``max_len``; on all cores."""
        return [encoding.ids[:max_len] for encoding in self._batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids up to the first EOS; PAD and BOS are left out, UNK is shown."""
        kept = []
        for index in ids:
            if index == self.eos_id:
                break
            if index not in (self.pad_id, self.bos_id):
                kept.append(int(index))
        text: str = self._backend.decode(kept, skip_special_tokens=False)
        return text

    def byte_lengths(self) -> list[int]:
        """UTF-8 bytes that each id of a byte-level vocabulary stands for; 0 for special tokens."""
        special = {self.pad_id, self.bos_id, self.eos_id, self.unk_id}
        names = (self._backend.id_to_token(i) for i in range(self.vocab_size))
        return [0 if i in special or name is None else len(name) for i, name in enumerate(names)]

    def add_tokens(self, tokens: Sequence[str]) -> int:
        """Add whole tokens at the end of an open vocabulary; returns how many were new."""
        if self._frozen:
            self._refuse()
        added: int = self._backend.add_tokens(list(tokens))
        return added

    def freeze(self) -> "Tokenizer":
        """Close the vocabulary: from now on every id keeps its meaning. Returns the tokenizer itself."""
        self._frozen = True
        # `Tokenizer.fit(...)` makes a new one; `tokenizer.fit(...)` must not look as if it changed this one
        self.fit = self._refuse  # type: ignore[method-assign]
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # the backend's own pickle forgets that special tokens' names in a text are text
        return _from_text, (self._backend.to_str(), [getattr(self, key) for key in _KEYS])

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigError(
            "the vocabulary is frozen: models are trained on its ids. A new one: Tokenizer.fit(texts, ...)"
        )


def _digest(special_ids: list[int], data: bytes) -> str:
    """xxh3-128 of the special ids and a ``tokenizer.json``."""
    return str(xxhash.xxh3_128_hexdigest(f"{special_ids}".encode() + data))


def _from_text(backend: str, special_ids: list[int]) -> Tokenizer:
    return Tokenizer(_library().Tokenizer.from_str(backend), special_ids).freeze()


class _Counted:
    """Iterates over texts and counts them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = iter(texts)
        self.number = 0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> str:
        text = next(self.texts)
        self.number += 1
        return text


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise missing_extra("the codec's tokenizer", "codec") from None
    return tokenizers


def _untrained(kind: str, vocab_size: int, min_frequency: int, split_digits: bool) -> tuple[Any, Any]:
    lib = _library()
    options = {
        "vocab_size": vocab_size,
        "min_frequency": min_frequency,
        "special_tokens": list(SPECIALS),
        "show_progress": False,
    }
    if kind == "word":
        backend = lib.Tokenizer(lib.models.WordLevel(unk_token=UNK))
        backend.normalizer = lib.normalizers.Sequence([lib.normalizers.NFC(), lib.normalizers.Lowercase()])
        backend.pre_tokenizer = lib.pre_tokenizers.Whitespace()
        return backend, lib.trainers.WordLevelTrainer(**options)
    backend = lib.Tokenizer(lib.models.BPE())
    backend.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split_digits:
        digits = lib.pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = lib.pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    backend.decoder = lib.decoders.ByteLevel()
    alphabet = lib.pre_tokenizers.ByteLevel.alphabet()
    return backend, lib.trainers.BpeTrainer(initial_alphabet=alphabet, **options)


def _backend(path: Path) -> Any:
    lib = _library()
    if not path.is_file():
        raise DataError(f"{path}: no such file; a teacher's or a student's folder has a {FILE}")
    try:
        backend = lib.Tokenizer.from_file(str(path))
        for text in ("tin", "\u2603\U0010fffd"):  # some are broken in a way that only encoding shows
            backend.encode(text)
            backend.encode(text, add_special_tokens=False)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # the Rust library raises bare Exception; its panics are not even that
        raise DataError(f"{path}: not a tokenizer, or a damaged one: {error}") from None
    return backend


def _teacher_names(folder: Path) -> dict[str, str]:
    """``pad_token`` -> ``[PAD]`` and so on, from whichever of the teacher's files has them."""
    names: dict[str, str] = {}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / file
        try:
            values = json.loads(path.read_text("utf-8")) if path.exists() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: broken JSON: {error}") from None
        if not isinstance(values, dict):
            raise DataError(f"{path}: broken: not an object")
        for key, value in values.items():
            value = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(value, str):
                if not value.isprintable():  # half a surrogate pair among them, which is no text
                    raise DataError(f"{path}: broken: {key} is {value!r:.40}")
                names[key] = value
    return names


# ---- forking: a child of a process that has tokenized on many threads hangs in its first parallel call,
# so the library prints a warning and goes serial, unless the variable says so: say it, if the user has not.

_VARIABLE = "TOKENIZERS_PARALLELISM"
_ours = False


def _before_fork() -> None:
    global _ours
    if _VARIABLE not in os.environ:
        _ours = True
        os.environ[_VARIABLE] = "false"


def _after_fork_in_parent() -> None:
    global _ours
    if _ours:
        _ours = False
        os.environ.pop(_VARIABLE, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)

"""Teachers: sentence encoders and decoders as one function from texts to vectors.

Shapes: B texts, L tokens (the special ones too), H hidden size, V vocabulary, Z embedding size.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import ConfigError, DataError
from tinsmith.text.teacher_config import TeacherConfig
from tinsmith.text.teacher_files import find_folder, fingerprint, read_recipe

if TYPE_CHECKING:
    from tinsmith.text.teacher_model import TeacherModel

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]

_WINDOW = 4096  # texts sorted by length together: long enough to fill batches evenly, short enough to stream


class EmbeddingLoader:
    """A teacher by preset, folder or hub name. The network is loaded when it is first needed.

    The adapter owns pooling, Dense heads, normalisation, prefix and truncation, and equals
    ``SentenceTransformer(folder).encode``. The same text gives the same vector up to about 1e-6 whatever
    stands in the batch with it. float32 on a CPU; on a GPU the dtype the weights were saved in.
    """

    def __init__(
        self,
        name_or_path: str | Path = "minilm",
        pooling: str | None = None,
        normalize: bool | None = None,
        prefix: str | None = None,
        device: str = "auto",
        batch_size: int = 64,
        max_len: int | None = None,
    ) -> None:
        """Find the teacher; what is None, its own files or its preset decide.

        Args:
            name_or_path: a name in ``PRESETS``, a folder, or a name on the Hugging Face hub.
            pooling: ``mean``, ``cls`` or ``last``.
            normalize: whether vectors get length one.
            prefix: what stands before every text.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            batch_size: texts at once; changes vectors by rounding only.
            max_len: where texts are cut, in tokens, if the teacher takes as many.

        Raises:
            ConfigError: no such teacher, or an option out of its range.
            DataError: it cannot be had, or its files are broken.
            MissingExtraError: the package with its weights is not installed.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: at least 1")
        self.name = str(name_or_path)
        self.folder, preset = find_folder(name_or_path)
        self.recipe = read_recipe(self.folder, preset, pooling, normalize, prefix, max_len)
        self.batch_size = batch_size
        self._device = device

    @cached_property
    def _model(self) -> "TeacherModel":
        from tinsmith.text.teacher_model import TeacherModel  # torch and transformers: seconds

        return TeacherModel(self.folder, self.recipe, self._device)

    @cached_property
    def fingerprint(self) -> str:
        """xxh3-128 over weights, configuration, tokenizer and all that changes a vector, in hexadecimal."""
        return fingerprint(self.folder, self.recipe)

    @property
    def size(self) -> int:
        """Z, the numbers in a vector, as the network gives them."""
        return self._model.size

    @property
    def tokenizer_file(self) -> Path:
        """The teacher's ``tokenizer.json``; ``Tokenizer.from_teacher`` takes its folder.

        Raises:
            DataError: the teacher has an older kind of tokenizer only.
        """
        path = self.folder / self.recipe.body / "tokenizer.json"
        if not path.exists():
            raise DataError(f"{path}: this teacher has no fast tokenizer; fit one: Tokenizer.fit(texts)")
        return path

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """The vectors of texts.

        Args:
            texts: B texts, none of them without a token.
            progress: called with (done, total) after each batch.

        Returns:
            [B, Z] float32.

        Raises:
            DataError: a text has no tokens, or its vector is not finite.
        """
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts; for one text: encode([text])")
        model = self._model
        vectors = np.empty((len(texts), model.size), np.float32)
        done = 0
        for rows, ids in self._batches(texts):
            vectors[rows] = batch = _array(model.vectors(*model.hidden(ids)))
            if not np.isfinite(batch).all():
                bad = rows[int(np.flatnonzero(~np.isfinite(batch).all(1))[0])]
                raise DataError(f"{self.name}: the vector of text {bad} is not finite: {texts[bad][:60]!r}")
            done += len(rows)
            if progress:
                progress(done, len(texts))
        return vectors

    def token_table(self, progress: Progress | None = None) -> Floats:
        """The vector of each token, alone between the special tokens: where a student's table starts.

        Returns:
            [V, Z] float32, un-normalised (a head's last normalisation left out), without prefix; zero for
            ids that the teacher's own table does not have.
        """
        model = self._model
        table = np.zeros((model.vocab_size, model.size), np.float32)
        known = min(len(table), model.table_size)
        step = 8 * self.batch_size
        for start in range(0, known, step):
            stop = min(start + step, known)
            ids = [[*model.before, token, *model.after] for token in range(start, stop)]
            table[start:stop] = _array(model.vectors(*model.hidden(ids), normalize=False))
            if progress:
                progress(stop, known)
        return table

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Rows and ids of texts of nearly equal length, the longest first."""
        for start in range(0, len(texts), _WINDOW):
            ids = self._model.tokenize(texts[start : start + _WINDOW])
            order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
            if not ids[order[-1]]:
                raise DataError(f"{self.name}: text {start + order[-1]} has no tokens")
            for first in range(0, len(order), self.batch_size):
                rows = order[first : first + self.batch_size]
                yield [start + row for row in rows], [ids[row] for row in rows]


def _array(tensor: Any) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array


def make_teacher(cfg: TeacherConfig, device: str = "auto") -> EmbeddingLoader:
    """The teacher of a config. Its vectors get length one: cosines are what counts."""
    return EmbeddingLoader(
        cfg.name,
        pooling=cfg.pooling or None,
        normalize=True,
        prefix=cfg.prefix or None,
        device=device,
        batch_size=cfg.batch_size,
        max_len=cfg.max_len,
    )

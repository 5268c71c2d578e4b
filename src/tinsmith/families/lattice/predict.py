"""Use of a trained lattice: a text or a vector to the vector that belongs to it.

Shapes: N inputs, Z embedding size, b numbers of the bottleneck.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.durable import replace_bytes
from tinsmith.engine.config import check_choice
from tinsmith.engine.contract import Data, Predictor, Task
from tinsmith.engine.weights import save_weights
from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lattice.config import MODES as LATTICE_MODES
from tinsmith.families.lattice.config import LatticeConfig, ModelConfig
from tinsmith.families.lattice.data import GIVEN, LatticeSpec
from tinsmith.families.lattice.metrics import MODES
from tinsmith.families.lattice.model import Lattice
from tinsmith.families.lattice.vectors import unit_vectors
from tinsmith.sealed import model_folder, read_sealed, reading_model, seal
from tinsmith.text.requests import check_unicode
from tinsmith.text.teacher_config import TeacherConfig
from tinsmith.text.teachers import EmbeddingLoader, make_teacher

WEIGHTS, META, ANSWERS, TEXTS = "model.safetensors", "config.json", "answers.safetensors", "answers.json"
FILES = (META, WEIGHTS, ANSWERS, TEXTS)  # what MANIFEST.json vouches for

_KEPT = 20_000  # known answers saved with a model: 15 MB
_AT_ONCE = 256  # vectors that cross the cube together
Floats = NDArray[np.float32]


class LatticePredictor(Predictor):
    """A trained lattice, the teacher of its texts, and the answers it knows.

    Attributes:
        model: the ``Lattice``.
        spec: what it was trained for: size of the vectors, mode, teacher and its fingerprint.
        bottleneck: numbers that pass the wall in autoencoder mode.
        answers: known answers and their vectors [N, Z].
    """

    def __init__(
        self, model: Lattice, spec: LatticeSpec, teacher: TeacherConfig, answers: tuple[list[str], Tensor]
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.spec, self.bottleneck, self.answers = spec, model.bottleneck, answers
        self._teacher = teacher
        self._device = next(model.parameters()).device

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> LatticePredictor:
        """Load a ``model/`` folder, or the run folder that holds one.

        Raises:
            DataError: there is no lattice, or a file is not the one that was saved; names it.
        """
        folder = model_folder(path)
        with reading_model(folder, "lattice"):
            files = read_sealed(folder, "model", FILES)
            meta = json.loads(files[META])
            spec, teacher = LatticeSpec(**meta["spec"]), TeacherConfig(**meta["teacher"])
            cfg = ModelConfig(**{**meta["model"], "size": tuple(meta["model"]["size"])})
            cfg.validate()
            check_choice("mode", spec.mode, LATTICE_MODES)
            model = Lattice(cfg, spec)
            model.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
            vectors = safetensors.torch.load(files[ANSWERS])["vectors"].float()
            known = _known(json.loads(files[TEXTS]), vectors, spec.z_dim)
        return cls(model.to(device), spec, teacher, known)

    @cached_property
    def teacher(self) -> EmbeddingLoader:
        """The teacher that the lattice was trained with.

        Raises:
            DataError: it was trained with given vectors, or the teacher of that name is another one now.
        """
        if self.spec.teacher_fingerprint == GIVEN:
            raise DataError("this lattice was trained with given vectors: give vectors, not texts")
        teacher = make_teacher(self._teacher, str(self._device))
        if teacher.fingerprint != self.spec.teacher_fingerprint:
            raise DataError(
                f"the teacher {self.spec.teacher} is not the one that this lattice was trained with "
                f"(fingerprint {teacher.fingerprint[:12]}, expected {self.spec.teacher_fingerprint[:12]})"
            )
        return teacher

    def map(self, x: Any, mode: str = "") -> Floats:
        """Predicted unit vectors [N, Z] of vectors [N, Z].

        Args:
            mode: ``autoencoder`` or ``dialogue``; empty: the one it was trained for, of both the dialogue.

        Raises:
            DataError: vectors of another size, not finite or all zeros, or a mode it was not trained for.
        """
        mode = self._mode(mode)
        vectors = unit_vectors(x, "the vectors", self.spec.z_dim)
        numbers = torch.full((len(vectors),), MODES.index(mode), device=self._device)
        out = torch.empty_like(vectors)
        with torch.inference_mode():
            for first in range(0, len(vectors), _AT_ONCE):
                rows = slice(first, first + _AT_ONCE)
                out[rows] = self.model(vectors[rows].to(self._device), numbers[rows]).float().cpu()
        if not torch.isfinite(out).all():
            raise DataError("this lattice's weights give numbers that are not finite: train it anew")
        array: Floats = out.numpy()
        return array

    def encode(self, x: Any) -> Floats:
        """The numbers that pass the wall, [N, b], of vectors [N, Z]. Raises as ``map``."""
        vectors = unit_vectors(x, "the vectors", self.spec.z_dim)
        with torch.inference_mode():
            parts = [
                self.model.encode(part.to(self._device)).float().cpu()
                for part in torch.split(vectors, _AT_ONCE)
            ]
        array: Floats = torch.cat(parts).numpy()
        return array

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """What becomes of each input: a text, a vector (a list of numbers), or a dict with ``text`` or ``z``.

        A dict may also say the ``mode``. Returns ``z``, the predicted vector; of an autoencoder row also
        ``code``, the numbers that passed the wall, and ``cosine``, how near the rebuilt vector is; of a
        dialogue row also ``answer``, the nearest known one, where the answers' texts are known, and the
        ``cosine`` to it.

        Raises:
            DataError: an input is neither, or not of the right size; names it by its number.
        """
        items = [_item(item, number) for number, item in enumerate(inputs)]
        if not items:
            return []
        modes = [self._mode(item.get("mode", "")) for item in items]
        x = self._vectors(items)
        answers: list[dict[str, Any]] = [{"text": item["text"]} if "text" in item else {} for item in items]
        for mode in sorted(set(modes)):
            rows = [i for i, own in enumerate(modes) if own == mode]
            for i, found in zip(rows, self._described(x[rows], mode), strict=True):
                answers[i] |= found
        return answers

    def _described(self, x: Floats, mode: str) -> list[dict[str, Any]]:
        """What is said of inputs [N, Z] of one mode."""
        z = self.map(x, mode)
        vectors = z.tolist()
        if mode == "autoencoder":
            cosines, codes = (
                (unit_vectors(x, "the vectors").numpy() * z).sum(1).tolist(),
                self.encode(x).tolist(),
            )
            return [
                {"cosine": cosine, "code": code, "z": vector}
                for cosine, code, vector in zip(cosines, codes, vectors, strict=True)
            ]
        texts, known = self.answers
        if not texts:
            return [{"z": vector} for vector in vectors]
        best = (torch.from_numpy(z) @ known.T).max(1)
        return [
            {"answer": texts[i], "cosine": cosine, "z": vector}
            for i, cosine, vector in zip(best.indices.tolist(), best.values.tolist(), vectors, strict=True)
        ]

    def _vectors(self, items: list[dict[str, Any]]) -> Floats:
        """The inputs as vectors [N, Z]."""
        x = np.empty((len(items), self.spec.z_dim), np.float32)
        told = [i for i, item in enumerate(items) if "text" in item]
        if told:
            x[told] = self.teacher.encode([items[i]["text"] for i in told])
        for i, item in enumerate(items):
            if "text" not in item:
                x[i] = unit_vectors([item["z"]], f"input {i}", self.spec.z_dim)[0].numpy()
        return x

    def _mode(self, mode: str) -> str:
        mode = mode or ("dialogue" if self.spec.mode == "mixed" else self.spec.mode)
        if mode not in MODES:
            raise ConfigError(f"mode='{mode}' is not known: {', '.join(MODES)}")
        if self.spec.mode not in (mode, "mixed"):
            raise DataError(f"this lattice was trained for mode={self.spec.mode}, not for mode={mode}")
        return mode


def _known(texts: Any, vectors: Tensor, size: int) -> tuple[list[str], Tensor]:
    """Known answers, checked."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{TEXTS} holds no list of texts")
    if vectors.ndim != 2 or vectors.shape[1] != size or (texts and len(texts) != len(vectors)):
        raise ValueError(f"{ANSWERS} holds {list(vectors.shape)} numbers for {len(texts)} texts")
    return texts, unit_vectors(vectors, ANSWERS) if len(vectors) else vectors


def _item(item: Any, number: int) -> dict[str, Any]:
    """An input as a dict with ``text`` or ``z``."""
    if isinstance(item, str):
        item = {"text": item}
    elif isinstance(item, list | tuple | np.ndarray | Tensor):
        item = {"z": item}
    if not isinstance(item, dict) or not ("text" in item or "z" in item):
        raise DataError(
            f"input {number}: a text, a list of numbers, or an object with 'text' or 'z', is needed, "
            f"not {item!r:.80}"
        )
    if "text" in item:
        _check_text(item["text"], number)
    return item


def _check_text(text: Any, number: int) -> None:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"input {number}: 'text' is {text!r:.80}; a text that is not empty is needed")
    check_unicode(text, number)


def save_model(cfg: LatticeConfig, task: Task, data: Data, folder: Path) -> None:
    """Write a folder that ``LatticePredictor.load`` reads: weights, settings, known answers, digests."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(task.model, folder / WEIGHTS)
    sections = {"model": asdict(cfg.model), "teacher": asdict(cfg.teacher), "spec": asdict(data.spec)}
    replace_bytes(folder / META, json.dumps({"family": "lattice", **sections}, indent=1).encode())
    texts, vectors = data.artifacts["answers"]
    kept = vectors[: len(texts)][:_KEPT].half().contiguous()  # without texts there is nothing to show
    replace_bytes(folder / ANSWERS, safetensors.torch.save({"vectors": kept}))
    replace_bytes(folder / TEXTS, json.dumps(texts[:_KEPT], ensure_ascii=False).encode())
    seal(folder, FILES)

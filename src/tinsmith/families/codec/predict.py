"""Use of a trained codec: sentences to vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tinsmith.durable import replace_bytes
from tinsmith.engine.contract import Data, Predictor, Task
from tinsmith.engine.weights import save_weights
from tinsmith.errors import ConfigError, DataError
from tinsmith.families.codec.config import ModelConfig
from tinsmith.families.codec.model import CodecSpec, Encoder, FoldedEncoder
from tinsmith.sealed import model_folder, read_sealed, reading_model, seal
from tinsmith.text import tokenizer as tokens
from tinsmith.text.requests import by_length, read_request
from tinsmith.text.tokenizer import Tokenizer

WEIGHTS, META = "model.safetensors", "config.json"
FILES = (META, WEIGHTS, tokens.FILE, tokens.META)  # what MANIFEST.json vouches for
Tier = Literal["full", "static"]


class Codec(Predictor):
    """A trained encoder and its tokeniser. Safe to use from several threads at once.

    Attributes:
        spec: what the model was trained for: sizes, teacher and its fingerprint.
    """

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, spec: CodecSpec) -> None:
        self.encoder = FoldedEncoder(encoder).eval().requires_grad_(False)
        self._tiers = {"full": self.encoder, "static": self.encoder.static_only().eval()}
        self.tokenizer, self.spec = tokenizer, spec

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Codec:
        """Load a ``model/`` folder, or the run folder that holds one.

        Raises:
            DataError: there is no codec, or a file is not the one that was saved; names it.
        """
        folder = model_folder(path)
        with reading_model(folder, "codec"):
            files = read_sealed(folder, "model", FILES)
            meta = json.loads(files[META])
            spec = CodecSpec(**{**meta["spec"], "domains": tuple(meta["spec"]["domains"])})
            model_config = ModelConfig(**meta["model"])
            model_config.validate()
            encoder = Encoder(model_config, spec)
            encoder.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
        return cls(encoder.to(device), Tokenizer.load(folder), spec)

    def encode(self, texts: Sequence[str], batch_size: int = 32, tier: Tier = "full") -> Tensor:
        """Unit vectors of sentences.

        Args:
            texts: N sentences; what is beyond ``spec.max_len`` tokens is not read.
            tier: ``full``, or ``static``: the average alone, several times faster and less exact.

        Returns:
            [N, Z] float32, in the order of ``texts``.

        Raises:
            DataError: an empty sentence, named by its number.
            ConfigError: an unknown tier.
        """
        if tier not in self._tiers:
            raise ConfigError(f"tier='{tier}' is not known: full, static")
        if isinstance(texts, str):
            raise TypeError("encode takes a list of sentences, not one string")
        model = self._tiers[tier]
        ids = self.tokenizer.encode_batch(texts, self.spec.max_len)
        for i, row in enumerate(ids):
            if not row:
                raise DataError(f"sentence {i} is empty: there is nothing to encode")
        out = torch.empty(len(ids), self.spec.z_dim)
        with torch.inference_mode():
            for rows in by_length(ids, batch_size):
                tokens, mask = _pad([ids[i] for i in rows])
                out[rows] = model(tokens.to(model.table.device), mask.to(model.table.device)).cpu()
        return out

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """The vector of each input: a text, or a dict with ``text``."""
        texts = [read_request(item, i)[0] for i, item in enumerate(inputs)]
        return [{"text": text, "z": z.tolist()} for text, z in zip(texts, self.encode(texts), strict=True)]


def _pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    tokens = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(longest)[None] < lengths[:, None]
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def save_model(task: Task, data: Data, folder: Path, model_config: ModelConfig) -> None:
    """Write a folder that ``Codec.load`` reads: weights, ``config.json``, tokeniser, and their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(task.model, folder / WEIGHTS)
    meta = {"family": "codec", "model": asdict(model_config), "spec": asdict(data.spec)}
    replace_bytes(folder / META, json.dumps(meta, indent=1).encode())
    data.artifacts["tokenizer"].save(folder)
    seal(folder, FILES)

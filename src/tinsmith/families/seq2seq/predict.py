"""Use of a trained encoder-decoder: texts are translated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tinsmith.durable import replace_bytes
from tinsmith.engine.contract import Data, Predictor
from tinsmith.engine.weights import save_weights
from tinsmith.errors import DataError
from tinsmith.families.seq2seq.config import ModelConfig, Seq2SeqConfig
from tinsmith.families.seq2seq.decoding import SourceDecoder
from tinsmith.families.seq2seq.model import Seq2SeqSpec, Transformer
from tinsmith.sealed import model_folder, read_sealed, reading_model, seal
from tinsmith.text import tokenizer as tokens
from tinsmith.text.decoding import Answer, vocabulary_of
from tinsmith.text.generation import collect, generate, plain_texts, prompt_seeds, shown
from tinsmith.text.generation_config import GenerationConfig
from tinsmith.text.requests import by_length, by_options, read_request
from tinsmith.text.tokenizer import Tokenizer

WEIGHTS, META, GENERATION = "model.safetensors", "config.json", "generation_config.json"
FILES = (META, WEIGHTS, GENERATION, tokens.FILE, tokens.META)  # what MANIFEST.json vouches for


class Translator(Predictor):
    """A trained encoder-decoder, its tokenizer, and how it generates unless told otherwise.

    Attributes:
        spec: what the model was trained for: vocabulary, special ids, longest text.
        generation: the defaults of ``generate``; the file ``generation_config.json`` of its folder.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, generation: GenerationConfig | None = None
    ) -> None:
        self.model, self.tokenizer, self.spec = model.eval().requires_grad_(False), tokenizer, model.spec
        self.generation = generation or GenerationConfig()

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Translator:
        """Load a ``model/`` folder, or the run folder that holds one.

        Raises:
            DataError: there is no such model, or a file is not the one that was saved; names it.
        """
        folder = model_folder(path)
        with reading_model(folder, "seq2seq model"):
            files = read_sealed(folder, "model", FILES)
            meta = json.loads(files[META])
            model_config, spec = ModelConfig(**meta["model"]), Seq2SeqSpec(**meta["spec"])
            model_config.validate()
            model = Transformer(model_config, spec)
            model.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
            generation = GenerationConfig(**json.loads(files[GENERATION]))
            generation.validate()
        return cls(model.to(device), Tokenizer.load(folder), generation)

    def generate(
        self,
        texts: str | Sequence[str],
        stream: Callable[[str], None] | None = None,
        batch_size: int = 128,
        **options: Any,
    ) -> Any:
        """Translate texts.

        Args:
            texts: a text or a list of them.
            stream: gets the translation of a single text piece by piece.
            batch_size: texts at once; the translations do not depend on it, nor on the order.
            **options: as in Hugging Face's GenerationConfig, over those of ``generation_config.json``.

        Returns:
            The translation of each text (of several sequences a list of them), for one text not in a list;
            with ``return_dict_in_generate`` a ``Generation`` over all.

        Raises:
            ConfigError: an unknown argument, or two that contradict each other.
            DataError: an empty text, or one that is longer than ``spec.max_len`` tokens; named by its number.
        """
        cfg = self.generation.with_options(options)
        start = time.monotonic()
        answers = self.answers([texts] if isinstance(texts, str) else texts, cfg, stream, batch_size)
        if cfg.return_dict_in_generate:
            pad = self.spec.pad_id if cfg.pad_token_id < 0 else cfg.pad_token_id
            flat = [answer for several in answers for answer in several]
            return collect(flat, pad, time.monotonic() - start, cfg.output_scores)
        return plain_texts(answers, cfg, isinstance(texts, str))

    def answers(
        self,
        texts: Sequence[str],
        cfg: GenerationConfig,
        stream: Callable[[str], None] | None = None,
        batch_size: int = 128,
    ) -> list[list[Answer]]:
        """The translations of each text with all that is known of them; arguments as of ``generate``."""
        sources = self._sources(texts)
        seeds = prompt_seeds(sources, cfg.seed)
        cfg = replace(cfg, max_new_tokens=min(cfg.limit(1), self.spec.max_len))
        if not cfg.max_new_tokens:
            return [[Answer()] for _ in texts]
        start_id = self.spec.bos_id if cfg.decoder_start_token_id < 0 else cfg.decoder_start_token_id
        vocabulary = vocabulary_of(self.spec, cfg, self.tokenizer.decode)
        found: dict[int, list[Answer]] = {}
        with torch.inference_mode():
            for rows in by_length(sources, batch_size):
                decoder = SourceDecoder(self.model, [sources[i] for i in rows], start_id, cfg.use_cache)
                nothing: list[list[int]] = [[] for _ in rows]
                mine = [seeds[i] for i in rows]
                several = generate(decoder, nothing, cfg, vocabulary, stream, seeds=mine)
                found.update(zip(rows, several, strict=True))
        return [found[i] for i in range(len(sources))]

    def _sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, EOS behind, checked."""
        sources = [[*ids, self.spec.eos_id] for ids in self.tokenizer.encode_batch(texts)]
        for i, ids in enumerate(sources):
            if len(ids) == 1:
                raise DataError(f"input {i}: an empty text has no translation")
            if len(ids) > self.spec.max_len:
                raise DataError(
                    f"input {i}: a text of {len(ids)} tokens is longer than the model's {self.spec.max_len}: "
                    f"translate its sentences one by one, or train with data.max_len={len(ids)} or more"
                )
        return sources

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """Translate each input: a text, or a dict with ``text`` and arguments of generation."""
        items = [read_request(item, i) for i, item in enumerate(inputs)]
        self._sources([text for text, _ in items])  # a mistake is named by its number among all
        out: list[Any] = [None] * len(items)
        for rows in by_options(items):
            cfg = self.generation.with_options(items[rows[0]][1])
            several = self.answers([items[i][0] for i in rows], cfg)
            for i, answers in zip(rows, several, strict=True):
                out[i] = {"text": items[i][0], **shown(answers, cfg, "translation")}
        return out


def save_folder(
    model: Transformer,
    tokenizer: Tokenizer,
    folder: Path,
    generation: GenerationConfig | None = None,
) -> None:
    """Write a folder that ``Translator.load`` reads: weights, settings, tokenizer, and their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    meta = {"family": "seq2seq", "model": asdict(model.cfg), "spec": asdict(model.spec)}
    replace_bytes(folder / META, json.dumps(meta, indent=1).encode())
    options = asdict(generation or GenerationConfig())
    replace_bytes(folder / GENERATION, json.dumps(options, indent=1).encode())
    tokenizer.save(folder)
    seal(folder, FILES)


def save_model(cfg: Seq2SeqConfig, model: Transformer, data: Data, folder: Path) -> None:
    """The folder of a run's model."""
    save_folder(model, data.artifacts["tokenizer"], folder, cfg.generation)

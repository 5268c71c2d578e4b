"""Use of a trained encoder-decoder: texts are translated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tinsmith.durable import replace_bytes
from tinsmith.engine.contract import Data, Predictor
from tinsmith.errors import DataError
from tinsmith.families.seq2seq.config import ModelConfig, Seq2SeqConfig
from tinsmith.families.seq2seq.decoding import SourceDecoder
from tinsmith.families.seq2seq.model import Seq2SeqSpec, Transformer
from tinsmith.sealed import read_sealed, seal
from tinsmith.text import tokenizer as tokens
from tinsmith.text.generation import Answer, Vocabulary, collect, generate, prompt_seeds
from tinsmith.text.generation_config import GenerationConfig
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
        folder = Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)
        try:
            files = read_sealed(folder, "model", FILES)
            meta = json.loads(files[META])
            model_config, spec = ModelConfig(**meta["model"]), Seq2SeqSpec(**meta["spec"])
            model_config.validate()
            model = Transformer(model_config, spec)
            model.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
            generation = GenerationConfig(**json.loads(files[GENERATION]))
            generation.validate()
        except FileNotFoundError as error:
            raise DataError(
                f"no seq2seq model in {folder}: {Path(str(error.filename)).name} is missing. "
                "A run writes model/ when it ends."
            ) from None
        except Exception as error:  # settings and weights that do not fit fail in too many kinds to name
            why = " ".join((str(error) or repr(error)).split())
            raise DataError(f"{folder}: not a seq2seq model, or a damaged one: {why}") from None
        return cls(model.to(device), Tokenizer.load(folder), generation)

    def generate(
        self,
        texts: str | Sequence[str],
        stream: Callable[[str], None] | None = None,
        batch_size: int = 64,
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
        each = [[answer.text for answer in several] for several in answers]
        plain: list[Any] = [several[0] for several in each] if cfg.num_return_sequences == 1 else each
        return plain[0] if isinstance(texts, str) else plain

    def answers(
        self,
        texts: Sequence[str],
        cfg: GenerationConfig,
        stream: Callable[[str], None] | None = None,
        batch_size: int = 64,
    ) -> list[list[Answer]]:
        """The translations of each text with all that is known of them; arguments as of ``generate``."""
        sources = self._sources(texts)
        seeds = prompt_seeds(sources, cfg.seed)
        cfg = replace(cfg, max_new_tokens=min(cfg.limit(1), self.spec.max_len))
        if not cfg.max_new_tokens:
            return [[Answer()] for _ in texts]
        start_id = self.spec.bos_id if cfg.decoder_start_token_id < 0 else cfg.decoder_start_token_id
        eos = self.spec.eos_id if cfg.eos_token_id < 0 else cfg.eos_token_id
        never = {self.spec.pad_id, self.spec.bos_id, self.spec.unk_id} - {eos}
        vocabulary = Vocabulary(eos, tuple(sorted(never)), self.tokenizer.decode)
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        found: dict[int, list[Answer]] = {}
        with torch.inference_mode():
            for first in range(0, len(order), batch_size):
                rows = order[first : first + batch_size]
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
        items = [_item(item, i) for i, item in enumerate(inputs)]
        self._sources([text for text, _ in items])  # a mistake is named by its number among all
        groups: dict[str, list[int]] = {}
        for i, (_, options) in enumerate(items):
            groups.setdefault(json.dumps(options, sort_keys=True), []).append(i)
        out: list[Any] = [None] * len(items)
        for rows in groups.values():
            cfg = self.generation.with_options(items[rows[0]][1])
            several = self.answers([items[i][0] for i in rows], cfg)
            for i, answers in zip(rows, several, strict=True):
                out[i] = {"text": items[i][0], **_shown(answers, cfg)}
        return out


def _shown(answers: list[Answer], cfg: GenerationConfig) -> dict[str, Any]:
    """The fields of an answer: what was asked for."""
    first = answers[0]
    shown: dict[str, Any] = {"translation": first.text}
    if cfg.num_return_sequences > 1:
        shown["translations"] = [answer.text for answer in answers]
    if cfg.output_scores or cfg.return_dict_in_generate:
        shown |= {"tokens": first.tokens, "logprob": first.logprob}
    if cfg.output_scores:
        shown["scores"] = first.scores
    return shown


def _item(item: Any, number: int) -> tuple[str, dict[str, Any]]:
    options = dict(item) if isinstance(item, Mapping) else {"text": item}
    text = options.pop("text", None)
    if not isinstance(text, str):
        raise DataError(f"input {number}: a text, or an object with 'text', is needed, not {item!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"input {number}: half a surrogate pair at character {error.start + 1}") from None
    return text, options


def save_folder(
    model: Transformer,
    tokenizer: Tokenizer,
    folder: Path,
    generation: GenerationConfig | None = None,
) -> None:
    """Write a folder that ``Translator.load`` reads: weights, settings, tokenizer, and their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    replace_bytes(folder / WEIGHTS, safetensors.torch.save(weights))
    meta = {"family": "seq2seq", "model": asdict(model.cfg), "spec": asdict(model.spec)}
    replace_bytes(folder / META, json.dumps(meta, indent=1).encode())
    options = asdict(generation or GenerationConfig())
    replace_bytes(folder / GENERATION, json.dumps(options, indent=1).encode())
    tokenizer.save(folder)
    seal(folder, FILES)


def save_model(cfg: Seq2SeqConfig, model: Transformer, data: Data, folder: Path) -> None:
    """The folder of a run's model."""
    save_folder(model, data.artifacts["tokenizer"], folder, cfg.generation)

"""Use of a trained language model: prompts are continued, texts are scored."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F

from tinsmith.durable import replace_bytes
from tinsmith.engine.contract import Data, Predictor
from tinsmith.engine.weights import save_weights
from tinsmith.errors import DataError
from tinsmith.families.lm.config import LMConfig, ModelConfig
from tinsmith.families.lm.decoding import PromptDecoder
from tinsmith.families.lm.model import LanguageModel, LMSpec
from tinsmith.families.lm.tokens import Tokens, files_of, load_tokens
from tinsmith.sealed import model_folder, read_sealed, reading_model, seal
from tinsmith.text.decoding import Answer, vocabulary_of
from tinsmith.text.generation import Generation, collect, generate, plain_texts, prompt_seeds, shown
from tinsmith.text.generation_config import GenerationConfig
from tinsmith.text.requests import by_length, by_options, read_request

WEIGHTS, META, GENERATION = "model.safetensors", "config.json", "generation_config.json"


class TextGenerator(Predictor):
    """A trained language model, its tokens, and how it generates unless told otherwise.

    Attributes:
        spec: what the model was trained for: vocabulary, context, level.
        generation: the defaults of ``generate``; the file ``generation_config.json`` of its folder.
    """

    def __init__(
        self, model: LanguageModel, tokens: Tokens, generation: GenerationConfig | None = None
    ) -> None:
        self.model, self.tokens, self.spec = model.eval().requires_grad_(False), tokens, model.spec
        self.generation = generation or GenerationConfig()

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> TextGenerator:
        """Load a ``model/`` folder, or the run folder that holds one.

        Raises:
            DataError: there is no language model, or a file is not the one that was saved; names it.
        """
        folder = model_folder(path)
        with reading_model(folder, "language model"):
            files = read_sealed(folder, "model", (META, WEIGHTS, GENERATION))
            meta = json.loads(files[META])
            spec = LMSpec(**{**meta["spec"], "byte_lengths": tuple(meta["spec"]["byte_lengths"])})
            read_sealed(folder, "model", files_of(spec.level))
            model_config, generation = ModelConfig(**meta["model"]), json.loads(files[GENERATION])
            model_config.validate()
            model = LanguageModel(model_config, spec)
            model.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
            generation_config = GenerationConfig(**generation)
            generation_config.validate()
        return cls(model.to(device), load_tokens(spec.level, folder), generation_config)

    def generate(
        self,
        prompts: str | Sequence[str],
        stream: Callable[[str], None] | None = None,
        batch_size: int = 128,
        **options: Any,
    ) -> Any:
        """Continue prompts.

        Args:
            prompts: a text or a list of them; an empty one begins a document.
            stream: gets the continuation of a single prompt piece by piece.
            batch_size: prompts at once; the answers do not depend on it.
            **options: as in Hugging Face's GenerationConfig, over those of ``generation_config.json``.

        Returns:
            The continuation of each prompt (of several sequences a list of them), for one text not in a list;
            with ``return_dict_in_generate`` a ``Generation`` over all.

        Raises:
            ConfigError: an unknown argument, or two that contradict each other.
            DataError: a prompt that is longer than the context.
        """
        cfg = self.generation.with_options(options)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        start = time.monotonic()
        answers = self.answers(texts, cfg, stream, batch_size)
        if cfg.return_dict_in_generate:
            return self._collected(answers, cfg, time.monotonic() - start)
        return plain_texts(answers, cfg, isinstance(prompts, str))

    def _collected(self, answers: list[list[Answer]], cfg: GenerationConfig, seconds: float) -> Generation:
        pad = self.tokens.pad_id if cfg.pad_token_id < 0 else cfg.pad_token_id
        return collect([a for several in answers for a in several], pad, seconds, cfg.output_scores)

    def answers(
        self,
        texts: Sequence[str],
        cfg: GenerationConfig,
        stream: Callable[[str], None] | None = None,
        batch_size: int = 128,
    ) -> list[list[Answer]]:
        """The answers to each prompt with all that is known of them; arguments as of ``generate``."""
        prompts = [self._prompt(text, i, cfg) for i, text in enumerate(texts)]
        seeds = prompt_seeds(prompts, cfg.seed)
        found: dict[int, list[Answer]] = {}
        vocabulary = vocabulary_of(self.tokens, cfg, self.tokens.decode)
        with torch.inference_mode():
            for rows in by_length(prompts, batch_size):
                chosen = [prompts[i] for i in rows]
                decoder = PromptDecoder(self.model, chosen, cfg.use_cache)
                lengths = [len(prompt) - 1 for prompt in chosen]
                mine = [seeds[i] for i in rows]
                several = generate(decoder, chosen, cfg, vocabulary, stream, lengths, mine)
                found.update(zip(rows, several, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _prompt(self, text: str, number: int, cfg: GenerationConfig) -> list[int]:
        """The ids of a prompt, BOS in front, checked against the context."""
        bos = self.tokens.bos_id if cfg.bos_token_id < 0 else cfg.bos_token_id
        ids = [bos, *self.tokens.encode(text)]
        size, context = len(ids), self.spec.context
        if size > context:
            raise DataError(
                f"input {number}: a prompt of {size - 1} tokens and its beginning do not fit into the "
                f"context of {context}: shorten it, or train with data.context={size} or more"
            )
        if not self.model.modern and size - 1 + cfg.limit(size - 1) > context:
            raise DataError(
                f"input {number}: a prompt of {size - 1} tokens and {cfg.limit(size - 1)} new ones do not "
                f"fit into the context of {context}, and learned positions end there: "
                f"set max_new_tokens={context - size + 1}"
            )
        return ids

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """How well the model expects each text: ``loss`` in nats a token, ``perplexity``, ``bits_per_byte``.

        A text longer than the context is read in pieces, each with the last token of the one before it.
        """
        return [self._score(text, i) for i, text in enumerate(texts)]

    def _score(self, text: str, number: int) -> dict[str, float]:
        ids, context = [self.tokens.bos_id, *self.tokens.encode(text)], self.spec.context
        if len(ids) < 2:
            raise DataError(f"input {number}: an empty text has nothing to score")
        nats = 0.0
        pieces = [ids[i : i + context + 1] for i in range(0, len(ids) - 1, context)]
        device = self.model.embed.weight.device
        with torch.inference_mode():
            for piece in pieces:
                row = torch.tensor([piece], device=device)
                nats += float(F.cross_entropy(self.model(row[:, :-1])[0], row[0, 1:], reduction="sum"))
        loss, size = nats / (len(ids) - 1), len(text.encode("utf-8", "replace"))
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": nats / math.log(2) / size,
        }

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """Continue each input: a text, or a dict with ``text`` and arguments of generation."""
        items = [read_request(item, i) for i, item in enumerate(inputs)]
        out: list[Any] = [None] * len(items)
        for rows in by_options(items):
            cfg = self.generation.with_options(items[rows[0]][1])
            for i, answers in zip(rows, self._answers_of(items, rows, cfg), strict=True):
                out[i] = {
                    "text": items[i][0],
                    **shown(answers, cfg, "continuation", finished=answers[0].finished),
                }
        return out

    def _answers_of(
        self, items: list[tuple[str, dict[str, Any]]], rows: list[int], cfg: GenerationConfig
    ) -> list[list[Answer]]:
        try:
            return self.answers([items[i][0] for i in rows], cfg)
        except DataError as error:  # its number is that in the group
            place, _, why = str(error).partition(": ")
            raise DataError(f"input {rows[int(place.removeprefix('input '))]}: {why}") from None


def save_folder(
    model: LanguageModel,
    tokens: Tokens,
    folder: Path,
    model_config: ModelConfig,
    generation: GenerationConfig | None = None,
) -> None:
    """Write a folder that ``TextGenerator.load`` reads: weights, settings, tokens, and their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    meta = {"family": "lm", "model": asdict(model_config), "spec": asdict(model.spec)}
    replace_bytes(folder / META, json.dumps(meta).encode())
    options = asdict(generation or GenerationConfig())
    replace_bytes(folder / GENERATION, json.dumps(options, indent=1).encode())
    tokens.save(folder)
    seal(folder, (META, WEIGHTS, GENERATION, *files_of(model.spec.level)))


def save_model(cfg: LMConfig, model: LanguageModel, data: Data, folder: Path) -> None:
    """The folder of a run's model."""
    save_folder(model, data.artifacts["tokens"], folder, cfg.model, cfg.generation)

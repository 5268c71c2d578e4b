"""Use of a trained codec: sentences to vectors, and vectors to texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.durable import replace_bytes
from tinsmith.engine.contract import Data, Predictor, Task
from tinsmith.errors import ConfigError, DataError, check
from tinsmith.families.codec.config import CodecConfig, DecoderConfig, ModelConfig
from tinsmith.families.codec.ctc import CtcDecoder
from tinsmith.families.codec.decoder import Decoder
from tinsmith.families.codec.decoding import vector_seeds, write
from tinsmith.families.codec.int8 import Int8Encoder, dequantized, quantized
from tinsmith.families.codec.model import CodecModel, CodecSpec, FoldedEncoder, build_model, encoder_of
from tinsmith.families.codec.padding import padded
from tinsmith.sealed import model_folder, read_sealed, reading_model, seal
from tinsmith.text import tokenizer as tokens
from tinsmith.text.decoding import vocabulary_of
from tinsmith.text.generation_config import GenerationConfig
from tinsmith.text.requests import by_length, read_request
from tinsmith.text.tokenizer import Tokenizer

WEIGHTS, META, WRITER = "model.safetensors", "config.json", "writer"
FILES = (META, WEIGHTS, tokens.FILE, tokens.META)  # what MANIFEST.json vouches for
Tier = Literal["full", "static"]
WRITTEN_AT_ONCE = 256  # texts: at 64 a product costs nearly twice as much a text on a CPU
_CANDIDATE_TEMPERATURE = 0.7  # of the drawn candidates of ``best_of``, where none is given
_DRAWING = {"top_k": 0, "top_p": 1, "min_p": 0}  # options that say that tokens are drawn, unless they are so


@dataclass
class Parts:
    """What a codec's folder holds: weights by name, settings, and the tokenizers.

    ``writer`` is the decoder's, None of a codec that only encodes.
    """

    weights: dict[str, Tensor]
    spec: CodecSpec
    tokenizer: Tokenizer
    writer: Tokenizer | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    int8: bool = False

    @classmethod
    def load(cls, folder: Path) -> Parts:
        """Read a ``model/`` folder.

        Raises:
            DataError: there is no codec, or a file is not the one that was saved; names it.
        """
        with reading_model(folder, "codec"):
            files = read_sealed(folder, "model", FILES)
            meta = json.loads(files[META])
            spec = CodecSpec(**{**meta["spec"], "domains": tuple(meta["spec"]["domains"])})
            model, decoder = ModelConfig(**meta["model"]), DecoderConfig(**meta.get("decoder", {}))
            model.validate()
            decoder.validate()
            weights = safetensors.torch.load(files[WEIGHTS])
            int8 = bool(meta.get("int8"))
            writer = Tokenizer.load(folder / WRITER) if spec.decoder_vocab_size else None
            if writer is not None and writer.fingerprint != meta["writer"]:
                raise DataError(f"{WRITER} is not the vocabulary that this decoder was trained with")
        weights = dequantized(weights) if int8 else weights
        return cls(weights, spec, Tokenizer.load(folder), writer, model, decoder, int8)

    def save(self, folder: Path) -> None:
        """Write a folder that ``load`` reads, with the digests of its files."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = quantized(self.weights) if self.int8 else self.weights
        replace_bytes(folder / WEIGHTS, safetensors.torch.save(weights))
        meta: dict[str, Any] = {"family": "codec", "model": asdict(self.model), "spec": asdict(self.spec)}
        if self.writer is not None:
            self.writer.save(folder / WRITER)
            meta |= {"decoder": asdict(self.decoder), "writer": self.writer.fingerprint}
        if self.int8:
            meta["int8"] = True
        replace_bytes(folder / META, json.dumps(meta, indent=1).encode())
        self.tokenizer.save(folder)
        seal(folder, FILES)


class Codec(Predictor):
    """A trained encoder, its decoder if it has one, and their tokenisers. Safe to use from several threads.

    Args:
        parts: what a folder holds. device: where it computes.
        half: compute in fp16, which pays on a GPU alone.

    Attributes:
        spec: what the model was trained for: sizes, teacher and its fingerprint.
        encoder: tokens to unit vectors, folded for use; with ``int8`` its table is of bytes.
        decoder: None if it only encodes. codes: the bottleneck before it, if it has one.
    """

    def __init__(self, parts: Parts, device: str | torch.device = "cpu", half: bool = False) -> None:
        self.spec, self.tokenizer, self.writer = parts.spec, parts.tokenizer, parts.writer
        self.int8 = parts.int8
        model = build_model(parts.model, parts.spec, parts.decoder)
        model.load_state_dict(parts.weights)
        model = model.to(device, torch.float16 if half else torch.float32).eval().requires_grad_(False)
        folded = FoldedEncoder(encoder_of(model)).eval()  # takes the place of the encoder's own table
        self.encoder: FoldedEncoder | Int8Encoder = Int8Encoder(folded) if self.int8 else folded
        self._tiers = {"full": self.encoder, "static": self.encoder.static_only().eval()}
        self.decoder = model.decoder if isinstance(model, CodecModel) else None
        self.codes = model.codes if isinstance(model, CodecModel) else None

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", half: bool = False) -> Codec:
        """Load a ``model/`` folder, or the run folder that holds one; arguments as of the class.

        Raises:
            DataError: there is no codec, or a file is not the one that was saved; names it.
            ConfigError: ``half`` on a CPU.
        """
        able = not half or torch.device(device).type != "cpu"
        check(able, "half", half, "false on a CPU, which computes fp16 slower than fp32")
        folder = model_folder(path)
        parts = Parts.load(folder)
        with reading_model(folder, "codec"):
            return cls(parts, device, half)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.encoder.buffers()).device

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
        ids = self.tokenizer.encode_batch(texts, self.spec.max_len)
        for i, row in enumerate(ids):
            if not row:
                raise DataError(f"sentence {i} is empty: there is nothing to encode")
        return self._encode_ids(ids, batch_size, self._tiers[tier])

    def _encode_ids(self, ids: Sequence[Sequence[int]], batch_size: int, model: nn.Module) -> Tensor:
        out, device = torch.empty(len(ids), self.spec.z_dim), self.device
        with torch.inference_mode():
            for rows in by_length(ids, batch_size):
                batch, mask = padded([ids[i] for i in rows])
                out[rows] = model(batch.to(device), mask.to(device)).float().cpu()
        return out

    def decode(
        self,
        z: Tensor | Sequence[Sequence[float]],
        max_len: int | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        best_of: int = 1,
        correct: bool = False,
        **options: Any,
    ) -> list[str]:
        """Texts that mean what vectors mean: greedily, unless an option of drawing or ``num_beams`` is given.

        Args:
            z: [N, Z], of this codec's encoder or of its teacher; the length does not matter.
            max_len: tokens written at most; by default, and at most, what it was trained for.
            top_k, temperature: draw among so many of the likeliest tokens; divide the logits. 0: greedy.
            best_of: write so many candidates (the first the likeliest), and keep the one whose own vector, by
                this encoder, is nearest to ``z``.
            correct: write a second time, told the vector of the first; needs ``decoder.correct``.
            **options: of Hugging Face's GenerationConfig, such as ``top_p``, ``num_beams``, ``seed`` (0 if
                not given). What a vector gets does not depend on the others.

        Returns:
            N texts; in lower case where the teacher does not see the case.

        Raises:
            ConfigError: this codec has no decoder, or an option is unknown or out of its range.
            DataError: vectors of another size, or not finite.
        """
        decoder = self._check_decoder(best_of, correct)
        vectors = self._check_vectors(z)
        longest = decoder.max_len if max_len is None else min(max_len, decoder.max_len)
        check(longest >= 1, "max_len", longest, "1 or more")
        cfg = _generation(longest, best_of, {**options, "top_k": top_k, "temperature": temperature})
        first = cfg if best_of == 1 else GenerationConfig(max_new_tokens=longest)
        seeds = vector_seeds(vectors, cfg.seed)
        texts: list[str] = []
        size = max(1, WRITTEN_AT_ONCE // best_of)
        for start in range(0, len(vectors), size):
            part, own = vectors[start : start + size], seeds[start : start + size]
            candidates = self._write(part, first, own, correct)
            if best_of > 1:
                drawn = self._write(part, cfg, own, correct)
                candidates = [[*a, *b] for a, b in zip(candidates, drawn, strict=True)]
            texts += self._nearest(part, candidates)
        return texts

    def decode_from_teacher(
        self, z_teacher: Tensor | Sequence[Sequence[float]], fingerprint: str | None = None, **options: Any
    ) -> list[str]:
        """``decode`` of the teacher's own vectors [N, Z].

        Args:
            fingerprint: of the teacher that made them (``EmbeddingLoader.fingerprint``), to be checked.
            **options: as of ``decode``.

        Raises:
            DataError: they are another teacher's.
        """
        if fingerprint is not None and fingerprint != self.spec.teacher_fingerprint:
            raise DataError(
                f"vectors of another teacher ({fingerprint[:12]}): this codec learned from "
                f"{self.spec.teacher} ({self.spec.teacher_fingerprint[:12]})"
            )
        return self.decode(z_teacher, **options)

    def _check_decoder(self, best_of: int, correct: bool) -> Decoder | CtcDecoder:
        if self.decoder is None:
            raise ConfigError(
                "this codec has no decoder. Train one: tinsmith train codec mode=both, or with mode=decode "
                "init=RUN one for this encoder"
            )
        check(best_of >= 1, "best_of", best_of, "1 or more")
        able = not correct or self.decoder.correct
        check(able, "correct", correct, "only of a decoder that was trained with decoder.correct=true")
        return self.decoder

    def _check_vectors(self, z: Tensor | Sequence[Sequence[float]]) -> Tensor:
        vectors = torch.as_tensor(z, dtype=torch.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.spec.z_dim:
            raise DataError(f"vectors {list(vectors.shape)} are given, [N, {self.spec.z_dim}] are needed")
        bad = (~torch.isfinite(vectors).all(1) | ~vectors.any(1)).nonzero()
        if len(bad):
            raise DataError(f"vector {int(bad[0])} is zero or not finite: it has no direction")
        return F.normalize(vectors, dim=-1).to(self.device)

    def _write(self, z: Tensor, cfg: GenerationConfig, seeds: list[int], correct: bool) -> list[list[str]]:
        """For each unit vector [N, Z] the texts of ``cfg``."""
        assert self.decoder is not None
        assert self.writer is not None
        vocabulary = vocabulary_of(self.writer, cfg, self.writer.decode)
        with torch.inference_mode():
            squeezed = z if self.codes is None else self.codes(z.to(self.codes.codes.dtype))[0]
            squeezed = squeezed.to(self.decoder.unigram.dtype)
            draft = None
            if correct:
                likeliest = GenerationConfig(max_new_tokens=cfg.max_new_tokens)
                drafts = write(self.decoder, squeezed, likeliest, vocabulary, seeds)
                draft = self._read([several[0].text for several in drafts]).to(squeezed)
            answers = write(self.decoder, squeezed, cfg, vocabulary, seeds, draft)
        return [[answer.text for answer in several] for several in answers]

    def _read(self, texts: Sequence[str]) -> Tensor:
        """The vectors of texts [N, Z]; zero where a text has no tokens."""
        ids = self.tokenizer.encode_batch(texts, self.spec.max_len)
        out = torch.zeros(len(ids), self.spec.z_dim)
        some = [i for i, row in enumerate(ids) if row]
        if some:
            out[some] = self._encode_ids([ids[i] for i in some], 32, self.encoder)
        return out

    def _nearest(self, z: Tensor, candidates: list[list[str]]) -> list[str]:
        """For each vector the candidate that is read as the nearest to it; the first of equal ones."""
        if all(len(several) == 1 for several in candidates):
            return [several[0] for several in candidates]
        read = self._read([text for several in candidates for text in several])
        near = (read.view(len(z), -1, self.spec.z_dim) * z.cpu()[:, None]).sum(-1)
        return [several[int(best)] for several, best in zip(candidates, near.argmax(1), strict=True)]

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """The vector ``z`` of each text (or dict with ``text``); where there is a decoder also ``written``.

        A dict with ``z`` and no ``text`` is answered with ``written``.
        """
        given = [isinstance(item, dict) and "text" not in item and "z" in item for item in inputs]
        answers: list[dict[str, Any]] = [
            {"z": _numbers(item["z"], i)} if given[i] else {"text": read_request(item, i)[0]}
            for i, item in enumerate(inputs)
        ]
        texts = [answer for answer in answers if "text" in answer]
        for answer, z in zip(texts, self.encode([answer["text"] for answer in texts]), strict=True):
            answer["z"] = z.tolist()
        if answers and (self.decoder is not None or any(given)):
            for i, answer in enumerate(answers):
                if len(answer["z"]) != self.spec.z_dim:
                    raise DataError(f"input {i}: 'z' has {len(answer['z'])} numbers, not {self.spec.z_dim}")
            for answer, text in zip(answers, self.decode([a["z"] for a in answers]), strict=True):
                answer["written"] = text
        return answers


def _generation(longest: int, best_of: int, options: dict[str, Any]) -> GenerationConfig:
    """How texts are written; with ``best_of`` above one how the candidates beside the likeliest are drawn."""
    if best_of > 1 and options.get("temperature") is None:
        options["temperature"] = _CANDIDATE_TEMPERATURE
    temperature = options.get("temperature")
    asked = any(options.get(name) not in (None, plain) for name, plain in _DRAWING.items())
    draws = asked if temperature is None else temperature != 0
    cfg = GenerationConfig(max_new_tokens=longest, do_sample=draws, seed=0).with_options(options)
    check(cfg.num_return_sequences == 1, "num_return_sequences", cfg.num_return_sequences, "1; see best_of")
    if best_of == 1:
        return cfg
    check(cfg.is_random, "best_of", best_of, "1 where nothing is drawn: candidates would be the same")
    return replace(cfg, num_return_sequences=best_of - 1)


def _numbers(values: Any, number: int) -> list[float]:
    """The vector of an input, as floats."""
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"input {number}: 'z' is not a list of numbers") from None


def save_model(task: Task, data: Data, folder: Path, cfg: CodecConfig) -> None:
    """Write a folder that ``Codec.load`` reads: weights, settings, tokenisers, and their digests."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in task.model.state_dict().items()}
    tokenizer, writer = data.artifacts["tokenizer"], data.artifacts.get("writer")
    Parts(weights, data.spec, tokenizer, writer, cfg.model, cfg.decoder).save(folder)

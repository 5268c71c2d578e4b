"""A codec as a folder that ``SentenceTransformer(folder)`` loads.

The whole encoder after ``import tinsmith``; the static tier by itself, as sentence-transformers' own
``StaticEmbedding``, since a weighted average at length one is the average of weighted rows at length one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tinsmith.durable import replace_bytes
from tinsmith.families.codec.model import FoldedEncoder
from tinsmith.families.codec.predict import WEIGHTS, Codec, Parts
from tinsmith.text import tokenizer as tokens
from tinsmith.text.tokenizer import Tokenizer

_MODULES = "sentence_transformers.models."


def write_sentence_folder(parts: Parts, folder: Path) -> int:
    """Write the whole encoder; returns the bytes of its weights."""
    spec, weights = parts.spec, parts.weights
    if parts.writer is None:
        named = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    else:
        named = {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}
    config = {
        "model_type": "tinsmith_codec",
        "architectures": ["CodecHubModel"],
        "dtype": "float32",
        "hidden_size": spec.z_dim,
        "vocab_size": spec.vocab_size,
        "student": asdict(parts.model),
        "spec": asdict(spec),
    }
    _write_json(folder / "config.json", config)
    reading = {"max_seq_length": spec.max_len, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", reading)
    pooling = {"word_embedding_dimension": spec.z_dim, "pooling_mode_mean_tokens": True}
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    return _finish(parts, folder, named, modules)


def write_static_folder(parts: Parts, codec: Codec, folder: Path) -> int:
    """Write the static tier, which needs no tinsmith; returns the bytes of its table."""
    encoder = codec.encoder
    assert isinstance(encoder, FoldedEncoder)
    table = encoder.table[:, : parts.spec.z_dim].float().cpu().contiguous()
    modules = [("", "StaticEmbedding"), ("1_Normalize", "Normalize")]
    return _finish(parts, folder, {"embedding.weight": table}, modules)


def _finish(parts: Parts, folder: Path, weights: dict[str, Tensor], modules: list[tuple[str, str]]) -> int:
    """Write weights, tokenizer and the list of modules."""
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": _MODULES + kind}
        for i, (path, kind) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", rows)
    _write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SentenceTransformer", "prompts": {}, "similarity_fn_name": "cosine"},
    )
    for path, _ in modules:
        (folder / path).mkdir(parents=True, exist_ok=True)
    _write_tokenizer(parts.tokenizer, parts.spec.max_len, folder)
    data = safetensors.torch.save(weights, {"format": "pt"})
    replace_bytes(folder / WEIGHTS, data)
    return len(data)


def _write_tokenizer(tokenizer: Tokenizer, longest: int, folder: Path) -> None:
    """The tokenizer without special tokens around a text, cut where the codec cuts."""
    tokenizer.save(folder)
    (folder / tokens.META).unlink()
    content: dict[str, Any] = json.loads((folder / tokens.FILE).read_bytes())
    content["post_processor"] = None
    content["truncation"] = {
        "direction": "Right",
        "max_length": longest,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    _write_json(folder / tokens.FILE, content)
    names = _names(content)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest}
    for role, number in (("pad_token", tokenizer.pad_id), ("unk_token", tokenizer.unk_id)):
        if number in names:
            settings[role] = names[number]
    _write_json(folder / "tokenizer_config.json", settings)


def _names(content: dict[str, Any]) -> dict[int, Any]:
    """The text of each id of a ``tokenizer.json``."""
    vocab = content["model"].get("vocab", {})
    pairs = vocab.items() if isinstance(vocab, dict) else ((item[0], i) for i, item in enumerate(vocab))
    names = {int(number): text for text, number in pairs}
    return names | {int(item["id"]): item["content"] for item in content.get("added_tokens", [])}


def _write_json(path: Path, value: Any) -> None:
    replace_bytes(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def encode_with(folder: Path) -> Any:
    """``SentenceTransformer(folder)`` as a function from texts to [N, Z] float32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def encode(texts: list[str]) -> Tensor:
        out: Tensor = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(out).float().cpu().clone()

    return encode

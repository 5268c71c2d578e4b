"""``init=RUN``: a new run that goes on from a trained codec, on a domain of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.codec.config import CodecConfig
from tinsmith.families.codec.model import CodecModel, CodecSpec, Encoder, encoder_of
from tinsmith.families.codec.predict import Parts
from tinsmith.sealed import model_folder
from tinsmith.text.tokenizer import Tokenizer

# What a run may have otherwise than the codec that it goes on from.
_FREE = {"dropout", "drop_path", "source", "noise", "validate_texts", "max_len", "case", "vocab_size"}


def start_tokenizers(init: str) -> tuple[Tokenizer | None, Tokenizer | None, bool]:
    """The tokenizers of the codec that a run starts from, and whether its writer writes in lower case."""
    if not init:
        return None, None, False
    parts = Parts.load(model_folder(init))
    return parts.tokenizer, parts.writer, parts.spec.lower


def start_weights(cfg: CodecConfig, model: Encoder | CodecModel, spec: CodecSpec) -> None:
    """Load what the codec ``cfg.init`` has into ``model``: its encoder, and its decoder if both have one.

    Raises:
        ConfigError: its sizes are others; names the settings that it wants.
        DataError: no codec there, or of another teacher.
    """
    folder = model_folder(cfg.init)
    parts = Parts.load(folder)
    if parts.spec.teacher_fingerprint != spec.teacher_fingerprint:
        raise DataError(
            f"init={cfg.init} learned from another teacher ({parts.spec.teacher}) than this run's "
            f"({spec.teacher}): add teacher.name={parts.spec.teacher}, with the same options"
        )
    _check_sizes(cfg, parts)
    if parts.writer is None:
        _load(encoder_of(model), parts.weights, folder)
    elif isinstance(model, CodecModel):
        _load(model, parts.weights, folder)
    else:
        own = {name: weight for name, weight in parts.weights.items() if name.startswith("encoder.")}
        _load(model, {name.removeprefix("encoder."): weight for name, weight in own.items()}, folder)


def _check_sizes(cfg: CodecConfig, parts: Parts) -> None:
    wanted = {"model": asdict(parts.model)}
    if cfg.mode != "encode" and parts.writer is not None:
        wanted["decoder"] = asdict(parts.decoder)
    changes = []
    for section, values in wanted.items():
        mine = asdict(getattr(cfg, section))
        for name, value in values.items():
            if name not in _FREE and mine.get(name) != value:
                shown = str(value).lower() if isinstance(value, bool) else value
                changes.append(f"{section}.{name}={shown}".replace(" ", ""))
    if changes:
        raise ConfigError(f"init={cfg.init} has other sizes: add {' '.join(changes)}")


def _load(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise DataError(f"init: the weights in {folder} do not fit: {why:.200}") from None

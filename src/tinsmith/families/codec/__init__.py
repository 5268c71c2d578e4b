"""codec: text to a vector and back, distilled from a sentence encoder into a model without attention."""

from tinsmith._lazy import lazy_names

_NAMES = {
    "Codec": "predict",
    "CodecConfig": "config",
    "CodecModel": "model",
    "CodecSpec": "model",
    "CodecTask": "task",
    "CtcDecoder": "ctc",
    "Decoder": "decoder",
    "Encoder": "model",
    "FAMILY": "recipe",
    "TextTask": "text_task",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _NAMES.items()}
)

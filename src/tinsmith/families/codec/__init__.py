"""codec: text to a vector, distilled from a sentence encoder into a model without attention."""

from tinsmith._lazy import lazy_names

_NAMES = {
    "Codec": "predict",
    "CodecConfig": "config",
    "CodecSpec": "model",
    "CodecTask": "task",
    "Encoder": "model",
    "FAMILY": "recipe",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _NAMES.items()}
)

"""lm: causal language models of characters, bytes or byte pairs."""

from tinsmith._lazy import lazy_names

_HERE = {
    "ByteTokenizer": "tokens",
    "CharTokenizer": "tokens",
    "FAMILY": "recipe",
    "LanguageModel": "model",
    "LanguageModelTask": "task",
    "LanguageModelTrainer": "front",
    "LMConfig": "config",
    "LMSpec": "model",
    "TextGenerator": "predict",
}
_SHARED = {
    "GenerationConfig": "tinsmith.text.generation_config",
    "create_causal_mask": "tinsmith.nn.masks",
    "create_combined_mask": "tinsmith.nn.masks",
    "create_padding_mask": "tinsmith.nn.masks",
    "to_torch_transformer": "tinsmith.nn.masks",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _HERE.items()} | _SHARED
)

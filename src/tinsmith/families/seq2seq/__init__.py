"""seq2seq: encoder-decoder transformers, for translation."""

from tinsmith._lazy import lazy_names

_HERE = {
    "FAMILY": "recipe",
    "Seq2SeqConfig": "config",
    "Seq2SeqSpec": "model",
    "Seq2SeqTask": "task",
    "Transformer": "model",
    "TransformerTrainer": "front",
    "Translator": "predict",
    "train_joint_bpe_tokenizer": "pairs",
}
_SHARED = {
    "GenerationConfig": "tinsmith.text.generation_config",
    "LabelSmoothing": "tinsmith.engine.losses",
    "create_causal_mask": "tinsmith.nn.masks",
    "create_combined_mask": "tinsmith.nn.masks",
    "create_padding_mask": "tinsmith.nn.masks",
    "to_torch_transformer": "tinsmith.nn.masks",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _HERE.items()} | _SHARED
)

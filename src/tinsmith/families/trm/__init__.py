"""trm: tiny recursive models, which answer by thinking again and again with one small network."""

from tinsmith._lazy import lazy_names

_NAMES = {
    "AttentionCore": "cores",
    "CharTokenizer": "tokens",
    "Effort": "search",
    "FAMILY": "recipe",
    "MLPMixer1D": "cores",
    "ModelLoader": "predict",
    "RelationCore": "cores",
    "TRMConfig": "config",
    "TRMInference": "predict",
    "TRMSpec": "model",
    "TRMTask": "task",
    "TRMTrainingLogger": "logger",
    "TinyRecursiveModel": "model",
    "Trainer": "trainer",
    "create_model": "trainer",
    "create_trainer": "trainer",
    "load_tokenizer": "tokens",
    "pad_sequence": "tokens",
    "prepare_code_input": "tokens",
    "solve": "search",
    "tokenize_and_pad": "tokens",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _NAMES.items()}
)

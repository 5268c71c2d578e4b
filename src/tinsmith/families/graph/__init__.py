"""graph: graph transformers with multi-scale positional encodings, for molecules and other graphs."""

from tinsmith._lazy import lazy_names

_NAMES = {
    "FAMILY": "recipe",
    "GraphConfig": "config",
    "GraphModel": "model",
    "GraphPredictor": "predict",
    "GraphSpec": "model",
    "GraphTask": "task",
    "Graphs": "graphs",
    "get_dataset": "datasets",
    "get_model": "model",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _NAMES.items()}
)

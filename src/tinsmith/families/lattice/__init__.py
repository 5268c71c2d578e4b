"""lattice: sentence vectors through a cube of cells, to themselves or to the vector of an answer."""

from tinsmith._lazy import lazy_names

_NAMES = {
    "AutoencoderDataset": "data",
    "CheckpointManager": "cube_trainer",
    "CubeTrainer": "cube_trainer",
    "DataConfig": "config",
    "DataVisualizer": "visual",
    "DatasetConfig": "config",
    "DialogueDataset": "data",
    "EmbeddingMetrics": "metrics",
    "EmbeddingProcessor": "model",
    "EmbeddingReshaper": "reshape",
    "FAMILY": "recipe",
    "Lattice": "model",
    "LatticeConfig": "config",
    "LatticePredictor": "predict",
    "LatticeSpec": "data",
    "LatticeTask": "task",
    "ModelConfig": "config",
    "TrainingConfig": "cube_trainer",
    "TrainingLogger": "cube_trainer",
    "calculate_embedding_similarity": "metrics",
    "create_autoencoder_dataset": "data",
    "create_dialogue_dataset": "data",
    "create_file_dataset": "data",
    "create_text_dataset": "data",
    "load_training_checkpoint": "cube_trainer",
    "save_training_checkpoint": "cube_trainer",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for name, module in _NAMES.items()}
    | {"EmbeddingLoader": "tinsmith.text.teachers"},
)

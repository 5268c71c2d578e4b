"""Retrieval: texts to vectors, a store of them, and data sets that are told what was found."""

from tinsmith._lazy import lazy_names

_NAMES = {
    "CharEncoder": "embedder",
    "TextEmbedder": "embedder",
    "MemoryVectorStore": "store",
    "Hit": "retriever",
    "RAGDatasetWrapper": "retriever",
    "RAGRetriever": "retriever",
    "build_rag": "retriever",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _NAMES.items()}
)

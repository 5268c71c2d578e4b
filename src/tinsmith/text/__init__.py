"""Text: records, corpora, the tokenizer, sentence-embedding teachers and the store of their vectors.

Nothing here imports ``tinsmith.engine``. Every name loads its module on first use.
"""

from tinsmith._lazy import lazy_names

_NAMES = {
    "Records": "records",
    "read_records": "records",
    "Corpus": "corpora",
    "Shares": "corpora",
    "embedded_corpus": "embedded",
    "load_corpus": "corpora",
    "split_rows": "corpora",
    "Tokenizer": "tokenizer",
    "PRESETS": "presets",
    "Preset": "presets",
    "EmbeddingLoader": "teachers",
    "VectorStore": "store",
    "build_store": "store",
    "cached_token_table": "store",
    "default_cache": "store",
    "open_store": "store",
    "store_from_records": "given_vectors",
}

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for name, module in _NAMES.items()}
)

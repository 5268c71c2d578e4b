"""The teachers that have a name of their own. A table; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["mean", "cls", "last"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A sentence encoder and how its vector is made, where its own files do not say.

    Attributes:
        repo: its name on the Hugging Face hub.
        size: numbers in its vector (for the table only: the size in use is read from the model).
        pooling: which token vectors make the text's.
        normalize: whether its vectors have length one.
        prefix: what stands before every text.
        max_len: where texts are cut, in tokens; 0: where the model says.
        packaged: a Python package holds its weights; no network.
        note: what to know before choosing it.
    """

    repo: str
    size: int
    pooling: Pooling
    normalize: bool = True
    prefix: str = ""
    max_len: int = 0
    packaged: bool = False
    note: str = ""


PRESETS: dict[str, Preset] = {
    "minilm": Preset(
        "sentence-transformers/all-MiniLM-L6-v2", 384, "mean", packaged=True, note="in the extra 'codec'"
    ),
    "minilm-multilingual": Preset(
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", 384, "mean", False, note="50 languages"
    ),
    "mpnet": Preset("sentence-transformers/all-mpnet-base-v2", 768, "mean", note="the best of its family"),
    "distilbert": Preset("sentence-transformers/multi-qa-distilbert-cos-v1", 768, "mean", note="search"),
    "labse": Preset("sentence-transformers/LaBSE", 768, "cls", note="109 languages; has a Dense head"),
    "bge": Preset("BAAI/bge-small-en-v1.5", 384, "cls", note="a query for search has its own prefix"),
    "e5": Preset("intfloat/e5-small-v2", 384, "mean", prefix="query: ", note="never without its prefix"),
    "gte": Preset("thenlper/gte-small", 384, "mean"),
    "qwen3-embedding": Preset(
        "Qwen/Qwen3-Embedding-0.6B", 1024, "last", max_len=512, note="decoder; wants a GPU"
    ),
    "llama3-8b": Preset(
        "meta-llama/Meta-Llama-3-8B",
        4096,
        "mean",
        max_len=512,
        note="hidden states; gated, 16 GB, wants a GPU",
    ),
}

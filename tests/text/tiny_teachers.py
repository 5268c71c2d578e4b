"""Tiny teachers with random weights and tokenizers of a few words, saved as their users save them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
)

WORDS = [
    "the",
    "a",
    "tin",
    "smith",
    "mends",
    "pots",
    "and",
    "cups",
    "makes",
    "of",
    "old",
    "new",
    "house",
    "is",
]
WORDS += ["in", "it", "red", ".", ",", "with", "his", "her", "good", "iron"]
SPECIALS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
TEXTS = [
    "The tin smith mends pots.",
    "A new house",
    "it is good, and old, and red, with iron pots and cups of tin in it.",
    "unheard words entirely",
    "his",
    "The smith makes her good new cups of red tin, and old iron pots.",
    "a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a",
]


def save_tokenizer(folder: Path, decoder: bool = False, side: str = "right", max_len: int = 24) -> int:
    """Save a word tokenizer into ``folder``; returns the size of its vocabulary."""
    vocab = {word: index for index, word in enumerate([*SPECIALS, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "[CLS] $A" if decoder else "[CLS] $A [SEP]"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    names |= {"sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=max_len, padding_side=side, **names
    ).save_pretrained(folder)
    return len(vocab)


def save_model(folder: Path, kind: str, seed: int = 0, side: str = "right") -> Path:
    """Save a model of two layers, 16 wide, with its tokenizer; ``kind``: bert, distilbert, mpnet, llama."""
    vocab = save_tokenizer(folder, kind == "llama", side)
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"vocab_size": vocab, "max_position_embeddings": 32, "pad_token_id": 0}
    wide = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model: Any
    if kind == "bert":
        model = BertModel(BertConfig(**sizes, **wide))
    elif kind == "distilbert":
        model = DistilBertModel(DistilBertConfig(**sizes, dim=16, n_layers=2, n_heads=2, hidden_dim=32))
    elif kind == "mpnet":
        model = MPNetModel(MPNetConfig(**sizes, **wide))
    else:
        model = LlamaModel(LlamaConfig(**sizes, **wide, num_key_value_heads=1))
    with torch.no_grad():
        for weight in model.parameters():  # far from the tiny initial scale: differences must show
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder

"""A teacher's network: the transformer, the pooling and the heads of its recipe, on transformers alone.

Shapes: B texts, L tokens (the special ones too), H hidden size, Z embedding size.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tinsmith.errors import ConfigError, DataError, missing_extra
from tinsmith.text.presets import Pooling
from tinsmith.text.teacher_files import Recipe, read_json, weight_files

_ACTIVATIONS = {
    kind.__name__: kind
    for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU)
}


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector per text, whichever side the padding is on.

    Args:
        hidden: [B, L, H].
        mask: [B, L], 1 for a token and 0 for padding; no row is all padding.
        pooling: mean over the tokens, the first of them, or the last.

    Returns:
        [B, H].
    """
    if pooling == "mean":
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        return (hidden * weights).sum(1) / weights.sum(1)
    places = torch.arange(mask.shape[1], device=mask.device)
    chosen = mask.long().argmax(1) if pooling == "cls" else (places * mask).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), chosen]


class Dense(nn.Module):
    """sentence-transformers' Dense head: ``activation(W x + b)``, plus ``x`` where it has a residual."""

    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config, weights = read_json(folder / "config.json"), _weights(folder)
        name = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
        source = config.get("module_input_name", "sentence_embedding")
        if name not in _ACTIVATIONS or source != "sentence_embedding":
            allowed = ", ".join(_ACTIVATIONS)
            raise DataError(f"{folder}: {name} of {source} is not a head for vectors; activations: {allowed}")
        self.register_buffer("weight", weights["linear.weight"])
        self.register_buffer("bias", weights.get("linear.bias"))
        self.register_buffer("residual", weights.get("residual.weight"))
        self.activation = _ACTIVATIONS[name]()
        self.has_residual = bool(config.get("use_residual"))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H] to [B, Z]."""
        out: Tensor = self.activation(F.linear(x, self.weight, self.bias))
        if self.has_residual:
            out = out + (x if self.residual is None else F.linear(x, self.residual))
        return out


class TeacherModel:
    """The loaded network. Padding is always on the right, so that positions never depend on neighbours."""

    def __init__(self, folder: Path, recipe: Recipe, device: str = "auto") -> None:
        self.recipe = recipe
        self.device = _device(device)
        weight_files(folder, recipe)  # says so where there are only pickles
        with _quiet() as transformers:
            self.body, self.tokenizer = _load(transformers, folder / recipe.body, self.device)
        heads = [folder / step.folder if step.kind == "dense" else None for step in recipe.steps]
        self.heads = [Dense(head).to(self.device) if head else None for head in heads]
        try:
            self.before, self.after = self._wrapping()
            hidden, mask = self.hidden([[*self.before, 0, *self.after]])
            self.size = self.vectors(hidden, mask).shape[-1]
        except DataError:
            raise
        except Exception as error:  # parts that do not fit one another fail in too many kinds to name
            reason = (str(error) or repr(error)).strip().splitlines()[0]
            raise DataError(f"{folder}: the parts of this teacher do not fit together: {reason}") from None

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the texts with prefix and special tokens, cut at ``max_len``."""
        prefixed = [self.recipe.prefix + text for text in texts]
        if self.recipe.lower:
            prefixed = [text.lower() for text in prefixed]
        batch = self.tokenizer(
            prefixed,
            truncation=True,
            max_length=self.recipe.max_len,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = batch["input_ids"]
        return ids

    @torch.inference_mode()
    def hidden(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Last hidden states [B, L, H] in float32 and mask [B, L] of a batch of id lists."""
        length = max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        inputs = torch.tensor([[*row, *[pad] * (length - len(row))] for row in ids], device=self.device)
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        mask = (torch.arange(length, device=self.device) < lengths[:, None]).long()
        out: Tensor = self.body(input_ids=inputs, attention_mask=mask).last_hidden_state
        return out.float(), mask

    @torch.inference_mode()
    def vectors(self, hidden: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
        """Pool and apply the heads; ``normalize=False`` leaves a last normalisation out. [B, Z]."""
        x = pool(hidden, mask, self.recipe.pooling)
        last = len(self.heads) - 1
        for number, head in enumerate(self.heads):
            if head is not None:
                x = head(x)
            elif normalize or number != last:
                x = F.normalize(x, dim=-1)
        return x

    @property
    def vocab_size(self) -> int:
        """The largest id of the tokenizer and one."""
        largest: int = max(self.tokenizer.get_vocab().values())
        return largest + 1

    @property
    def table_size(self) -> int:
        """Rows of the body's own token table: a tokenizer may have more ids, or fewer."""
        return len(self.body.get_input_embeddings().weight)

    def _wrapping(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after every text."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        raise DataError("the teacher's tokenizer changes a text's own tokens when it adds special ones")


def _device(name: str) -> torch.device:
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: {str(error).splitlines()[0]}") from None


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a head, in float32."""
    try:
        (file,) = folder.glob("*.safetensors")
        tensors = {key: value.float() for key, value in load_file(file).items()}
        tensors["linear.weight"]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not the one whole .safetensors file of a Dense head: {error}") from None
    return tensors


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """transformers without its progress bars and load reports."""
    try:
        import transformers
    except ImportError:
        raise missing_extra("a teacher", "codec") from None
    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load(transformers: Any, folder: Path, device: torch.device) -> tuple[Any, Any]:
    """The transformer's encoder (or decoder) without its task head, and its tokenizer."""
    options = {"local_files_only": True, "trust_remote_code": False}
    # float32 where the vectors should be exact and bf16 is slow; on a GPU what the weights were saved in
    dtype = torch.float32 if device.type == "cpu" else "auto"
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        config.use_cache = False
        kind = transformers.AutoModelForTextEncoding if config.is_encoder_decoder else transformers.AutoModel
        body, info = kind.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # broken files and unknown models fail in too many kinds to name
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        raise DataError(f"{folder}: transformers cannot load this teacher: {reason}") from None
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    if missing:
        raise DataError(
            f"{folder}: the weights lack {len(missing)} tensors, for example {sorted(missing)[0]}"
        )
    return body.eval().requires_grad_(False).to(device), tokenizer

"""The settings that transformers share. Imports no torch."""

from dataclasses import dataclass

from tinsmith.errors import check, check_choice


@dataclass
class TransformerConfig:
    """Sizes and style of a transformer. ``mlp_dim=0`` is a multiple of ``dim`` that each family chooses."""

    style: str = "modern"  # modern (RMSNorm, rotary, zero-init) | plain (LayerNorm, learned positions)
    num_layers: int = 4  # blocks
    num_heads: int = 4  # heads of attention in a block
    dim: int = 128  # width
    mlp_dim: int = 0  # width of the perceptrons; 0 = several times dim
    mlp: str = ""  # relu2 | swiglu | gelu; empty = relu2 where modern, gelu where plain
    dropout: float = 0.0  # on each branch and on the token vectors

    def validate(self) -> None:
        check_choice("model.style", self.style, ("modern", "plain"))
        check_choice("model.mlp", self.mlp, ("", "relu2", "swiglu", "gelu"))
        for name in ("num_layers", "num_heads", "dim"):
            check(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "1 or more")
        allowed = f"a multiple of twice model.num_heads={self.num_heads}"
        check(self.dim % (2 * self.num_heads) == 0, "model.dim", self.dim, allowed)
        check(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= dropout < 1")

"""The settings of a language model. Imports no torch."""

from dataclasses import dataclass, field

from tinsmith.engine.config import (
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
    check,
    check_choice,
)
from tinsmith.text.generation_config import GenerationConfig


@dataclass
class ModelConfig:
    """The transformer."""

    style: str = "modern"  # modern (RMSNorm, rotary, zero-init) | plain (LayerNorm, learned positions)
    num_layers: int = 4  # blocks
    num_heads: int = 4  # heads of attention in a block
    dim: int = 128  # width
    mlp_dim: int = 0  # width of the perceptrons; 0 = four times dim
    mlp: str = ""  # relu2 | swiglu | gelu; empty = relu2 where modern, gelu where plain
    dropout: float = 0.0  # on each branch and on the token vectors
    softcap: float = 0.0  # logits go through c tanh(x / c); 0 = as they are

    def validate(self) -> None:
        check_choice("model.style", self.style, ("modern", "plain"))
        check_choice("model.mlp", self.mlp, ("", "relu2", "swiglu", "gelu"))
        for name in ("num_layers", "num_heads", "dim"):
            check(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "1 or more")
        allowed = f"a multiple of twice model.num_heads={self.num_heads}"
        check(self.dim % (2 * self.num_heads) == 0, "model.dim", self.dim, allowed)
        check(self.mlp_dim >= 0, "model.mlp_dim", self.mlp_dim, "0 (four times dim) or more")
        check(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= dropout < 1")
        check(0 <= self.softcap < float("inf"), "model.softcap", self.softcap, "0 (none) or more, often 15")


@dataclass
class DataConfig:
    """The text. Without a path it is that of Python's own standard library."""

    path: str = ""  # any text file, or jsonl, csv, tsv, json of documents, also .gz; empty = source
    valid: str = ""  # file of the validation split; empty = the share of path
    test: str = ""  # file of the test split
    column: str = "text"  # of files of documents
    source: str = "docs"  # embedded: docs (help topics, docstrings) | code (sources of the standard library)
    max_bytes: int = 0  # text that is read of a file or of the embedded source; 0 = all
    level: str = "bpe"  # char | byte | bpe: what a token is
    vocab_size: int = 2000  # of bpe
    context: int = 128  # tokens that the model sees
    stride: int = 0  # tokens from one training window to the next; 0 = context: none overlap
    packing: str = "stream"  # stream (cut where the window ends) | fit (whole documents, each seen by itself)
    valid_share: float = 0.1  # of the documents, or of the end of a single one
    test_share: float = 0.0  # likewise
    on_bad_record: str = "error"  # error | skip (and count)

    def validate(self) -> None:
        check_choice("data.source", self.source, ("docs", "code"))
        check_choice("data.level", self.level, ("char", "byte", "bpe"))
        check_choice("data.packing", self.packing, ("stream", "fit"))
        check_choice("data.on_bad_record", self.on_bad_record, ("error", "skip"))
        check(self.context >= 2, "data.context", self.context, "2 or more")
        check(self.max_bytes >= 0, "data.max_bytes", self.max_bytes, "0 (all) or more")
        check(self.vocab_size >= 260, "data.vocab_size", self.vocab_size, "260 (bytes, special ones) or more")
        check(
            0 <= self.stride <= self.context, "data.stride", self.stride, f"0 to data.context={self.context}"
        )
        both = not (self.stride and self.packing == "fit")
        check(both, "data.stride", self.stride, "0 with data.packing=fit: its rows are whole documents")
        check(0 < self.valid_share < 0.5, "data.valid_share", self.valid_share, "above 0, below 0.5")
        check(0 <= self.test_share < 0.5, "data.test_share", self.test_share, "0 or more, below 0.5")
        need = self.path or not (self.valid or self.test)
        check(bool(need), "data.path", self.path, "needed where data.valid or data.test is set")


@dataclass
class LMOptimizerConfig(OptimizerConfig):
    """How the weights move."""

    name: str = "muon"
    lr: float = 3e-3
    muon_lr: float = 9e-3  # of the matrices, where Muon moves them
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW and Adam

    def validate(self) -> None:
        super().validate()
        check(0 < self.muon_lr < float("inf"), "optimizer.muon_lr", self.muon_lr, "above 0, often 1e-2")
        check(self.name != "sgd", "optimizer.name", self.name, "adamw, adam or muon")
        check(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "two numbers, 0 to below 1")


@dataclass
class LMConfig(RunConfig):
    """A run of a language model."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    optimizer: LMOptimizerConfig = field(default_factory=LMOptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(name="linear", warmup=0.02))
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(epochs=5, batch_size=16))


CONFIG = LMConfig

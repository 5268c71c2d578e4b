"""The settings of a language model. Imports no torch."""

from dataclasses import dataclass, field

from tinsmith.engine.config import (
    MatrixOptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
    check,
    check_choice,
)
from tinsmith.nn.transformer_config import TransformerConfig
from tinsmith.text.generation_config import GenerationConfig


@dataclass
class ModelConfig(TransformerConfig):
    """The transformer."""

    mlp_dim: int = 0  # width of the perceptrons; 0 = four times dim
    softcap: float = 0.0  # logits go through c tanh(x / c); 0 = as they are

    def validate(self) -> None:
        super().validate()
        check(self.mlp_dim >= 0, "model.mlp_dim", self.mlp_dim, "0 (four times dim) or more")
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
class LMOptimizerConfig(MatrixOptimizerConfig):
    """How the weights move."""

    lr: float = 3e-3


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

"""The settings of an encoder-decoder. Imports no torch."""

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
    """The transformer: as many blocks that read as blocks that write, unless said otherwise."""

    num_layers: int = 3  # blocks of the decoder
    encoder_layers: int = 0  # blocks of the encoder; 0 = num_layers
    num_heads: int = 6
    dim: int = 192
    mlp_dim: int = 0  # width of the perceptrons; 0 = three times dim

    def validate(self) -> None:
        super().validate()
        check(self.encoder_layers >= 0, "model.encoder_layers", self.encoder_layers, "0 (num_layers) or more")
        check(self.mlp_dim >= 0, "model.mlp_dim", self.mlp_dim, "0 (three times dim) or more")


@dataclass
class DataConfig:
    """Pairs of texts. Without a path they are made: German and English of dates, numbers and names."""

    path: str = ""  # tsv, csv, jsonl of pairs, or the source side of two aligned files; empty = made
    target: str = ""  # the target side, line by line; empty = path has both
    valid: str = ""  # likewise for validation; empty = split off from path
    valid_target: str = ""  # target side of valid
    test: str = ""  # likewise for the test
    test_target: str = ""  # target side of test
    columns: dict[str, str] = field(default_factory=dict)  # source, target -> names; numbers: no header row
    reverse: bool = False  # swap source and target
    tables: str = "builtin"  # of the pairs that are made: builtin | cldr (needs Babel and num2words)
    pairs: int = 60000  # how many are made
    valid_share: float = 0.02  # of the pairs, where no file is given
    test_share: float = 0.02  # likewise
    max_len: int = 128  # tokens of a text: longer training pairs are left out, longer inputs refused
    vocab_size: int = 4000  # of the joint byte pairs
    min_frequency: int = 2  # how often a byte pair has to occur
    split_digits: bool = False  # each digit is a token of its own
    on_bad_record: str = "error"  # error | skip (and count)

    def validate(self) -> None:
        check_choice("data.tables", self.tables, ("builtin", "cldr"))
        check_choice("data.on_bad_record", self.on_bad_record, ("error", "skip"))
        check(self.pairs >= 10, "data.pairs", self.pairs, "10 or more")
        check(self.max_len >= 2, "data.max_len", self.max_len, "2 or more")
        check(self.vocab_size >= 260, "data.vocab_size", self.vocab_size, "260 (bytes, special ones) or more")
        check(self.min_frequency >= 1, "data.min_frequency", self.min_frequency, "1 or more")
        for name in ("valid_share", "test_share"):
            check(0 < getattr(self, name) < 0.5, f"data.{name}", getattr(self, name), "above 0, below 0.5")
        for name in ("valid", "test"):
            side = getattr(self, f"{name}_target")
            check(bool(getattr(self, name)) or not side, f"data.{name}_target", side, f"set data.{name} too")
        need = self.path or not (self.target or self.valid or self.test)
        check(bool(need), "data.path", self.path, "needed where another file is given")
        unknown = sorted(set(self.columns) - {"source", "target"})
        check(not unknown, "data.columns", unknown, "source and target")


@dataclass
class LossConfig:
    """The objective."""

    label_smoothing: float = 0.1  # e: the target has 1 - e, and e is spread over the vocabulary

    def validate(self) -> None:
        check(0 <= self.label_smoothing < 1, "loss.label_smoothing", self.label_smoothing, "0 to below 1")


@dataclass
class Seq2SeqOptimizerConfig(MatrixOptimizerConfig):
    """How the weights move."""

    lr: float = 4e-3
    muon_lr: float = 7e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass
class Seq2SeqConfig(RunConfig):
    """A run of an encoder-decoder."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    optimizer: Seq2SeqOptimizerConfig = field(default_factory=Seq2SeqOptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(name="linear", warmup=0.02))
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(epochs=5, batch_size=48))


CONFIG = Seq2SeqConfig

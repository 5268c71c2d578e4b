"""The codec's settings. Imports no torch."""

from dataclasses import dataclass, field

from tinsmith.engine.config import (
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
    check,
    check_choice,
)
from tinsmith.text.teacher_config import TeacherConfig


@dataclass
class ModelConfig:
    """The student: a static average of token vectors, and convolutions that correct it."""

    conv: bool = True  # false: the static tier alone
    dim: int = 128  # width of the convolution path
    kernel: int = 5  # taps of a convolution, odd
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 1])  # one block each
    block: str = "conv"  # conv (depthwise, with kernel and dilations) | ssm (a state space, no kernel)
    pooling: str = "mean"  # mean | gated (each token has a learned weight)
    dropout: float = 0.0  # on the token vectors
    drop_path: float = 0.0  # share of the sentences that skip a block: stochastic depth

    def validate(self) -> None:
        check(self.dim >= 8, "model.dim", self.dim, "8 or more")
        check(self.kernel >= 1 and self.kernel % 2 == 1, "model.kernel", self.kernel, "an odd number")
        ok = bool(self.dilations) and all(d >= 1 for d in self.dilations)
        check(ok, "model.dilations", self.dilations, "one number of 1 or more for each block")
        check_choice("model.block", self.block, ("conv", "ssm"))
        check_choice("model.pooling", self.pooling, ("mean", "gated"))
        for name in ("dropout", "drop_path"):
            check(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), f"0 <= {name} < 1")


@dataclass
class DataConfig:
    """The sentences. Without a path they are those embedded in Python itself."""

    path: str = ""  # jsonl, csv, tsv, json or txt, also .gz; empty = the embedded corpus
    valid: str = ""  # file of the validation split; empty = split off from path
    test: str = ""  # file of the test split
    columns: dict[str, str] = field(default_factory=dict)  # text, domain, group, teacher -> names in the file
    pairs: str = ""  # file of scored pairs of sentences: adds a Spearman correlation to the table
    pair_columns: dict[str, str] = field(default_factory=dict)  # text, other, score -> names in that file
    on_bad_record: str = "error"  # error | skip (and count)
    valid_share: float = 0.05  # of the groups, where no file is given
    test_share: float = 0.05  # of the groups, where no file is given
    max_len: int = 64  # tokens of a sentence that are read
    tokenizer: str = "teacher"  # teacher | bpe (fitted on the corpus)
    vocab_size: int = 16000  # of a fitted vocabulary
    cache: str = ""  # folder of the teacher's vectors; empty = the user's cache

    def validate(self) -> None:
        check_choice("data.on_bad_record", self.on_bad_record, ("error", "skip"))
        check_choice("data.tokenizer", self.tokenizer, ("teacher", "bpe"))
        check(self.max_len >= 1, "data.max_len", self.max_len, "1 or more")
        for name in ("valid_share", "test_share"):
            check(0 < getattr(self, name) < 0.5, f"data.{name}", getattr(self, name), "above 0, below 0.5")
        need = self.path or not (self.valid or self.test)
        check(bool(need), "data.path", self.path, "needed where data.valid or data.test is set")


@dataclass
class LossConfig:
    """Weights of the terms; 0 leaves a term out."""

    cos: float = 1.0  # 1 - cosine to the teacher's vector
    mse: float = 0.0  # squared error of the vectors at length one
    sem: float = 0.0  # InfoNCE: the own teacher vector against the batch's others
    temperature: float = 0.05  # of InfoNCE
    static: float = 0.1  # 1 - cosine of the static tier alone, so that it is worth exporting

    def validate(self) -> None:
        for name in ("cos", "mse", "sem", "static"):
            check(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "0 or more")
        check(self.cos + self.mse + self.sem > 0, "loss.cos", self.cos, "cos, mse or sem above 0")
        check(self.temperature > 0, "loss.temperature", self.temperature, "above 0")


@dataclass
class CodecOptimizerConfig(OptimizerConfig):
    """How the weights move."""

    name: str = "muon"
    lr: float = 0.015
    sparse_lr: float = 0.015  # of the token table

    def validate(self) -> None:
        super().validate()
        check(self.sparse_lr > 0, "optimizer.sparse_lr", self.sparse_lr, "above 0")


@dataclass
class CodecConfig(RunConfig):
    """A codec run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: CodecOptimizerConfig = field(default_factory=CodecOptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(warmup=0.02))
    trainer: TrainerConfig = field(
        # Two batches a step, each of sentences of nearly one length: little padding, and a step sees both.
        default_factory=lambda: TrainerConfig(epochs=5, batch_size=64, accumulate=2, save_seconds=60.0)
    )


CONFIG = CodecConfig

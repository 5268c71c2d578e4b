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
class DecoderConfig:
    """The writer: a causal convolution net that is told the vector in every block."""

    kind: str = "causal"  # causal (token by token) | ctc (all tokens at once)
    vocab_size: int = 4000  # tokens that it can write, fitted on the corpus
    case: str = "auto"  # auto (lower where the teacher does not see it) | keep | lower
    dim: int = 256  # width
    block: str = "conv"  # conv (depthwise, causal) | ssm (a causal state space, no kernel); of kind=causal
    kernel: int = 3  # taps of a convolution; odd for kind=ctc
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 1, 2])  # one block each
    shared: bool = False  # one set of channel matrices for all blocks
    max_len: int = 40  # tokens that it writes at most
    dropout: float = 0.0  # on the token vectors
    drop_path: float = 0.0  # share of the sentences that skip a block: stochastic depth
    source: str = "teacher"  # whose vectors it learns from: teacher | student | both (half of the rows each)
    noise: float = 0.0  # length of the noise that is added to a vector of length one while training
    codes: int = 0  # numbers of one byte that the vector is squeezed into (VQ); 0 = the vector as it is
    correct: bool = False  # also learn to correct: told the vector of its own first draft
    validate_texts: int = 128  # held-out sentences that are written out at each validation

    def validate(self) -> None:
        check_choice("decoder.kind", self.kind, ("causal", "ctc"))
        check_choice("decoder.case", self.case, ("auto", "keep", "lower"))
        check_choice("decoder.block", self.block, ("conv", "ssm"))
        check_choice("decoder.source", self.source, ("teacher", "student", "both"))
        check(self.vocab_size >= 300, "decoder.vocab_size", self.vocab_size, "300 or more")
        check(self.dim >= 8, "decoder.dim", self.dim, "8 or more")
        odd = self.kernel >= 1 and (self.kind == "causal" or self.kernel % 2 == 1)
        check(odd, "decoder.kernel", self.kernel, "1 or more, and odd for decoder.kind=ctc")
        ok = bool(self.dilations) and all(d >= 1 for d in self.dilations)
        check(ok, "decoder.dilations", self.dilations, "one number of 1 or more for each block")
        check(self.max_len >= 1, "decoder.max_len", self.max_len, "1 or more")
        check(0 <= self.noise < float("inf"), "decoder.noise", self.noise, "0 or more")
        check(self.codes >= 0, "decoder.codes", self.codes, "0 (no bottleneck) or more")
        check(self.validate_texts >= 0, "decoder.validate_texts", self.validate_texts, "0 or more")
        causal = self.kind == "causal" or (self.block == "conv" and not self.correct)
        check(causal, "decoder.kind", self.kind, "ctc only with decoder.block=conv and decoder.correct=false")
        for name in ("dropout", "drop_path"):
            check(0 <= getattr(self, name) < 1, f"decoder.{name}", getattr(self, name), f"0 <= {name} < 1")


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
    ce: float = 1.0  # cross-entropy of the text that the decoder writes
    label_smoothing: float = 0.1  # share of the target that goes to all tokens alike
    cycle: float = 0.0  # 1 - cosine of the expected tokens' mean vector to the vector that was written out
    contrast: float = 0.0  # the text must be likelier under its own vector than under the next sentence's
    through: float = 0.0  # factor of the decoder's gradient into the encoder; 0 = none reaches it
    share: float = 0.5  # mode=both: share of the steps that train the decoder
    alternate: bool = True  # mode=both: one of the two in a step; false: the weighted sum in each step

    def validate(self) -> None:
        for name in ("cos", "mse", "sem", "static", "ce", "cycle", "contrast", "through"):
            check(0 <= getattr(self, name) < float("inf"), f"loss.{name}", getattr(self, name), "0 or more")
        check(self.cos + self.mse + self.sem > 0, "loss.cos", self.cos, "cos, mse or sem above 0")
        check(self.ce > 0, "loss.ce", self.ce, "above 0")
        check(self.temperature > 0, "loss.temperature", self.temperature, "above 0")
        check(0 <= self.label_smoothing < 1, "loss.label_smoothing", self.label_smoothing, "0 to below 1")
        check(0 < self.share < 1, "loss.share", self.share, "a share of the steps, above 0 and below 1")


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

    mode: str = "encode"  # encode (text to vector) | decode (vector to text, the encoder stays) | both
    init: str = ""  # folder of a trained codec to go on from, such as runs/codec/0001
    model: ModelConfig = field(default_factory=ModelConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: CodecOptimizerConfig = field(default_factory=CodecOptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(warmup=0.02))
    trainer: TrainerConfig = field(
        # Two batches a step, each of sentences of nearly one length: little padding, and a step sees both.
        default_factory=lambda: TrainerConfig(epochs=5, batch_size=64, accumulate=2, save_seconds=60.0)
    )

    def validate(self) -> None:
        super().validate()
        check_choice("mode", self.mode, ("encode", "decode", "both"))


CONFIG = CodecConfig

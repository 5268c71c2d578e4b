"""The lattice's settings. Imports no torch."""

from dataclasses import dataclass, field

from tinsmith.engine.config import OptimizerConfig, RunConfig, TrainerConfig, check, check_choice
from tinsmith.text.teacher_config import TeacherConfig

MODES = ("autoencoder", "dialogue", "mixed")
_SIDES = (2, 32)  # cells of a side: two faces need two slices, and 32^3 cells are a GPU's work


@dataclass
class ModelConfig:
    """The cube of cells that a vector crosses, from one face to the opposite one."""

    size: tuple[int, int, int] = (8, 8, 8)  # cells: slices from face to face, height and width of a face
    channels: int = 16  # numbers in a cell
    steps: int = 8  # local updates, at least one less than there are slices: each moves the signal by one
    bottleneck: int = 128  # numbers that pass the wall in the middle in autoencoder mode
    train_linear: bool = True  # false: the linear path stays the closed-form solution that it starts as
    dropout: float = 0.0  # on the cells of the face that is read

    def validate(self) -> None:
        low, high = _SIDES
        fits = [min(max(side, low), high) for side in self.size]
        check(
            list(self.size) == fits,
            "model.size",
            list(self.size),
            f"each side has {low} to {high} cells; the nearest that fits is model.size={_listed(fits)}",
        )
        self._check_crossing()
        check(self.channels >= 2, "model.channels", self.channels, "2 or more")
        check(self.bottleneck >= 1, "model.bottleneck", self.bottleneck, "1 or more")
        check(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= dropout < 1")

    def _check_crossing(self) -> None:
        distance = self.size[0] - 1
        fits = [max(self.steps + 1, _SIDES[0]), *self.size[1:]]
        check(
            self.steps >= distance,
            "model.steps",
            self.steps,
            f"a signal moves one cell a step, and the faces of model.size={_listed(self.size)} are "
            f"{distance} apart; the nearest that fit are model.steps={distance}, "
            f"or model.size={_listed(fits)}",
        )


def _listed(values: list[int] | tuple[int, ...]) -> str:
    return f"[{','.join(map(str, values))}]"


@dataclass
class DataConfig:
    """The sentences of autoencoder rows. Without a path they are those embedded in Python itself."""

    path: str = ""  # texts (jsonl, csv, tsv, json, txt, also .gz) or vectors (npy, safetensors)
    valid: str = ""  # file of the validation split (of pairs in dialogue mode); empty = split off
    test: str = ""  # file of the test split, likewise
    source: str = "embedded"  # embedded (or path, if set) | loader (texts to vectors) | file | mixed (both)
    columns: dict[str, str] = field(default_factory=dict)  # text, group -> names in the file
    max_samples: int = 10_000  # sentences of a split at most; 0 = all
    valid_share: float = 0.05  # of the groups, where no file is given; also of the pairs
    test_share: float = 0.05  # of the groups, where no file is given; also of the pairs
    cache: str = ""  # folder of the teacher's vectors; empty = the user's cache
    mix: float = 0.7  # share of autoencoder rows in mixed mode
    mix_by: str = "batch"  # batch | epoch: what is of one mode in mixed mode

    def validate(self) -> None:
        check_choice("data.source", self.source, ("embedded", "loader", "file", "mixed"))
        check_choice("data.mix_by", self.mix_by, ("batch", "epoch"))
        check(self.max_samples >= 0, "data.max_samples", self.max_samples, "0 (all) or more")
        for name in ("valid_share", "test_share"):
            check(0 < getattr(self, name) < 0.5, f"data.{name}", getattr(self, name), "above 0, below 0.5")
        check(0 < self.mix < 1, "data.mix", self.mix, "a share above 0 and below 1")


@dataclass
class DatasetConfig:
    """The pairs of dialogue rows. Without a file: names in Python's library, and what they are said to do."""

    source_file: str = ""  # jsonl, json, csv, tsv (also .gz), or vectors (safetensors, npy); empty = embedded
    question: str = "question"  # its column
    answer: str = "answer"  # its column
    max_pairs: int = 5_000  # pairs of a split at most; 0 = all

    def validate(self) -> None:
        check(self.max_pairs >= 0, "dialogue_data.max_pairs", self.max_pairs, "0 (all) or more")
        different = self.question != self.answer
        check(different, "dialogue_data.answer", self.answer, "another column than dialogue_data.question")


@dataclass
class LossConfig:
    """What a predicted vector is pulled to."""

    kind: str = "cosine"  # cosine | mse (squared error before the length is made one) | combined (both)
    cosine: float = 1.0  # weight of 1 - cosine
    mse: float = 1.0  # weight of the squared error, summed over the numbers of a vector
    infonce: float = 0.3  # dialogue rows: weight of the true answer against others
    temperature: float = 0.05  # of InfoNCE at the start; it is learned
    negatives: int = 1024  # other answers, drawn from the training set at every step

    def validate(self) -> None:
        check_choice("loss.kind", self.kind, ("cosine", "mse", "combined"))
        for name in ("cosine", "mse", "infonce"):
            check(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "0 or more")
        terms = self.cosine * (self.kind != "mse") + self.mse * (self.kind != "cosine")
        name = "mse" if self.kind == "mse" else "cosine"
        check(terms > 0, f"loss.{name}", getattr(self, name), f"above 0 with loss.kind={self.kind}")
        check(self.temperature > 0, "loss.temperature", self.temperature, "above 0")
        check(self.negatives >= 1, "loss.negatives", self.negatives, "1 or more")


@dataclass
class LatticeConfig(RunConfig):
    """A lattice run."""

    mode: str = "autoencoder"  # autoencoder (a vector to itself) | dialogue (question to answer) | mixed
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    dialogue_data: DatasetConfig = field(default_factory=DatasetConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(epochs=50, batch_size=32, ema=0.99, save_seconds=60.0)
    )

    def validate(self) -> None:
        check_choice("mode", self.mode, MODES)
        super().validate()


CONFIG = LatticeConfig

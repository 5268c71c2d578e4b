"""The settings of a tiny recursive model. Imports no torch."""

from dataclasses import dataclass, field

from tinsmith.engine.config import (
    MatrixOptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainerConfig,
    check,
    check_choice,
)

TASKS = ("sudoku", "maze", "arc", "code")
CORES = ("mixer", "attention", "relation")
SELECTS = ("halt", "residual", "vote")
BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # side of a board -> rows and columns of a box


@dataclass
class ModelConfig:
    """The network and how often it is called. Calls of one supervision step: blocks x (latents + 1)."""

    core: str = "mixer"  # mixer | attention | relation (rows, columns, boxes; neighbours in a maze)
    dim: int = 64  # width D
    depth: int = 2  # layers of the network
    token_hidden: int = 0  # hidden width of the mixer's token mix; 0 = twice the sequence
    channel_hidden: int = 0  # hidden width of the channel mix; 0 = twice dim
    heads: int = 4  # of attention
    kernel: int = 0  # of a convolution in front of attention, odd; 0 = none
    dropout: float = 0.0  # on the branches of the network
    blocks: int = 1  # refinement blocks T; the gradient goes through the last alone
    latents: int = 2  # latent refinements n before each refinement of the answer
    registers: int = 0  # learned extra positions in front of the sequence
    damping: float = 0.0  # share of the old answer that a refinement keeps
    init_noise: float = 0.0  # standard deviation of the noise on the first answer and latent, while training
    path_noise: float = 0.0  # the same on each step's answer and latent, while training
    max_recursion_depth: int = 16384  # calls of the network for one sample: a guard against a typing error

    def validate(self) -> None:
        check_choice("model.core", self.core, CORES)
        for name in ("dim", "depth", "heads", "blocks", "latents", "max_recursion_depth"):
            check(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "1 or more")
        for name in ("token_hidden", "channel_hidden", "kernel", "registers", "init_noise", "path_noise"):
            check(getattr(self, name) >= 0, f"model.{name}", getattr(self, name), "0 or more")
        for name in ("dropout", "damping"):
            check(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), f"0 <= {name} < 1")
        if self.core == "attention":
            fits = self.dim % (2 * self.heads) == 0
            check(fits, "model.dim", self.dim, f"a multiple of twice model.heads={self.heads} for attention")
        odd = self.kernel % 2 == 1 or self.kernel == 0
        check(odd, "model.kernel", self.kernel, "odd, or 0 for none")
        none = self.registers == 0 or self.core != "relation"
        check(none, "model.registers", self.registers, "0 for the core relation, whose positions are cells")

    def calls(self, steps: int = 1) -> int:
        """Calls of the network for one sample in so many supervision steps."""
        return steps * self.blocks * (self.latents + 1)


@dataclass
class HaltConfig:
    """Deep supervision: how many steps a sample gets before its place goes to another."""

    max_steps: int = 8  # supervision steps of a sample, at most
    bias: float = -5.0  # of the halting head at the start: at zero every sample would stop at once
    explore: float = 0.1  # share of the steps at which a sample has to go on for a random while
    weight: float = 0.5  # of the halting loss
    threshold: float = 0.5  # a sample's place goes to another above this probability, while training

    def validate(self) -> None:
        check(self.max_steps >= 1, "halt.max_steps", self.max_steps, "1 or more")
        for name in ("explore", "threshold"):
            check(0 <= getattr(self, name) <= 1, f"halt.{name}", getattr(self, name), f"0 <= {name} <= 1")
        check(self.weight >= 0, "halt.weight", self.weight, "0 or more")
        check(self.bias <= 20, "halt.bias", self.bias, "at most 20; below 0 goes on")


@dataclass
class DepthStage:
    """A stage of the depth curriculum: until this share of the run, so many blocks and latents."""

    until: float = 1.0
    blocks: int = 1
    latents: int = 2
    data: float = 1.0  # share of the training samples that take part, the first ones in data.order

    def validate(self) -> None:
        check(0 < self.until <= 1, "depth.stages until", self.until, "a share of the run, above 0, at most 1")
        check(0 < self.data <= 1, "depth.stages data", self.data, "a share, above 0, at most 1")
        for name in ("blocks", "latents"):
            check(getattr(self, name) >= 1, f"depth.stages {name}", getattr(self, name), "1 or more")


@dataclass
class DepthConfig:
    """Depth that grows while training (CGAR, arXiv:2511.08653), and the depth of use."""

    stages: list[DepthStage] = field(default_factory=list)  # [{until: 0.5}, {until: 1, blocks: 2}]
    test_steps: int = 0  # supervision steps in use; 0 = halt.max_steps
    threshold: float = 0.9  # halt in use above this probability; 1 = take all steps
    restarts: int = 1  # attempts from other starts in use
    noise: float = 1.0  # standard deviation of the starts of the restarts after the first
    select: str = "halt"  # which attempt counts: halt (most sure) | residual (most settled) | vote

    def validate(self) -> None:
        check(self.test_steps >= 0, "depth.test_steps", self.test_steps, "0 (halt.max_steps) or more")
        check(0 < self.threshold <= 1, "depth.threshold", self.threshold, "a probability, above 0, at most 1")
        check(self.restarts >= 1, "depth.restarts", self.restarts, "1 or more")
        check(self.noise >= 0, "depth.noise", self.noise, "0 or more")
        check_choice("depth.select", self.select, SELECTS)
        for stage in self.stages:
            stage.validate()
        untils = [stage.until for stage in self.stages]
        rising = untils == sorted(set(untils)) and (not untils or untils[-1] == 1)
        check(rising, "depth.stages", untils, "values of 'until' that rise and end at 1")


@dataclass
class DataConfig:
    """The puzzles. Without a path they are made: by the generator, or from Python's own sources."""

    task: str = "sudoku"  # sudoku | maze | arc | code
    path: str = ""  # sudoku: text, a puzzle a line; arc: folder, json or jsonl; code: jsonl, py or folder
    columns: dict[str, str] = field(default_factory=dict)  # text, code -> names in the file, for code
    train: int = 4000  # samples to make, or to take from path (0 = all that are left)
    valid: int = 256  # validation samples
    test: int = 512  # test samples
    size: int = 4  # side of a board (4, 6, 9) or of a maze (odd); of the largest arc grid
    clues: int = 6  # clues of a sudoku to make, at least
    clues_to: int = 0  # and at most, evenly spread; 0 = all have data.clues
    augment: bool = True  # symmetries, drawn anew in each epoch
    order: str = "hard_first"  # hard_first (fewest clues, longest path) | easy_first: for depth.stages data
    seq_len: int = 0  # code: characters of a sample; sudoku: cells of a board; 0 = as the task has it
    span: int = 8  # code: characters that are masked
    spans: int = 4  # code: such spans of a sample in training; one in use
    tokenizer: str = "chars"  # code: chars, or the name or folder of a Hugging Face tokeniser
    augmentations: int = 8  # arc: versions of each task, also those that vote
    on_bad_record: str = "error"  # error | skip (and count)

    def validate(self) -> None:
        check_choice("data.task", self.task, TASKS)
        check_choice("data.order", self.order, ("hard_first", "easy_first"))
        check_choice("data.on_bad_record", self.on_bad_record, ("error", "skip"))
        check(self.train >= 0, "data.train", self.train, "0 (all) or more")
        for name in ("valid", "span", "spans", "augmentations"):
            check(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "1 or more")
        check(self.test >= 0, "data.test", self.test, "0 (no test split) or more")
        check(self.seq_len >= 0, "data.seq_len", self.seq_len, "0 (as the task has it) or more")
        {"sudoku": self._validate_sudoku, "maze": self._validate_maze}.get(self.task, self._validate_rest)()

    def side(self) -> int:
        """Side of the boards: ``size``, or that of ``seq_len`` cells."""
        return round(self.seq_len**0.5) if self.seq_len and self.task == "sudoku" else self.size

    def _validate_sudoku(self) -> None:
        key, value = ("data.seq_len", self.seq_len) if self.seq_len else ("data.size", self.size)
        cells = self.seq_len in (0, 16, 36, 81)
        check(cells and self.side() in BOXES, key, value, "a board of side 4, 6 or 9 (16, 36 or 81 cells)")
        least = {4: 4, 6: 8, 9: 17}[self.side()]  # no board of fewer clues has one solution
        ok = least <= self.clues <= self.side() ** 2
        check(ok, "data.clues", self.clues, f"{least} to {self.side() ** 2} on a board of side {self.side()}")
        up = self.clues_to == 0 or self.clues <= self.clues_to <= self.side() ** 2
        check(up, "data.clues_to", self.clues_to, f"0, or data.clues={self.clues} to {self.side() ** 2}")

    def _validate_maze(self) -> None:
        check(self.size >= 5 and self.size % 2 == 1, "data.size", self.size, "odd, 5 or more for a maze")

    def _validate_rest(self) -> None:
        if self.task == "arc":
            check(1 <= self.size <= 30, "data.size", self.size, "1 to 30 for arc")
        elif self.seq_len:
            need = self.span + 4
            check(self.seq_len >= need, "data.seq_len", self.seq_len, f"{need} or more (data.span + 4)")


@dataclass
class LossConfig:
    """The loss of the cells; the halting loss has its weight in ``halt``."""

    name: str = "cross_entropy"  # cross_entropy | stablemax

    def validate(self) -> None:
        check_choice("loss.name", self.name, ("cross_entropy", "stablemax"))


@dataclass
class RetrievalConfig:
    """Context for each code sample from the other samples. Off without an encoder."""

    encoder: str = ""  # chars (no package), a teacher such as minilm, or a run folder with an encoder
    count: int = 1  # neighbours that are put in front
    near: float = 0.95  # neighbours more alike than this are left out, as copies of the sample

    def validate(self) -> None:
        check(self.count >= 1, "retrieval.count", self.count, "1 or more")
        check(0 < self.near <= 1, "retrieval.near", self.near, "a cosine, above 0, at most 1")


@dataclass
class TRMOptimizerConfig(MatrixOptimizerConfig):
    """How the weights move."""

    lr: float = 2e-3  # highest learning rate of what is no matrix
    muon_lr: float = 1e-2
    weight_decay: float = 0.1  # on matrices only: never on norms, biases and embeddings


@dataclass
class TRMConfig(RunConfig):
    """A run of a tiny recursive model."""

    model: ModelConfig = field(default_factory=ModelConfig)
    halt: HaltConfig = field(default_factory=HaltConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    optimizer: TRMOptimizerConfig = field(default_factory=TRMOptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(warmup=0.05, min_lr=2e-5))
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(epochs=50, batch_size=64, ema=0.99, save_seconds=60.0)
    )

    def validate(self) -> None:
        super().validate()
        relation = self.model.core != "relation" or self.data.task in ("sudoku", "maze")
        check(relation, "model.core", self.model.core, "mixer or attention: only boards and mazes have cells")
        deepest = max([self.model.calls(), *(s.blocks * (s.latents + 1) for s in self.depth.stages)])
        steps = max(self.halt.max_steps, self.depth.test_steps)
        check(
            steps * deepest <= self.model.max_recursion_depth,
            "model.max_recursion_depth",
            self.model.max_recursion_depth,
            f"{steps} steps of {deepest} calls make a depth of {steps * deepest}: raise it, or take fewer",
        )
        if self.depth.stages:
            last, m = self.depth.stages[-1], self.model
            check(
                (last.blocks, last.latents) == (m.blocks, m.latents),
                "depth.stages",
                f"... {last.blocks} blocks of {last.latents} latents",
                f"its last stage has the depth of use: model.blocks={m.blocks}, model.latents={m.latents}",
            )
        code = self.data.task == "code" or not self.retrieval.encoder
        check(code, "retrieval.encoder", self.retrieval.encoder, "for data.task=code only")


CONFIG = TRMConfig

"""The settings of a teacher. Imports no torch."""

from dataclasses import dataclass

from tinsmith.errors import check, check_choice


@dataclass
class TeacherConfig:
    """The encoder that makes vectors of texts. It stays as it is."""

    name: str = "minilm"  # a preset, a local folder of an encoder, or a name on the hub
    pooling: str = ""  # mean | cls | last; empty = as its own files say
    prefix: str = ""  # in front of each sentence; empty = as its own files say
    max_len: int = 128  # tokens that it reads at most
    batch_size: int = 64  # sentences at once; the vectors do not depend on it

    def validate(self) -> None:
        check_choice("teacher.pooling", self.pooling, ("", "mean", "cls", "last"))
        check(self.max_len >= 3, "teacher.max_len", self.max_len, "3 or more")
        check(self.batch_size >= 1, "teacher.batch_size", self.batch_size, "1 or more")

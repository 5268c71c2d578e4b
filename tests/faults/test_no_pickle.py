"""No file that tinsmith writes holds a pickle, and no file that it reads runs code.

A pickle, a tag of YAML or a module of a teacher would make a canary appear; each malicious file must be
refused with a message, and the canary never appear. All is run by default; ``-m full`` has nothing more.
"""

import ast
import gzip
import io
import json
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xxhash
from torch import nn

import tinsmith
from tinsmith import Trainer
from tinsmith.compose import compose
from tinsmith.engine.checkpoint import find_checkpoints, read_checkpoint, read_newest
from tinsmith.errors import TinsmithError
from tinsmith.families.codec import predict
from tinsmith.sealed import seal
from tinsmith.text.records import read_records
from tinsmith.text.store import cached_token_table, open_store
from tinsmith.text.teachers import EmbeddingLoader
from tinsmith.text.tokenizer import Tokenizer

pytest.importorskip("transformers")

from faults import test_malformed_files as signed
from faults.tiny_run import finished_run

# ---- what is written


def pickles_in(name: str, data: bytes) -> Iterator[str]:
    """The names of what is a pickle: the file, a member of a zip, or what a gzip or an array holds."""
    if data[:2] == b"\x1f\x8b":
        yield from pickles_in(f"{name}, unzipped", gzip.decompress(data))
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            for member in file.namelist():
                yield from pickles_in(f"{name}: {member}", file.read(member))
    if data[:6] == b"\x93NUMPY" and b"'|O'" in data[:200]:
        yield f"{name}, an array of objects"
    if data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        yield f"{name}, by its first bytes"
    elif _parses(data):
        yield f"{name}, by its opcodes"


def _parses(data: bytes) -> bool:
    """Whether the opcodes end where the file does; a few bytes of numbers may look like some by chance."""
    try:
        *_, (_, _, end) = pickletools.genops(data)
        return end == len(data) - 1 > 0
    except Exception:
        return False


def scan(folder: Path) -> tuple[int, list[str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), [bad for path in files for bad in pickles_in(str(path), path.read_bytes())]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("malice"), "logger.tensorboard=true")


def a_trainer() -> Trainer:
    model = nn.Linear(2, 1)
    return Trainer(
        model=model, optimizer=torch.optim.Adam(model.parameters()), loss_fn=F.mse_loss, progress=False
    )


def test_nothing_that_is_written_is_a_pickle(finished: Path, tmp_path: Path) -> None:
    a_trainer().save_checkpoint(tmp_path / "checkpoint")
    count, found = scan(finished.parents[2])
    more, also = scan(tmp_path)
    assert found + also == []
    assert count > 40
    assert more >= 3


def test_only_the_exchange_file_is_and_it_is_read_without_running_it(tmp_path: Path) -> None:
    a_trainer().save_checkpoint(tmp_path / "x.pt")
    assert [name.rpartition("/")[2] for name in scan(tmp_path)[1]] == ["data.pkl, by its first bytes"]
    a_trainer().load_checkpoint(tmp_path / "x.pt")


def test_the_source_has_no_call_that_runs_what_it_reads() -> None:
    for path in sorted(Path(tinsmith.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                assert not names & {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}, path
            if isinstance(node, ast.Call):
                called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert called not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"), path
                assert called != "torch.load" or given.get("weights_only") == "True", path
                assert called not in ("np.load", "np.save") or given["allow_pickle"] == "False", path
                assert given.get("trust_remote_code", "False") == "False", path


@pytest.mark.parametrize("protocol", range(6))
def test_the_scanner_finds_planted_pickles(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"a": [1, "b"]}, protocol)
    (tmp_path / "plain.json").write_bytes(data)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(data))
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as file:
        file.writestr("deep/a", data)
    np.save(tmp_path / "array.npy", np.array([{}], object), allow_pickle=True)
    count, found = scan(tmp_path)
    assert len(found) == count == 4


# ---- what is read


class Evil:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def evil(canary: Path) -> bytes:
    return pickle.dumps({"model": Evil(canary)})


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    copytree(finished.parents[2], tmp_path / "home", symlinks=True)
    return tmp_path / "home" / "runs" / "codec" / "0001"


Attack = Callable[[Path, bytes, Path], Any]
ATTACKS: dict[str, Attack] = {}


def attack(make: Attack) -> Attack:
    ATTACKS[make.__name__.replace("_", " ")] = make
    return make


def _load_pt(run: Path, data: bytes) -> Any:
    (run / "x.pt").write_bytes(data)
    return a_trainer().load_checkpoint(run / "x.pt")


def _saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@attack
def a_checkpoint_for_exchange(run: Path, evil: bytes, canary: Path) -> Any:
    return _load_pt(run, _saved({"tensors": {}, "state": Evil(canary)}))


@attack
def a_checkpoint_for_exchange_in_the_old_format(run: Path, evil: bytes, canary: Path) -> Any:
    return _load_pt(run, _saved({"tensors": Evil(canary)}, _use_new_zipfile_serialization=False))


@attack
def a_bare_pickle_for_exchange(run: Path, evil: bytes, canary: Path) -> Any:
    return _load_pt(run, evil)


@attack
def a_zip_whose_members_climb_out(run: Path, evil: bytes, canary: Path) -> Any:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for name in ("../../canary/a", "/canary", "x/data.pkl", "../x/data.pkl"):
            members.writestr(name, evil)
    return _load_pt(run, file.getvalue())


def _objects(canary: Path) -> bytes:
    file = io.BytesIO()
    evil = Evil(canary)  # one object, which the pickle holds once
    np.save(file, np.array([[evil] * 16] * 64, object), allow_pickle=True)
    return file.getvalue()


def _array(run: Path, name: str, data: bytes) -> Any:
    form = signed._store_file(run, name)
    form.file.write_bytes(data)
    form.sign()
    return form.read()


@attack
def an_array_of_objects_in_a_store(run: Path, evil: bytes, canary: Path) -> Any:
    return _array(run, "vectors", _objects(canary))


@attack
def an_array_of_objects_among_the_keys(run: Path, evil: bytes, canary: Path) -> Any:
    return _array(run, "keys", _objects(canary))


@attack
def a_zip_of_arrays_in_a_store(run: Path, evil: bytes, canary: Path) -> Any:
    file = io.BytesIO()
    np.savez(file, vectors=np.array([Evil(canary)], object))
    return _array(run, "vectors", file.getvalue())


@attack
def a_bare_pickle_in_a_store(run: Path, evil: bytes, canary: Path) -> Any:
    return _array(run, "vectors", evil)


@attack
def a_store_whose_files_lie_elsewhere(run: Path, evil: bytes, canary: Path) -> Any:
    form = signed.manifest_of_store(run)
    (run / "evil-00000.npy").write_bytes(_objects(canary))
    text = form.file.read_text().replace('"vectors":', f'"{os.path.relpath(run, form.file.parent)}/evil":')
    form.file.write_text(text)
    form.sign()
    return open_store(form.file.parent)


def _model(run: Path, name: str, data: bytes) -> Any:
    form = {"model.safetensors": signed.weights, "tokenizer.json": signed.tokenizer}[name](run)
    form.file.write_bytes(data)
    form.sign()
    return form.read()


@attack
def a_pickle_as_the_weights_of_a_model(run: Path, evil: bytes, canary: Path) -> Any:
    return _model(run, "model.safetensors", evil)


@attack
def a_torch_file_as_the_weights_of_a_model(run: Path, evil: bytes, canary: Path) -> Any:
    return _model(run, "model.safetensors", _saved({"w": Evil(canary)}))


@attack
def a_huge_header_of_the_weights(run: Path, evil: bytes, canary: Path) -> Any:
    return _model(run, "model.safetensors", b"\xff" * 7 + b"\x7f" + evil)


@attack
def a_pickle_as_the_tokenizer_of_a_model(run: Path, evil: bytes, canary: Path) -> Any:
    return _model(run, "tokenizer.json", evil)


@attack
def weights_that_are_a_link_to_a_pickle(run: Path, evil: bytes, canary: Path) -> Any:
    (run / "evil").write_bytes(evil)
    (run / "model" / "model.safetensors").unlink()
    (run / "model" / "model.safetensors").symlink_to(run / "evil")
    return predict.Codec.load(run)


@attack
def a_manifest_of_a_model_that_names_files_elsewhere(run: Path, evil: bytes, canary: Path) -> Any:
    (run / "evil").write_bytes(evil)
    seal(run / "model", ["../evil"])
    return predict.Codec.load(run)


@attack
def a_pickle_in_a_checkpoint(run: Path, evil: bytes, canary: Path) -> Any:
    folder = find_checkpoints(run / "checkpoints")[0].path
    (folder / "optimizer.safetensors").write_bytes(evil)
    return read_checkpoint(folder)


@attack
def a_manifest_of_a_checkpoint_that_names_files_elsewhere(run: Path, evil: bytes, canary: Path) -> Any:
    folder = find_checkpoints(run / "checkpoints")[0].path
    (folder.parent / "evil.safetensors").write_bytes(evil)
    text = (folder / "MANIFEST.json").read_text().replace("ema.safetensors", "../evil.safetensors")
    (folder / "MANIFEST.json").write_text(text)
    return read_checkpoint(folder)


def _teacher(run: Path) -> Path:
    return run.parents[2] / "teacher"


@attack
def a_teacher_of_a_pickle_alone(run: Path, evil: bytes, canary: Path) -> Any:
    (_teacher(run) / "model.safetensors").unlink()
    (_teacher(run) / "pytorch_model.bin").write_bytes(evil)
    return EmbeddingLoader(_teacher(run)).size


@attack
def a_teacher_whose_weights_are_a_pickle(run: Path, evil: bytes, canary: Path) -> Any:
    (_teacher(run) / "model.safetensors").write_bytes(_saved({"w": Evil(canary)}))
    return EmbeddingLoader(_teacher(run)).size


def _with_code(run: Path, canary: Path, file: str, keys: dict[str, str]) -> Any:
    path = _teacher(run) / file
    settings = json.loads(path.read_text())
    settings = {**settings, "auto_map": keys, "model_type": "evil", "tokenizer_class": "Evil"}
    path.write_text(json.dumps(settings))
    (_teacher(run) / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
    return EmbeddingLoader(_teacher(run)).encode(["tin"])


@attack
def a_teacher_with_a_model_of_its_own_code(run: Path, evil: bytes, canary: Path) -> Any:
    return _with_code(run, canary, "config.json", {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})


@attack
def a_teacher_with_a_module_of_its_own_code(run: Path, evil: bytes, canary: Path) -> Any:
    (_teacher(run) / "modules.json").write_text('[{"type": "evil.Evil", "path": ""}]')
    (_teacher(run) / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    return EmbeddingLoader(_teacher(run)).size


@attack
def a_teacher_whose_head_is_a_pickle(run: Path, evil: bytes, canary: Path) -> Any:
    signed.teacher_modules(run)
    path = _teacher(run) / "modules.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), {"type": "a.Dense", "path": "3_Dense"}]))
    (_teacher(run) / "3_Dense").mkdir()
    (_teacher(run) / "3_Dense" / "config.json").write_text("{}")
    (_teacher(run) / "3_Dense" / "pytorch_model.bin").write_bytes(evil)
    return EmbeddingLoader(_teacher(run)).size


@attack
def a_teacher_whose_parts_lie_elsewhere(run: Path, evil: bytes, canary: Path) -> Any:
    signed.teacher_modules(run)
    path = _teacher(run) / "modules.json"
    path.write_text(path.read_text().replace("1_Pooling", "../evil"))
    return EmbeddingLoader(_teacher(run)).size


@attack
def a_pickle_as_the_tokenizer_of_a_teacher(run: Path, evil: bytes, canary: Path) -> Any:
    (_teacher(run) / "tokenizer.json").write_bytes(evil)
    return Tokenizer.from_teacher(_teacher(run))


@attack
def settings_that_make_objects(run: Path, evil: bytes, canary: Path) -> Any:
    (run / "mine.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{canary}']\n")
    return compose("codec", [], run / "mine.yaml")


@attack
def settings_that_are_a_pickle(run: Path, evil: bytes, canary: Path) -> Any:
    (run / "mine.yaml").write_bytes(evil)
    return compose("codec", [], run / "mine.yaml")


@attack
def records_that_are_a_pickle(run: Path, evil: bytes, canary: Path) -> Any:
    (run / "a.jsonl").write_bytes(evil)
    return list(read_records(run / "a.jsonl"))


@attack
def zipped_records_that_are_a_pickle(run: Path, evil: bytes, canary: Path) -> Any:
    (run / "a.jsonl.gz").write_bytes(gzip.compress(evil))
    return list(read_records(run / "a.jsonl.gz", on_bad="skip"))


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_malicious_is_refused(run: Path, evil: bytes, canary: Path, name: str) -> None:
    with pytest.raises(TinsmithError) as refusal:
        ATTACKS[name](run, evil, canary)
    assert not canary.exists()
    assert str(run.parents[2]) in str(refusal.value), "the file is not named"
    assert refusal.value.exit_code in (2, 3)


def test_what_is_malicious_beside_good_files_is_not_touched(run: Path, evil: bytes, canary: Path) -> None:
    (_teacher(run) / "pytorch_model.bin").write_bytes(evil)
    EmbeddingLoader(_teacher(run)).encode(["tin"])
    elsewhere = run / "elsewhere"
    newest = find_checkpoints(run / "checkpoints")[0].path
    copytree(newest, elsewhere)
    (run / "checkpoints" / "step-99999999-ffffffff").symlink_to(elsewhere)
    found = read_newest(run / "checkpoints")
    assert found is not None
    assert found[0] == newest, "a link was followed"
    assert not canary.exists()


def test_a_table_of_objects_is_computed_again(tmp_path: Path, canary: Path) -> None:
    class Teacher:
        fingerprint = "f" * 32

        def token_table(self, progress: object = None) -> Any:
            return np.ones((4, 2), np.float32)

    data = _objects(canary)
    (tmp_path / f"{'f' * 32}-{xxhash.xxh3_128_hexdigest(data)}.npy").write_bytes(data)
    assert cached_token_table(tmp_path, Teacher()).shape == (4, 2)
    assert not canary.exists()


def test_the_canary_appears_where_a_pickle_is_run(tmp_path: Path, canary: Path) -> None:
    (tmp_path / "x.pt").write_bytes(_saved({"state": Evil(canary)}))
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert canary.exists()
    canary.rmdir()
    np.load(io.BytesIO(_objects(canary)), allow_pickle=True)
    assert canary.exists()

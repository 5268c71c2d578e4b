import dataclasses
import json
import random
import re
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinsmith.compose import compose, groups_of, plain_values
from tinsmith.engine.config import RunConfig
from tinsmith.errors import ConfigError
from tinsmith.families import FAMILIES, config_type
from tinsmith.overrides import ALIASES, Requirement, parse_requirement
from tinsmith.settings import Plain, build, convert, settings_of, show


def fails(family: str, *overrides: str, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(family, overrides, file)
    return str(caught.value)


def test_layers_lie_in_order_and_every_value_knows_its_own(fake: str, tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("preset: fast\nmodel:\n  dim: 32\n  heads: 2\ntrainer.epochs: 7\n")
    resolved = compose(fake, ["trainer.epochs=9", "optimizer.lr=1e-2"], mine)
    cfg = resolved.cfg
    assert (cfg.trainer.epochs, cfg.model.dim, cfg.model.heads, cfg.optimizer.lr) == (9, 32, 2, 0.01)
    assert (cfg.trainer.log_every, cfg.teacher.name, cfg.trainer.batch_size) == (20, "minilm", 128)
    assert resolved.choices == {"teacher": "minilm", "preset": "fast"}
    assert {key: origin for key, origin in resolved.origins.items() if origin != "default"} == {
        "trainer.epochs": "command line",
        "optimizer.lr": "command line",
        "model.dim": f"{mine}:3",
        "model.heads": f"{mine}:4",
        "trainer.log_every": "config.yaml",
        "teacher.name": "teacher=minilm",
    }


def test_a_group_file_lies_over_the_primary_file_and_under_the_command_line(fake: str) -> None:
    assert compose(fake, ["preset=full"]).cfg.trainer.log_every == 100
    assert compose(fake, ["trainer.log_every=5", "preset=full"]).cfg.trainer.log_every == 5
    assert compose(fake, ["preset=full"]).origins["trainer.epochs"] == "preset=full"


def test_a_choice_on_the_command_line_replaces_the_default_one(fake: str) -> None:
    resolved = compose(fake, ["teacher=e5"])
    assert (resolved.cfg.teacher.name, resolved.cfg.teacher.normalise) == ("e5", False)
    assert resolved.choices == {"teacher": "e5"}


def test_groups_are_the_folders_of_conf(fake: str) -> None:
    assert {group: list(files) for group, files in groups_of(fake).items()} == {
        "preset": ["fast", "full"],
        "teacher": ["e5", "minilm"],
    }


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("trainer.epochs=1e2", "trainer.epochs", 100),
        ("optimizer=sgd", "optimizer.name", "sgd"),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("optimizer.lr=3e-4", "optimizer.lr", 3e-4),
        ("name=0007", "name", "0007"),
        ("name=1e3", "name", "1e3"),
        ("name=on", "name", "on"),
        ("trainer.mixed_precision=off", "trainer.mixed_precision", "off"),
        ("trainer.deterministic=no", "trainer.deterministic", False),
        ("model.dilations=[1, 3]", "model.dilations", (1, 3)),
        ("model.dilations=[]", "model.dilations", ()),
        ("model.size=[2,3]", "model.size", (2, 3)),
        ("model.dropout=null", "model.dropout", None),
        ("model.dropout=0.1", "model.dropout", 0.1),
        ("model.pool=gated", "model.pool", "gated"),
        ("data.path=a=b.txt", "data.path", "a=b.txt"),
        ("data.path=it's.txt", "data.path", "it's.txt"),
        ("data.path=/größe/x.jsonl", "data.path", "/größe/x.jsonl"),
        ("data.path='a, b'", "data.path", "a, b"),
        ("data.path='null'", "data.path", "null"),
        ("data.columns={answer: reply}", "data.columns", {"answer": "reply"}),
        ("data.columns.answer=reply", "data.columns", {"answer": "reply"}),
        ("teacher={name: x}", "teacher.name", "x"),
        ("trainer.epochs=int(3.7)", "trainer.epochs", 3),
    ],
)
def test_values_are_read_as_their_type_wants(fake: str, override: str, key: str, value: object) -> None:
    found = compose(fake, [override]).values[key]
    assert found == value
    assert type(found) is type(value)


def test_items_of_a_dict_are_set_one_by_one(fake: str, tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("data:\n  columns: {text: t, answer: a}\n")
    resolved = compose(fake, ["data.columns.answer=a=b", "data.columns.more=5"], mine)
    assert resolved.cfg.data.columns == {"text": "t", "answer": "a=b", "more": "5"}
    assert resolved.origins["data.columns"] == "command line"
    assert config_type(fake)().data.columns == {}, "a default was changed"
    assert "data.columns.a=[1] is not a str" in fails(fake, "data.columns.a=[1]")


def test_a_root_may_give_a_section_other_defaults(fake: str) -> None:
    resolved = compose(fake)
    assert (resolved.cfg.scheduler.warmup, resolved.origins["scheduler.warmup"]) == (0.02, "default")
    assert resolved.cfg == dataclasses.replace(config_type(fake)(), trainer=resolved.cfg.trainer)


def test_lists_of_dataclasses_are_built_and_checked(fake: str, tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("model:\n  layers:\n    - {width: 16}\n    - {width: 32, act: relu}\n")
    layers = compose(fake, config_file=mine).cfg.model.layers
    assert [dataclasses.astuple(layer) for layer in layers] == [(16, "gelu"), (32, "relu")]
    mine.write_text("model: {layers: [{widht: 16}]}\n")
    assert "no field 'widht' (has: width, act)" in fails(fake, file=mine)


def test_what_is_written_is_read_back_whole(fake: str, tmp_path: Path) -> None:
    given = ["preset=fast", "name=off", "data.path='null'", "model.dropout=1e-05", "model.size=[1,2]"]
    first = compose(fake, [*given, "model.layers=[{width: 3}]", "data.columns={a: b}"])
    for comments in (False, True):
        copy = tmp_path / f"{comments}.yaml"
        copy.write_text(first.to_yaml(comments))
        second = compose(fake, [], copy)
        assert second.values == first.values
        assert second.cfg == first.cfg
    assert "dim: 64  # int: width of the layers" in first.to_yaml(comments=True)
    assert yaml.safe_load(first.to_yaml())["name"] == "off", "other readers of YAML see the same text"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20),
    number=st.floats(allow_nan=False),
    items=st.lists(st.integers(), max_size=4),
)
@example(text="\x85", number=1e-5, items=[])  # PyYAML writes it raw and reads a space
def test_any_value_survives_the_file(
    fake: str, tmp_path: Path, text: str, number: float, items: list[int]
) -> None:
    resolved = compose(fake)
    values = {"data.path": text, "model.dropout": number, "model.dilations": tuple(items)}
    resolved.values.update(values)
    copy = tmp_path / "copy.yaml"
    copy.write_text(resolved.to_yaml(), encoding="utf-8")
    if "${" not in text:
        assert {key: compose(fake, [], copy).values[key] for key in values} == values


@pytest.mark.parametrize("family", ["fake", *FAMILIES])
def test_defaults_are_valid_and_documented(fake: str, family: str) -> None:
    for group, files in groups_of(family).items():
        for choice in files:
            compose(family, [f"{group}={choice}"])
    resolved = compose(family)
    assert json.loads(json.dumps(plain_values(resolved.values)))
    described = settings_of(config_type(family))
    assert not [key for key in settings_of(RunConfig) if not described[key].help], (
        "a shared setting has no comment"
    )


def _typos(key: str, letters: str) -> set[str]:
    """Each place of a key with a letter deleted, swapped, inserted, replaced."""
    found = set()
    for i in range(len(key)):
        for letter in letters:
            found |= {key[:i] + letter + key[i:], key[:i] + letter + key[i + 1 :]}
        found |= {key[:i] + key[i + 1 :], key[:i] + key[i + 1 : i + 2] + key[i] + key[i + 2 :]}
    return found - {""}


@pytest.mark.parametrize("family", ["fake", *FAMILIES])
def test_a_typo_in_any_key_is_answered_with_the_right_one(fake: str, family: str) -> None:
    known = settings_of(config_type(family))
    taken = {part for key in known for part in (key, key.rpartition(".")[0])} | set(groups_of(family))
    draw = random.Random(0)
    right = total = 0
    for key in known:
        typos = sorted(_typos(key, string.ascii_lowercase + "_") - taken)
        for typo in draw.sample(typos, 4):
            message = fails(family, f"{typo}=1").splitlines()[0]
            assert message.startswith(f"unknown setting '{typo}' (from the command line).")
            named = re.search(r"Did you mean: ([\w.]+) \(", message)
            total, right = total + 1, right + (named is not None and named[1] == key)
    assert right >= 0.95 * total, f"{right} of {total} typos were answered rightly"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_text_for_an_override_ends_in_anything_but_a_config_error(fake: str, data: st.DataObject) -> None:
    keys = sorted(settings_of(config_type(fake)))
    key = data.draw(st.sampled_from(["", "preset", "trainer", "+seed", "~seed", *keys]) | st.text(max_size=6))
    value = data.draw(st.text("01.e-+'\"[]{},:=$()\\ abnulltrue\n", max_size=12))
    try:
        resolved = compose(fake, [f"{key}={value}"])
    except ConfigError:
        return
    assert resolved.origins.get(key) == "command line" or key in ("preset", "trainer")


def test_every_alias_names_a_setting_of_every_family(fake: str) -> None:
    for key in ALIASES:
        assert key in settings_of(config_type(fake))


def test_a_file_passes_the_same_check_with_its_line(fake: str, tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    cases = {
        "trainer:\n  epoch: 3\n": f"unknown setting 'trainer.epoch' ({mine}:2). Did you mean: trainer.epochs",
        "seed: 1\nmodel: {dim: x}\n": f"{mine}:2: model.dim='x' is not an int (now 128",
        "trainer:\n  epochs: 3\n  epochs: 4\n": f"{mine}:3: 'trainer.epochs' stands twice, here and in l",
        "a: [1\nb: 2\n": f"{mine}:2: this is not YAML",
        "trainer:\n\tepochs: 3\n": f"{mine}:2: this is not YAML",
        "- a\n": f"{mine}:1: the file must hold 'key: value' lines",
        "preset: fsat\n": f"no such preset for fake ({mine}:1). Did you mean: fast? All: fast, full.",
        "trainer: 5\n": f"'trainer' is a section, not a setting ({mine}:1)",
        "seed: 1\noptimizer:\n  lr: -1\n": f"optimizer.lr=-1.0 is not allowed: above 0, often 1e-4 to 1e-2. "
        f"(optimizer.lr: {mine}:3)",
        "seed: !!python/object/apply:os.system [ls]\n": f"{mine}:1: '!!python/object/apply:os.system'",
        "a: &x {b: *x}\n": f"{mine}:1: this is not YAML: '*x' is not filled in here",
    }
    for text, message in cases.items():
        mine.write_text(text)
        assert message in fails(fake, file=mine)
    mine.write_bytes(b"\xff\xfe\x00")
    assert "cannot read the config file" in fails(fake, file=mine)
    assert "not found. Did you mean: my.yaml?" in fails(fake, file=tmp_path / "mi.yaml")
    mine.write_text("trainer:\n# all of it is commented out\n")
    assert compose(fake, [], mine).cfg == compose(fake).cfg


def test_now_is_the_value_below_the_command_line(fake: str) -> None:
    assert "trainer.epochs (int, now 3)" in fails(fake, "preset=fast", "trainer.epoch=5")
    assert "(now 3, from preset=fast)" in fails(fake, "preset=fast", "trainer.epochs=x")


def test_convert_does_not_invent_numbers() -> None:
    for value, kind in [
        ("1.5", int),
        ("true", int),
        ("nan", int),
        ("inf", int),
        ("", int),
        ("2", bool),
        ([], float),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011 (the caller words the message)
            convert(Plain(value) if isinstance(value, str) else value, kind)
    assert convert(Plain(str(2**62 + 1)), int) == 2**62 + 1, "no way through a float"
    assert convert(Plain(".inf"), float) == float("inf")


def test_show_is_what_the_command_line_reads(fake: str) -> None:
    for value in ("a b", "x", "it's", ""):
        assert compose(fake, [f"data.path={show(value)}"]).values["data.path"] == value
    assert show((1, [True, None])) == "[1,[true,null]]"


def test_build_needs_every_leaf(fake: str) -> None:
    values = {key: setting.default for key, setting in settings_of(config_type(fake)).items()}
    assert build(config_type(fake), values) == config_type(fake)()
    del values["model.dim"]
    with pytest.raises(KeyError):
        build(config_type(fake), values)


def test_a_requirement_is_read_and_held_against_a_value() -> None:
    bar = parse_requirement("val/cosine >= 0.9")
    assert bar == Requirement("val/cosine", ">=", 0.9)
    assert (bar.holds(0.9), bar.holds(0.89), bar.holds(float("nan"))) == (True, False, False)
    assert str(bar) == "val/cosine>=0.9"
    for text in ("cosine", "cosine=0.9", ">=1", "cosine>=x", "cosine>=1.2.3"):
        with pytest.raises(ConfigError, match="is not a bar"):
            parse_requirement(text)

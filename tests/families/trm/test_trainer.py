import json
from pathlib import Path

import pytest
import torch

from tinsmith.compose import compose
from tinsmith.engine.config import CurriculumStage
from tinsmith.families.trm import (
    MLPMixer1D,
    TinyRecursiveModel,
    Trainer,
    TRMTrainingLogger,
    create_model,
    create_trainer,
)
from tinsmith.families.trm.data import build_data

SMALL = ["device=cpu", "model.dim=16", "model.depth=1", "halt.max_steps=3", "data.train=64", "data.valid=8"]
SMALL += ["data.test=8", "trainer.batch_size=8", "data.clues=8", "trainer.max_steps=6", "trainer.log_every=1"]


def small_model() -> TinyRecursiveModel:
    torch.manual_seed(0)
    network = MLPMixer1D(dim=16, depth=1, seq_len=4)
    return TinyRecursiveModel(
        dim=16, num_tokens=4, network=network, num_refinement_blocks=1, num_latent_refinements=2
    )


def pairs(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows and the same rows backwards."""
    rows = torch.randint(4, (count, 4), generator=torch.Generator().manual_seed(1))
    return [(row, row.flip(0)) for row in rows]


def test_the_front_learns_from_pairs() -> None:
    model = small_model()
    trainer = Trainer(
        model,
        pairs(256),
        pairs(64),
        learning_rate=1e-2,
        batch_size=32,
        epochs=15,
        warmup_steps=20,
        cpu=True,
        ema_decay_rate=0.9,
        max_recurrent_steps=3,
        progress=False,
    )
    history = trainer()
    assert history["val_exact_halted"][-1] > 0.9
    tokens = torch.stack([row for row, _ in pairs(64)])
    predictions, exits = model.predict(tokens)
    assert (predictions == tokens.flip(1)).all(1).float().mean() > 0.9
    assert exits.float().mean() < 4  # it has learned when to stop


def test_the_front_uses_the_rate_as_given() -> None:
    trainer = Trainer(
        small_model(), pairs(64), learning_rate=3e-3, epochs=4, warmup_steps=1, cpu=True, progress=False
    )
    rates = []
    trainer.trainer.reporter.log_every = 1
    trainer.trainer.add_log_hook(lambda metrics, step, prefix: rates.append(metrics["lr"]))
    trainer()
    assert max(rates) == pytest.approx(3e-3, rel=0.01)


def test_the_front_resumes_bit_for_bit(tmp_path: Path) -> None:
    def front(folder: Path, epochs: int = 4) -> Trainer:
        return Trainer(
            small_model(), pairs(64), epochs=epochs, cpu=True, checkpoint_dir=folder, progress=False
        )

    whole = front(tmp_path / "whole")
    whole()
    stopped = front(tmp_path / "part")
    stopped.trainer.reporter.log_every = 1
    stopped.trainer.add_log_hook(lambda metrics, step, prefix: stopped.trainer.stop() if step == 7 else None)
    stopped()
    again = front(tmp_path / "part")
    again(resume=True)
    assert all(map(torch.equal, whole.model.state_dict().values(), again.model.state_dict().values()))


def test_create_model_and_trainer(tmp_path: Path) -> None:
    cfg = compose("trm", SMALL).cfg
    data = build_data(cfg)
    model = create_model(cfg)
    same = create_model(cfg, data.spec)
    assert all(map(torch.equal, model.state_dict().values(), same.state_dict().values()))
    trainer = create_trainer(cfg, model, data, tmp_path / "checkpoints")
    log = TRMTrainingLogger(tmp_path / "log.jsonl", data.spec.seq_len)
    trainer.add_log_hook(log)
    trainer.fit(data.train, data.valid)
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    train = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 7))
    assert {"epoch", "loss", "recursion_depth", "timestamp"} <= set(train[0])
    assert train[-1]["tokens_per_sec"] == pytest.approx(16 * train[-1]["samples_per_sec"])
    assert train[0]["recursion_depth"] == 3
    assert 3 < train[2]["recursion_depth"] <= 9


def test_the_carry_is_in_the_checkpoint(tmp_path: Path) -> None:
    cfg = compose(
        "trm", [*SMALL, "trainer.max_steps=5"]
    ).cfg  # no multiple of halt.max_steps: some are under way
    data = build_data(cfg)
    trainer = create_trainer(cfg, create_model(cfg, data.spec), data, tmp_path / "a")
    trainer.fit(data.train)
    trainer.save_checkpoint(tmp_path / "one")
    other = create_trainer(cfg, create_model(cfg, data.spec), data, tmp_path / "b")
    other.load_checkpoint(tmp_path / "one")
    carry = trainer.loop.carry
    assert set(carry) == {"inputs", "labels", "outputs", "latents", "steps", "halted"}
    assert all(torch.equal(carry[key], other.loop.carry[key]) for key in carry)
    assert carry["steps"].max() > 1
    other.loop.carry = None  # forgetting it makes another run
    trainer.max_steps = other.max_steps = 9
    trainer.fit(data.train)
    other.fit(data.train)
    assert not all(map(torch.equal, trainer.model.state_dict().values(), other.model.state_dict().values()))


def test_a_curriculum_over_boards_and_widths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinsmith.cli import main

    monkeypatch.chdir(tmp_path)
    words = [w for w in SMALL if not w.startswith(("trainer.max_steps", "data.clues"))]
    stages = "curriculum=[{seq_len: 16, dim: 8, batch: 16, epochs: 1}, {seq_len: 36, dim: 16, epochs: 1}]"
    assert (
        main(
            [
                "train",
                "trm",
                *words,
                "logger.tensorboard=false",
                "data.clues=14",
                "model.core=relation",
                stages,
            ]
        )
        == 0
    )
    assert CurriculumStage(seq_len=16, dim=8, batch=16, epochs=1).seq_len == 16


def test_a_depth_curriculum_resumes_exactly(tmp_path: Path) -> None:
    words = [
        *SMALL,
        "trainer.max_steps=8",
        "model.blocks=2",
        "depth.stages=[{until: 0.5}, {until: 1, blocks: 2}]",
    ]
    words += ["model.init_noise=0.5", "model.path_noise=0.1", "trainer.ema=0.9"]
    cfg = compose("trm", words).cfg
    data = build_data(cfg)

    def run(folder: Path, stop: int) -> TinyRecursiveModel:
        model = create_model(cfg, data.spec)
        trainer = create_trainer(cfg, model, data, folder)
        trainer.add_log_hook(lambda metrics, step, prefix: trainer.stop() if step == stop else None)
        trainer.fit(data.train, resume=True)
        return model

    whole = run(tmp_path / "whole", 99)
    run(tmp_path / "part", 3)
    resumed = run(tmp_path / "part", 99)
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))

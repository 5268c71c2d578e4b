from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tinsmith.errors import ConfigError
from tinsmith.families.lm import LanguageModel, LanguageModelTrainer, LMSpec, TextGenerator
from tinsmith.families.lm.config import ModelConfig
from tinsmith.families.lm.tokens import CharTokenizer

TEXT = "the red tin of the old house. " * 20
TOKENS = CharTokenizer.fit(TEXT)


def loader(shuffle: bool = True) -> DataLoader[tuple[torch.Tensor, ...]]:
    ids = torch.tensor(TOKENS.encode(TEXT))[:561].view(-1, 17)
    return DataLoader(TensorDataset(ids), batch_size=8, shuffle=shuffle)


def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(dim=32, num_heads=2, num_layers=2), LMSpec(TOKENS.vocab_size, 16))


def test_the_calls_that_were_promised(tmp_path: Path) -> None:
    trainer = LanguageModelTrainer(
        model(),
        train_dataloader=loader(),
        val_dataloader=loader(False),
        learning_rate=5e-3,
        warmup_steps=5,
        max_grad_norm=1.0,
        tokenizer=TOKENS,
        device="cpu",
        progress=False,
    )
    history = trainer.train(num_epochs=12, save_dir=tmp_path, model_name="mine")
    assert history["val_loss"][-1] < history["val_loss"][0] < 3.5
    assert history["val_perplexity"][-1] == pytest.approx(trainer.evaluate()["perplexity"], rel=1e-5)
    text = trainer.generate("the red", max_length=30, temperature=0.7, seed=0)
    assert text.startswith("the red")
    assert len(text) <= 30
    assert trainer.generate("the", max_length=20, temperature=0) == trainer.generate(
        "the", max_length=20, temperature=0
    )
    assert trainer.model.training
    assert all(p.requires_grad for p in trainer.model.parameters())
    user = TextGenerator.load(tmp_path / "mine")
    assert "the" + user.generate("the", max_length=20) == trainer.generate(
        "the", max_length=20, temperature=0
    )


def test_any_module_will_do(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(TOKENS.vocab_size, 8), nn.Linear(8, TOKENS.vocab_size))
    trainer = LanguageModelTrainer(
        net, loader(), learning_rate=1e-2, warmup_steps=1, device="cpu", progress=False
    )
    losses = trainer.train(2, tmp_path, "other")["train_loss"]
    assert losses[-1] < losses[0]
    assert (tmp_path / "other" / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="val_dataloader"):
        trainer.evaluate()
    with pytest.raises(ConfigError, match="tokenizer"):
        trainer.generate("a")


def test_the_rate_rises_and_falls() -> None:
    trainer = LanguageModelTrainer(
        model(), loader(), learning_rate=1e-3, warmup_steps=4, device="cpu", progress=False
    )
    rates: list[float] = []
    trainer.trainer.reporter.log_every = 1
    trainer.trainer.add_log_hook(lambda metrics, step, prefix: rates.append(metrics["lr"]))
    trainer.train(4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[0] == pytest.approx(1e-3 / 4)
    assert rates[-1] < 2e-4

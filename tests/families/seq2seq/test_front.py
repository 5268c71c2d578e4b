from pathlib import Path

import pytest
import torch
from families.tiny import build
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tinsmith.families.seq2seq import Seq2SeqSpec, Transformer, TransformerTrainer
from tinsmith.families.seq2seq.config import ModelConfig


def pairs(shuffle: bool = True) -> DataLoader[tuple[Tensor, ...]]:
    """A toy: the target is the source in reverse."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 12, (96, 4), generator=generator)
    end = torch.full((96, 1), 2)
    src = torch.cat([ids, end], 1)
    tgt = torch.cat([torch.ones(96, 1, dtype=torch.long), ids.flip(1), end], 1)
    return DataLoader(TensorDataset(src, tgt), batch_size=16, shuffle=shuffle)


def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(dim=32, num_heads=2, num_layers=1), Seq2SeqSpec(12, 16))


def test_the_calls_that_were_promised() -> None:
    trainer = TransformerTrainer(
        model(),
        train_dataloader=pairs(),
        val_dataloader=pairs(False),
        lr=5e-3,
        warmup_steps=10,
        label_smoothing=0.1,
        early_stopping_patience=5,
        device="cpu",
        progress=False,
    )
    history = trainer.train(epochs=10)
    assert history["val_loss"][-1] < 0.8 * history["val_loss"][0]
    assert set(history) >= {"train_loss", "val_loss", "val_perplexity", "lr"}


def test_the_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trainer = TransformerTrainer(model(), pairs(), pairs(False), device="cpu", progress=False)
    trainer.train(1)
    trainer.plot_training_history(tmp_path / "a.png")
    trainer.plot_learning_rate(tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_rate_is_that_of_the_paper() -> None:
    """d^-0.5 min(s^-0.5, s w^-1.5) with its factor as the peak: highest at the end of the warm-up."""
    trainer = TransformerTrainer(
        model(), pairs(), lr=2e-3, warmup_steps=8, device="cpu", progress=False, log_every=1
    )
    rates: list[float] = []
    trainer.trainer.add_log_hook(lambda metrics, step, prefix: rates.append(metrics["lr"]))
    trainer.train(4)
    steps = range(1, len(rates) + 1)
    factor = 2e-3 * 8**0.5
    assert rates == pytest.approx([factor * min(s**-0.5, s * 8**-1.5) for s in steps], rel=1e-6)
    assert max(rates) == rates[7] == pytest.approx(2e-3)


def test_patience_ends_a_run() -> None:
    trainer = TransformerTrainer(
        model(),
        pairs(),
        pairs(False),
        lr=1e-9,
        warmup_steps=1,
        early_stopping_patience=2,
        device="cpu",
        progress=False,
    )
    trainer.trainer.early_stopping = None
    assert len(trainer.train(60)["val_loss"]) < 60


def test_any_module_and_the_familys_batches_will_do(tmp_path: Path) -> None:
    built = build("seq2seq", tmp_path)
    vocab = built.data.spec.vocab_size

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(vocab, 8), nn.Linear(8, vocab)

        def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
            out: Tensor = self.out(self.table(src).mean(1, keepdim=True) + self.table(tgt))
            return out

    trainer = TransformerTrainer(
        Bag(), built.data.train, built.data.valid, lr=1e-2, warmup_steps=2, device="cpu", progress=False
    )
    losses = trainer.train(3)["val_loss"]
    assert losses[-1] < losses[0]


def test_a_resume_goes_on_at_the_same_rate(tmp_path: Path) -> None:
    def run(epochs: int, folder: str) -> tuple[list[float], dict[str, Tensor]]:
        net = model()
        trainer = TransformerTrainer(
            net,
            pairs(),
            lr=2e-3,
            warmup_steps=8,
            device="cpu",
            progress=False,
            log_every=1,
            checkpoint_dir=tmp_path / folder,
        )
        rates: list[float] = []
        trainer.trainer.add_log_hook(lambda metrics, step, prefix: rates.append(metrics["lr"]))
        trainer.train(epochs)
        return rates, {name: value.clone() for name, value in net.state_dict().items()}

    rates, weights = run(3, "whole")
    run(1, "parts")
    more, resumed = run(3, "parts")
    assert more == rates[len(rates) - len(more) :]
    assert len(more) == 12
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)

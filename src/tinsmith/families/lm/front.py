"""The one Trainer under the name and arguments that users of language models know."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from tinsmith.durable import replace_bytes
from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.schedules import get_scheduler
from tinsmith.engine.state import History
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import ConfigError
from tinsmith.families.lm.model import LanguageModel
from tinsmith.families.lm.predict import TextGenerator, save_folder
from tinsmith.families.lm.task import LanguageModelTask
from tinsmith.families.lm.tokens import Tokens

log = logging.getLogger(__name__)


class LanguageModelTrainer:
    """Trains a causal language model: AdamW, a linear warm-up, then a linear decay to zero.

    Args:
        model: a ``LanguageModel``, or any module (ids [B, T]) -> logits [B, T, V].
        train_dataloader, val_dataloader: batches of ids [B, T + 1]; of pairs (ids, targets) [B, T]; of dicts
            with ``tokens`` and ``targets``, or ``input_ids`` and perhaps ``labels``. -100 does not count.
        learning_rate: the highest. warmup_steps: in which it is reached. max_grad_norm: of clipping.
        tokenizer: ``encode`` and ``decode``, for ``generate`` with a text, and to save a folder that loads by
            itself (one of this package's kinds).
        optimizer_type: "adamw", "muon", ...; see ``get_optimizer``.
        **options: of the ``Trainer``: ``device``, ``accumulate``, ``ema``, ``checkpoint_dir`` (None), ...
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataloader: Any,
        val_dataloader: Any = None,
        learning_rate: float = 5e-5,
        warmup_steps: int = 1000,
        max_grad_norm: float = 1.0,
        *,
        tokenizer: Tokens | None = None,
        optimizer_type: str = "adamw",
        **options: Any,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.train_dataloader, self.val_dataloader = train_dataloader, val_dataloader
        sizes = model.spec.byte_lengths if isinstance(model, LanguageModel) else ()
        self.task = LanguageModelTask(model, sizes)
        optimizer = get_optimizer(self.task, optimizer_type, lr=learning_rate)
        schedule = get_scheduler(optimizer, "linear", warmup_steps=warmup_steps)
        options = {"checkpoint_dir": None, **options}
        self.trainer = Trainer(self.task, optimizer, schedule, grad_clip=max_grad_norm, **options)

    def train(
        self, num_epochs: int = 1, save_dir: str | Path | None = None, model_name: str = "model"
    ) -> History:
        """Train for ``num_epochs`` in all; with ``save_dir`` write the weights to ``save_dir/model_name``.

        A ``LanguageModel`` with a tokenizer of this package becomes a folder for ``TextGenerator.load``, any
        other a file ``model.safetensors`` in that folder.

        Returns:
            The history: ``train_loss``, ``val_loss``, ``val_perplexity``, ``lr``, ..., an entry an epoch.
        """
        history = self.trainer.fit(
            self.train_dataloader, self.val_dataloader, num_epochs, resume=self.trainer.saver is not None
        )
        if save_dir is not None:
            self._save(Path(save_dir) / model_name)
        return history

    def _save(self, folder: Path) -> None:
        if isinstance(self.model, LanguageModel) and self.tokenizer is not None:
            save_folder(self.model, self.tokenizer, folder, self.model.cfg)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            weights = {
                name: value.detach().cpu().contiguous().clone()
                for name, value in self.model.state_dict().items()
            }
            replace_bytes(folder / "model.safetensors", safetensors.torch.save(weights))
        log.info("wrote %s", folder)

    def evaluate(self) -> dict[str, float]:
        """Loss, perplexity (by tokens), accuracy, and bits per byte where the bytes are known.

        Raises:
            ConfigError: there is no ``val_dataloader``.
        """
        if self.val_dataloader is None:
            raise ConfigError("evaluate needs a val_dataloader")
        return self.trainer.eval_epoch(self.val_dataloader)

    def generate(self, prompt: str, max_length: int = 100, temperature: float = 0.7, **options: Any) -> str:
        """The prompt and what follows it, drawn at a temperature (0: the likeliest tokens).

        Args:
            prompt: a text. max_length: tokens in all, the prompt's among them (``max_new_tokens`` wins).
            temperature: divides the logits. **options: further ones, as ``TextGenerator.generate`` has them.

        Raises:
            ConfigError: no tokenizer, or another kind of model.
        """
        if not isinstance(self.model, LanguageModel) or self.tokenizer is None:
            raise ConfigError("generate needs a LanguageModel and the argument tokenizer of the trainer")
        modes = self.model.training, [p.requires_grad for p in self.model.parameters()]
        try:
            user = TextGenerator(self.model, self.tokenizer)
            given = {"max_length": max_length, **options}
            if temperature > 0 and options.get("num_beams", 1) == 1:
                given = {"do_sample": True, "temperature": temperature, **given}
            answer = user.generate(prompt, **given)
        finally:
            self.model.train(modes[0])
            for parameter, on in zip(self.model.parameters(), modes[1], strict=True):
                parameter.requires_grad_(on)
        return prompt + str(answer)

    def plot_training_history(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the losses and metrics."""
        return self.trainer.plot_training_history(path)

    def plot_learning_rate(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the learning rate."""
        return self.trainer.plot_learning_rate(path)

"""The codec's encoder as a model of Hugging Face's transformers, for programs that load such models.

Imported when transformers is: ``tinsmith._registering`` calls ``register``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tinsmith.families.codec.config import ModelConfig
from tinsmith.families.codec.model import CodecSpec, Encoder, FoldedEncoder

MODEL_TYPE = "tinsmith_codec"


class CodecHubConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """``student`` has the sizes of the convolution path, ``spec`` those of the vocabulary and the vector."""

    model_type = MODEL_TYPE

    def __init__(
        self, student: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.student, self.spec = student or {}, spec or {}
        self.hidden_size = self.spec.get("z_dim", 0)
        self.vocab_size = self.spec.get("vocab_size", 0)
        super().__init__(**kwargs)


class CodecHubModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The encoder; its "hidden state" is the sentence's vector at every position, as is then their mean."""

    config_class = CodecHubConfig
    base_model_prefix = "codec"

    def __init__(self, config: CodecHubConfig) -> None:
        super().__init__(config)
        spec = CodecSpec(**{**config.spec, "domains": tuple(config.spec.get("domains", ()))})
        self.encoder = Encoder(ModelConfig(**config.student), spec)
        for table in (self.encoder.table, self.encoder.log_weight):
            table.sparse = False  # other programs' optimisers do not know sparse gradients
        self.forget_folded()
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: every weight comes from the file."""

    def train(self, mode: bool = True) -> CodecHubModel:
        """As of ``nn.Module``; what was folded for use is folded anew."""
        self.forget_folded()
        super().train(mode)
        return self

    def forget_folded(self) -> None:
        """Fold anew when next used."""
        object.__setattr__(self, "_folded", None)  # a module, but no part of the weights

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        """``input_ids``, ``attention_mask`` [B, L] -> ``last_hidden_state`` [B, L, Z]."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.training or torch.is_grad_enabled():
            z = torch.nn.functional.normalize(self.encoder(input_ids, mask.bool()).z, dim=-1)
        else:
            z = self._fold()(input_ids, mask.bool())
        return BaseModelOutput(last_hidden_state=z[:, None].expand(-1, input_ids.shape[1], -1))

    def _fold(self) -> FoldedEncoder:
        table = self.encoder.table.weight
        folded: FoldedEncoder | None = self.__dict__["_folded"]
        if folded is None or (folded.table.device, folded.table.dtype) != (table.device, table.dtype):
            folded = FoldedEncoder(self.encoder)
            object.__setattr__(self, "_folded", folded)
        return folded


def register() -> None:
    """Make ``AutoConfig`` and ``AutoModel`` know the codec. Calling it again does nothing."""
    AutoConfig.register(MODEL_TYPE, CodecHubConfig, exist_ok=True)
    AutoModel.register(CodecHubConfig, CodecHubModel, exist_ok=True)

"""A trained codec in other programs' formats, each with a report of how near it comes to the codec itself.

``FORMATS`` is what ``tinsmith export`` offers for this family. Every format holds the encoder,
``safetensors`` the decoder too.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.errors import ConfigError, missing_extra
from tinsmith.families.codec import cards
from tinsmith.families.codec.int8 import Int8Encoder
from tinsmith.families.codec.model import FoldedEncoder
from tinsmith.families.codec.padding import padded
from tinsmith.families.codec.predict import WEIGHTS, Codec, Parts
from tinsmith.families.codec.sentence_folder import encode_with, write_sentence_folder, write_static_folder
from tinsmith.nn.mixing import DepthwiseConv, StateSpace
from tinsmith.sealed import model_folder

Report = dict[str, Any]
Encode = Callable[[list[str]], Tensor]

# The largest difference of a number of a unit vector.
_TOLERANCE = {"safetensors": 1e-6, "st": 1e-6, "st_static": 1e-6, "torch_export": 1e-5, "onnx": 1e-4}
_INT8_COSINE = 0.99  # to the vectors in fp32
_INT8_SIZE = 0.3  # of the size in fp32
_OPSET = 20


def export(run_dir: Path, folder: Path, form: str, int8: bool, texts: list[str]) -> Report:
    """Write a codec in a format, read it back, and report how near its vectors are to the codec's own.

    Args:
        run_dir: a run, or a ``model/`` folder. folder: where it goes. form: one of ``FORMATS``.
        int8: with its matrices as bytes.
        texts: what both encode for the report.

    Returns:
        ``max_abs`` (largest difference of a number), ``min_cosine``, ``bytes``, ``failed`` (the bars missed).

    Raises:
        ConfigError: ``int8`` where the format has no such thing.
        MissingExtraError: what the format needs is not installed.
    """
    if int8 and form not in ("safetensors", "onnx"):
        raise ConfigError(f"quant=int8 is for format=safetensors and format=onnx, not for format={form}")
    parts = Parts.load(model_folder(run_dir))
    codec = Codec(parts)
    if codec.int8:
        raise ConfigError(f"{run_dir} is int8 already: export the run that it was made from")
    own = codec.encode(texts, tier="static" if form == "st_static" else "full")
    folder.mkdir(parents=True, exist_ok=True)
    encode, size, full_size = FORMATS[form](Source(parts, codec, folder, int8, texts))
    theirs = encode(texts)
    report: Report = {
        "format": form,
        "quant": "int8" if int8 else "none",
        "texts": len(texts),
        "max_abs": float((theirs - own).abs().max()),
        "min_cosine": float(F.cosine_similarity(theirs, own, dim=-1).min()),
        "bytes": size,
        "of_fp32": round(size / full_size, 4),
    }
    report["failed"] = _failed(report, int8)
    cards.write_card(folder, codec, run_dir, report)
    return report


def _failed(report: Report, int8: bool) -> list[str]:
    """The bars that a report misses, in words."""
    if int8:
        bars = [("min_cosine", report["min_cosine"] >= _INT8_COSINE, f">= {_INT8_COSINE}")]
        bars += [("of_fp32", report["of_fp32"] <= _INT8_SIZE, f"<= {_INT8_SIZE}")]
    else:
        tolerance = _TOLERANCE[report["format"]]
        bars = [("max_abs", report["max_abs"] <= tolerance, f"<= {tolerance:g}")]
    return [f"{name} is {report[name]:.4g}, required is {bar}" for name, ok, bar in bars if not ok]


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: a codec and its parts, to ``folder``, with bytes for matrices if ``int8``."""

    parts: Parts
    codec: Codec
    folder: Path
    int8: bool
    texts: list[str]


Written = tuple[Encode, int, int]  # what encodes by the copy, its bytes, those in fp32


def _safetensors(source: Source) -> Written:
    replace(source.parts, int8=source.int8).save(source.folder)
    full_size = len(safetensors.torch.save(source.parts.weights))
    return Codec.load(source.folder).encode, (source.folder / WEIGHTS).stat().st_size, full_size


def _sentence_transformers(source: Source) -> Written:
    _need_sentence_transformers()
    size = write_sentence_folder(source.parts, source.folder)
    return encode_with(source.folder), size, size


def _static_sentence_transformers(source: Source) -> Written:
    _need_sentence_transformers()
    size = write_static_folder(source.parts, source.codec, source.folder)
    return encode_with(source.folder), size, size


def _need_sentence_transformers() -> None:
    if find_spec("sentence_transformers") is None:
        raise missing_extra("reading the folder back", "export")


def _torch_export(source: Source) -> Written:
    codec, path = source.codec, source.folder / "encoder.pt2"
    with torch.no_grad(), _quietly():
        program = torch.export.export(
            portable(codec), example_inputs(codec, source.texts), dynamic_shapes=_dynamic()
        )
    program.example_inputs = None  # torch would pickle them
    torch.export.save(program, path)
    codec.tokenizer.save(source.folder)
    again = torch.export.load(path).module()
    size = path.stat().st_size
    return lambda texts: _in_batches(codec, texts, again), size, size


def _onnx(source: Source) -> Written:
    if any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
        raise missing_extra("format=onnx", "export")
    import onnxruntime

    codec, path = source.codec, source.folder / "encoder.onnx"
    model = portable(codec)
    with _quietly():
        torch.onnx.export(
            Int8Encoder(model).eval() if source.int8 else model,
            example_inputs(codec, source.texts),
            path,
            input_names=["tokens", "mask"],
            output_names=["z"],
            dynamic_shapes=_dynamic(),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    codec.tokenizer.save(source.folder)
    size = path.stat().st_size
    full_size = sum(4 * w.numel() for w in model.state_dict().values()) if source.int8 else size
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(tokens: Tensor, mask: Tensor) -> Tensor:
        (z,) = session.run(["z"], {"tokens": tokens.numpy(), "mask": mask.numpy()})
        return torch.from_numpy(z)

    return lambda texts: _in_batches(codec, texts, run), size, full_size


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter warns its own authors of; what it makes is checked."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


FORMATS: Mapping[str, Callable[[Source], Written]] = {
    "safetensors": _safetensors,
    "st": _sentence_transformers,
    "st_static": _static_sentence_transformers,
    "torch_export": _torch_export,
    "onnx": _onnx,
}


# ---- an encoder that graph exporters understand ---------------------------------------------------------


class GroupedConv(nn.Module):
    """A ``DepthwiseConv`` as torch's grouped convolution: slower on a CPU, but one node of a graph."""

    def __init__(self, conv: DepthwiseConv) -> None:
        super().__init__()
        taps, dim = conv.taps.shape
        self.dilation, self.groups, self.pad = conv.dilation, dim, taps // 2 * conv.dilation
        self.register_buffer("weight", conv.taps.detach().T[:, None].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        assert isinstance(self.weight, Tensor)
        return F.conv1d(x.mT, self.weight, None, 1, self.pad, self.dilation, self.groups).mT


class FixedStateSpace(nn.Module):
    """A ``StateSpace`` with the weights of all distances within the longest text worked out."""

    def __init__(self, layer: StateSpace, longest: int) -> None:
        super().__init__()
        past, future = layer.kernel(longest).detach()
        both = torch.cat([future.flip(1)[:, :-1], past], 1)
        both[:, longest - 1] += future[:, 0]
        self.longest = longest
        self.register_buffer("weight", both)
        self.register_buffer("skip", layer.skip.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        assert isinstance(self.weight, Tensor)
        assert isinstance(self.skip, Tensor)
        at = torch.arange(x.shape[1], device=x.device)
        toeplitz = self.weight[:, at[:, None] - at + self.longest - 1]  # [D, L, L]
        mixed = torch.matmul(toeplitz, x.permute(2, 1, 0)).permute(2, 1, 0)
        return torch.addcmul(mixed, x, self.skip)


def portable(codec: Codec) -> FoldedEncoder:
    """The codec's encoder with layers that graph exporters know: (tokens, mask) [B, L] -> z [B, Z]."""
    assert isinstance(codec.encoder, FoldedEncoder)
    encoder: FoldedEncoder = copy.deepcopy(codec.encoder).cpu().float()
    if encoder.conv is not None:
        for block in encoder.conv.blocks:
            if isinstance(block.mix, DepthwiseConv):
                block.mix = GroupedConv(block.mix)
            elif isinstance(block.mix, StateSpace):
                block.mix = FixedStateSpace(block.mix, codec.spec.max_len)
    return encoder.eval()


def example_inputs(codec: Codec, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens and mask of a few texts [B, L], B and L above one, so that neither is taken for a constant."""
    rows = [row for row in codec.tokenizer.encode_batch(texts[:3], codec.spec.max_len) if row]
    rows = (rows * 3)[:3]
    rows[0] = (rows[0] * 4)[: max(4, len(rows[0]))]
    return padded(rows)


def _dynamic() -> tuple[dict[int, Any], dict[int, Any]]:
    """B and L may be of any size."""
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return dims, dict(dims)


def _in_batches(codec: Codec, texts: list[str], run: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Vectors by another program, in batches of 1, 2, 3, ... texts, so that batch and length both change."""
    ids = codec.tokenizer.encode_batch(texts, codec.spec.max_len)
    out, first, size = [], 0, 1
    with torch.no_grad():
        while first < len(ids):
            out.append(run(*padded(ids[first : first + size])))
            first, size = first + size, size % 32 + 1
    return torch.cat(out)

"""The model card of an exported codec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinsmith.durable import replace_bytes
from tinsmith.families.codec.predict import Codec

_USE = {
    "safetensors": """```python
from tinsmith.families.codec import Codec

codec = Codec.load("this-folder")
z = codec.encode(["How far is the station?"])
```""",
    "st": """```python
import tinsmith  # tells transformers of the model
from sentence_transformers import SentenceTransformer

z = SentenceTransformer("this-folder").encode(["How far is the station?"])
```""",
    "st_static": """```python
from sentence_transformers import SentenceTransformer

z = SentenceTransformer("this-folder").encode(["How far is the station?"])  # the average alone
```""",
    "torch_export": """```python
import torch

encoder = torch.export.load("encoder.pt2").module()
# int64 [B, L]: ids of tokenizer.json without special tokens; bool [B, L]: True = a token
z = encoder(tokens, mask)
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("encoder.onnx")
# int64 [B, L]: ids of tokenizer.json without special tokens; bool [B, L]: True = a token
(z,) = session.run(["z"], {"tokens": tokens, "mask": mask})
```""",
}


def write_card(folder: Path, codec: Codec, run_dir: Path, report: dict[str, Any]) -> None:
    """Write ``README.md``, the card, and ``parity.json``, the report, into an exported folder."""
    replace_bytes(folder / "parity.json", json.dumps(report, indent=1).encode())
    replace_bytes(folder / "README.md", card(codec, report, _measured(run_dir)).encode())


def card(codec: Codec, report: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The text of the card."""
    spec = codec.spec
    writes = f" A decoder writes texts back ({spec.decoder_vocab_size:,} tokens)."
    decoder = "" if codec.decoder is None else writes
    kind = "fp32" if report["quant"] == "none" else report["quant"]
    lines = [
        "---",
        "library_name: " + ("sentence-transformers" if report["format"].startswith("st") else "tinsmith"),
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-similarity, feature-extraction, distillation]",
        "---",
        "",
        f"# A student of {spec.teacher}, without attention",
        "",
        f"Sentences to unit vectors of {spec.z_dim} numbers, near those of {spec.teacher}, in one look-up, "
        f"some convolutions and a mean. Up to {spec.max_len} tokens are read.{decoder}",
        f"{report['bytes'] / 1e6:.1f} MB, {kind}.",
        "",
        _USE[report["format"]],
        "",
        "## Measured",
        "",
        *_table(rows),
        "",
        f"Against the codec that it was exported from, over {report['texts']} sentences: largest difference "
        f"of a number {report['max_abs']:.2g}, smallest cosine {report['min_cosine']:.6f}.",
        "",
        "## Limits",
        "",
        "A student knows the kind of sentences that it was trained on. The licence of its teacher and of its "
        "sentences holds for it too.",
        f"Teacher's fingerprint: `{spec.teacher_fingerprint}`.",
        "",
    ]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Not measured: the run has no evaluation."]
    names = [name for name in rows[0] if name != "name"]
    lines = ["| | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for row in rows:
        lines.append(f"| {row['name']} | " + " | ".join(_cell(row.get(name)) for name in names) + " |")
    return lines


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)


def _measured(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of the run's own evaluation, empty if it has none that can be read."""
    for split in ("test", "valid"):
        try:
            rows = json.loads((run_dir / "eval" / f"{split}.json").read_bytes())["rows"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(rows, list) and all(isinstance(row, dict) and "name" in row for row in rows):
            return rows
    return []

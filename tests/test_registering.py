"""``import tinsmith`` makes transformers know our models, and imports it not.

Before transformers: ``test_export.py``.
"""

import subprocess
import sys

import pytest

pytest.importorskip("transformers")

KNOWS = "from transformers import AutoConfig; print(type(AutoConfig.for_model('tinsmith_codec')).__name__)"


def run(code: str) -> str:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def test_after_transformers() -> None:
    assert run(f"from transformers import AutoModel; import tinsmith; {KNOWS}") == "CodecHubConfig"


def test_it_imports_nothing_itself() -> None:
    code = "import sys, tinsmith; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run(code) == "[]"


def test_a_failure_keeps_nobody_from_transformers() -> None:
    code = (
        "import tinsmith._registering as r; r._REGISTERING = ('tinsmith.no_such',); import tinsmith; "
        "from transformers import AutoModel; print(AutoModel.__name__)"
    )
    assert run(code) == "AutoModel"

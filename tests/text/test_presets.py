"""The table of teachers: enough of them, and each entry possible."""

import subprocess
import sys
from typing import get_args

from tinsmith.text.presets import PRESETS, Pooling


def test_the_families_that_users_ask_for_are_there() -> None:
    wanted = {"minilm", "mpnet", "distilbert", "bge", "e5", "gte", "qwen3-embedding", "llama3-8b"}
    assert wanted <= set(PRESETS)
    for name, preset in PRESETS.items():
        assert preset.repo.count("/") == 1, name
        assert preset.pooling in get_args(Pooling)
        assert preset.size % 8 == 0
    assert [name for name, preset in PRESETS.items() if preset.packaged] == ["minilm"]


def test_the_table_is_light() -> None:
    code = "import sys, tinsmith.text.presets; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"

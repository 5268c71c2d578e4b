import json
from pathlib import Path

import pytest

from tinsmith.errors import DataError
from tinsmith.families.trm.code import functions, read_snippets, standard_library

SOURCE = b'''
class A:
    def add(self, x):
        """Adds  x.

        More.
        """
        y = x + 1
        return y + self.total

    async def wait(self):
        return await something_long()

def f(): pass
'''


def test_functions_lose_their_docstring_to_the_context() -> None:
    add, wait = functions(SOURCE, "m")
    assert add == {
        "context": "Adds x.",
        "code": "def add(self, x):\n    y = x + 1\n    return y + self.total",
        "group": "m",
    }
    assert wait["context"] == ""
    assert wait["code"].startswith("async def wait")
    assert list(functions(b"def f(:", "m")) == []
    assert list(functions(b"\xff\xfe", "m")) == []


def test_the_standard_library_gives_the_same_each_time() -> None:
    one, two, other = standard_library(50, 0), standard_library(50, 0), standard_library(50, 1)
    assert len(one) == 50
    assert one == two != other
    assert all('"""' not in snippet["code"][:60] for snippet in one)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mbpp.jsonl"
    rows = [
        {"text": "Add.", "code": "def f(a):\r\n    return a"},
        {"text": "Sub.", "code": "def g(a): return -a"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    found = read_snippets(path, {})
    assert found[0] == {"context": "Add.", "code": "def f(a):\n    return a", "group": "1"}
    path.write_text(json.dumps({"prompt": "Add.", "body": "def f(): pass"}), "utf-8")
    assert read_snippets(path, {"text": "prompt", "code": "body"})[0]["code"] == "def f(): pass"
    with pytest.raises(DataError, match=r"mbpp.jsonl:1: no text under 'code'"):
        read_snippets(path, {})
    with pytest.raises(DataError, match="no functions"):
        read_snippets(path, {}, skip_bad=True)
    (tmp_path / "a.py").write_bytes(SOURCE)
    assert len(read_snippets(tmp_path / "a.py", {})) == 2
    assert len(read_snippets(tmp_path, {})) == 2

import json
from typing import Any

import pytest

from tinsmith import cli, doctor


def test_doctor_finds_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"]
    assert found["devices"][-1] == "cpu"
    assert found["cpu"]["usable_cores"] >= 1
    assert found["threads"] >= 1
    assert 0 < found["memory_gb"]["available"] <= found["memory_gb"]["total"]
    assert found["disk_free_gb"] > 0
    assert found["problems"] == []


def test_each_missing_extra_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2", "scipy>=1.11; extra == 'codec'", 'no-such-package==1; extra == "demo"']
    lines += ['tinsmith[codec,demo]; extra == "all"', 'scipy; extra == "dev"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    assert doctor.extras() == {
        "codec": {"installed": True, "missing": [], "pip": None},
        "demo": {"installed": False, "missing": ["no-such-package"], "pip": "pip install 'tinsmith[demo]'"},
    }
    text = doctor.describe(doctor.examine())
    assert "[demo]      missing: pip install 'tinsmith[demo]'" in text
    assert "[codec]     installed" in text


def test_a_broken_torch_is_a_finding_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert cli.main(["doctor"]) == 5
    out = capsys.readouterr().out
    assert "PROBLEM" in out
    assert "cannot be imported" in out


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version

    def without(package: str) -> Any:
        return None if package == "xxhash" else version(package)

    monkeypatch.setattr(doctor, "_version", without)
    assert doctor.examine()["problems"] == ["xxhash is not installed. Run: pip install tinsmith"]


def test_what_a_system_does_not_tell_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: Any, **options: Any) -> str:
        raise OSError

    found = doctor.examine()
    monkeypatch.setattr(doctor.Path, "read_text", gone)
    monkeypatch.setattr(doctor, "_sysconf", lambda name: None)
    found |= {"memory_gb": doctor._memory(), "cpu": doctor._cpu()}
    assert found["memory_gb"] == {"total": None, "available": None, "limit": None}
    assert found["cpu"]["flags"] == []
    assert "memory      unknown" in doctor.describe(found)

import logging

import pytest
import torch
from torch import nn

from tinsmith.engine import device as module
from tinsmith.engine.device import autocast, get_device, log_model_info, resolve_precision
from tinsmith.errors import ConfigError

CPU = torch.device("cpu")
BIG, SMALL = nn.Linear(128, 512), nn.Linear(64, 64)


def test_get_device():
    assert get_device("cpu") == CPU
    assert get_device(CPU) == CPU
    assert get_device().type in {"cpu", "cuda", "mps"}


def test_auto_takes_the_first_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert get_device("auto") == torch.device("cuda")
    assert get_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"cuda:2.*finds 2 cuda"):
        get_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert get_device("auto") == torch.device("mps")


@pytest.mark.parametrize(("name", "said"), [("cdua", "Did you mean: cuda"), ("cuda:x", "must be a number")])
def test_get_device_explains_a_wrong_name(name, said):
    with pytest.raises(ConfigError, match=said):
        get_device(name)


def test_get_device_refuses_what_the_machine_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"finds 0 cuda device\(s\) here. Use auto or cpu"):
        get_device("cuda")


def test_log_model_info_counts_shared_weights_once(caplog):
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False), nn.BatchNorm1d(10))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    with caplog.at_level(logging.INFO):
        info = log_model_info(model)
    assert (info["parameters"], info["trainable"]) == (60, 50)
    assert info["size_mb"] == pytest.approx((60 * 4 + 20 * 4 + 8) / 1e6)
    assert (info["device"], info["dtype"], info["name"]) == ("cpu", "float32", "Sequential")
    assert "60 parameters (50 trainable)" in caplog.text


def test_precision_off_and_by_name():
    assert [resolve_precision(off, CPU) for off in (False, None, "off")] == [None, None, None]
    assert resolve_precision("bf16", torch.device("cuda")) is torch.bfloat16
    assert resolve_precision("fp16", torch.device("cuda")) is torch.float16
    with pytest.raises(ConfigError, match="a CPU has no use"):
        resolve_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="Did you mean: bf16"):
        resolve_precision("bf166", CPU)


def test_auto_on_a_cpu_needs_the_instructions_and_a_large_weight(monkeypatch):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: True)
    assert resolve_precision("auto", CPU, BIG) is torch.bfloat16
    assert resolve_precision(True, CPU) is torch.bfloat16
    assert resolve_precision("auto", CPU, SMALL) is None
    assert resolve_precision("auto", CPU, nn.Embedding(10_000, 64)) is None  # looked up, not multiplied
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: False)
    assert resolve_precision("auto", CPU, BIG) is None


def test_bf16_without_the_instructions_is_allowed_and_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: False)
    assert resolve_precision("bf16", CPU) is torch.bfloat16
    assert "slower" in caplog.text


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_gpu(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", torch.device("cuda"), SMALL) is (torch.bfloat16 if native else None)
    assert resolve_precision("auto", torch.device("mps"), BIG) is None


def test_autocast():
    x = torch.randn(2, 64)
    with autocast(CPU, torch.bfloat16):
        assert SMALL(x).dtype is torch.bfloat16
    with autocast(CPU, None):
        assert SMALL(x).dtype is torch.float32

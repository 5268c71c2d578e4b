import pytest
import torch
from comparing import same
from torch import nn

from tinsmith.engine.checkpoint import read_checkpoint, write_checkpoint
from tinsmith.engine.ema import EMA
from tinsmith.engine.snapshot import averaged_weights


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def jolt(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_closed_form_without_warmup():
    # w = 0 at the start and 1 ever after: s_n = 1 - d^n
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.9, warmup=False)
    nn.init.ones_(model.weight)
    for _ in range(12):
        ema.update()
    assert ema.state_dict()["shadow"]["weight"].item() == pytest.approx(1 - 0.9**12, rel=1e-14)


def test_warmup_by_hand():
    # d = 1/10, 2/11, 3/12: s = 0.9, then 1 - 0.1 * 2/11, then ... times 3/12
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.999)
    nn.init.ones_(model.weight)
    seen = []
    for _ in range(3):
        ema.update()
        seen.append(ema.state_dict()["shadow"]["weight"].item())
    assert seen == pytest.approx([0.9, 1 - 0.1 * 2 / 11, 1 - 0.1 * 2 / 11 * 0.25], rel=1e-14)


def test_decay_caps_the_warmup():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.05)
    nn.init.ones_(model.weight)
    ema.update()
    assert ema.state_dict()["shadow"]["weight"].item() == pytest.approx(0.95)


def test_float_buffers_are_copied_and_integers_left_alone():
    model = net()
    ema = EMA(model, decay=0.99)
    model(torch.randn(8, 3) + 5)
    ema.update()
    shadow = ema.state_dict()["shadow"]
    assert torch.equal(shadow["1.running_mean"], model[1].running_mean)
    assert "1.num_batches_tracked" not in shadow
    assert not torch.equal(shadow["1.running_mean"], torch.zeros(4))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_swap_is_exact_even_on_error(mode):
    model = net()
    ema = EMA(model)
    jolt(model)
    ema.update()
    jolt(model)
    before, pointers = bits(model), [p.data_ptr() for p in model.parameters()]
    shadow = {k: v.clone() for k, v in ema.state_dict()["shadow"].items()}

    def evaluate_and_fail() -> None:
        assert all(torch.equal(t, shadow[n]) for n, t in model.named_parameters())
        jolt(model)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), mode(), ema.swap():
        evaluate_and_fail()
    assert same(bits(model), before)
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert same(ema.state_dict()["shadow"], shadow)
    model(torch.randn(4, 3)).sum().backward()  # still ordinary tensors


def test_resume_is_exact():
    torch.manual_seed(1)
    model = net()
    ema = EMA(model)
    for _ in range(3):
        jolt(model)
        ema.update()
    saved = {"shadow": {k: v.clone() for k, v in ema.state_dict()["shadow"].items()}, "updates": ema.updates}
    weights = bits(model)
    jolt(model)
    ema.update()
    twin = net()
    twin.load_state_dict(weights)
    resumed = EMA(twin)
    resumed.load_state_dict(saved)
    twin.load_state_dict(bits(model))
    resumed.update()
    assert same(resumed.state_dict()["shadow"], ema.state_dict()["shadow"])
    assert resumed.updates == 4


def test_tables_that_are_not_saved_are_left_alone():
    model = net()
    model.register_buffer("table", torch.ones(3), persistent=False)
    ema = EMA(model, 0.5)
    jolt(model)
    model.table += 1
    ema.update()
    assert ema.state_dict()["shadow"].keys() < model.state_dict().keys()
    with ema.swap():
        assert model.table.tolist() == [2, 2, 2]


def test_the_average_of_a_tied_weight_stands_under_each_of_its_names(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    ema = EMA(model, 0.5)
    jolt(model)
    ema.update()
    parts = {"model": model.state_dict(), "ema": ema.state_dict()["shadow"]}
    write_checkpoint(tmp_path / "c", parts, {})
    weights = averaged_weights(read_checkpoint(tmp_path / "c")[0])
    with ema.swap():
        assert same(weights, model.state_dict())
    assert not weights["1.weight"].equal(model[1].weight)


def test_a_state_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"another model: .*weight"):
        EMA(net()).load_state_dict(EMA(nn.Linear(2, 2)).state_dict())


def test_a_wrong_decay_is_refused():
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        EMA(net(), decay=1.0)

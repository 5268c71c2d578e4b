import json
import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from tinsmith.engine.config import SCHEDULERS
from tinsmith.engine.schedules import Schedule, get_scheduler
from tinsmith.errors import ConfigError


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates or (1.0,)]
    return torch.optim.SGD(groups, lr=0.1)


def factors(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.lr_factor(step) for step in range(steps)]


def make(kind: str, **options) -> Schedule:
    return get_scheduler(optimizer(), kind, **options)


def test_warmup_is_linear_and_its_first_step_is_not_zero():
    for kind in set(SCHEDULERS) - {"one_cycle"}:
        assert factors(make(kind, total_steps=20, warmup_steps=4), 4) == [0.25, 0.5, 0.75, 1.0], kind


def test_cosine():
    found = factors(make("cosine_warmup", total_steps=12, warmup_steps=2, min_lr=0.1), 15)
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1, (s - 2) / 10))) for s in range(2, 15)]
    assert found[2:] == pytest.approx(expected)
    assert (found[2], found[7]) == (1.0, pytest.approx(0.55))
    assert found[12] == found[14] == pytest.approx(0.1)


def test_linear():
    assert factors(make("linear", total_steps=4, min_lr=0.2), 6) == pytest.approx(
        [1, 0.8, 0.6, 0.4, 0.2, 0.2]
    )


def test_constant():
    assert factors(make("constant"), 5) == [1.0] * 5


def test_step():
    found = factors(make("step", total_steps=9, step_size=3, gamma=0.5, min_lr=0.3), 9)
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3]


@pytest.mark.parametrize("kind", ["noam", "inverse_sqrt"])
def test_noam(kind):
    # d^-0.5 min(n^-0.5, n w^-1.5) for n = s + 1, over its peak at n = w
    w = 4
    expected = [min(n**-0.5, n * w**-1.5) / w**-0.5 for n in range(1, 20)]
    assert factors(make(kind, warmup_steps=w), 19) == pytest.approx(expected)


def test_wsd():
    found = factors(make("wsd", total_steps=20, warmup_steps=2, decay=0.25, min_lr=0.1), 22)
    assert found[2:16] == [1.0] * 14
    assert found[15:20] == pytest.approx([0.1 + 0.9 * (1 - math.sqrt(y / 5)) for y in range(5)])
    assert found[20] == found[21] == pytest.approx(0.1)


def test_one_cycle_equals_torchs():
    theirs = optimizer(0.3)
    twin = OneCycleLR(theirs, max_lr=0.3, total_steps=37)
    ours = optimizer(0.3)
    schedule = get_scheduler(ours, "one_cycle", total_steps=37)
    for step in range(37):
        assert schedule.last_lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9), step
        theirs.step()
        schedule.step()
        if step < 36:
            twin.step()


def test_plateau_equals_torchs_and_is_untouched_by_the_step():
    values = [3, 2, 2, 2, 2, 1.9999, 1.5, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6]
    theirs = optimizer(1.0)
    twin = ReduceLROnPlateau(theirs, factor=0.5, patience=2)
    schedule = make("plateau", factor=0.5, patience=2)
    for value in values:
        twin.step(value)
        schedule.observe(value)
        schedule.step()
        assert schedule.last_lr == theirs.param_groups[0]["lr"]
    assert schedule.last_lr < 0.5


def test_plateau_resumes_keeps_its_floor_and_ignores_nan():
    schedule = make("plateau", factor=0.1, patience=1, mode="max", min_lr=0.05)
    for value in (math.nan, math.nan, 0.5):
        schedule.observe(value)
    assert schedule.last_lr == pytest.approx(0.1)
    resumed = make("plateau", factor=0.1, patience=1, mode="max", min_lr=0.05)
    resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert resumed.last_lr == schedule.last_lr
    for value in (0.4, 0.5):
        resumed.observe(value)
        schedule.observe(value)
    assert resumed.last_lr == schedule.last_lr == 0.05


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_resume_is_not_off_by_one(kind):
    whole, first, second = (make(kind, total_steps=30, warmup_steps=5) for _ in range(3))
    rates = []
    for _ in range(30):
        rates.append(whole.last_lr)
        whole.step()
    seen = []
    for schedule, steps in ((first, 13), (second, 17)):
        for _ in range(steps):
            seen.append(schedule.last_lr)
            schedule.step()
        second.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert seen == rates


def test_set_scales_every_group_from_its_own_rate():
    opt = optimizer(0.5, 0.02)
    schedule = get_scheduler(opt, "linear", total_steps=10, min_lr=0.05)
    schedule.set(5)
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([0.275, 0.011])
    schedule.set(10)
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([0.05, 0.002])
    assert [g["initial_lr"] for g in opt.param_groups] == [0.5, 0.02]


def test_by_hand_an_epoch_is_a_step_until_bound():
    schedule = make("cosine_warmup", total_epochs=10, warmup_epochs=2)
    by_epoch = factors(schedule, 11)
    assert by_epoch[:3] == [0.5, 1.0, 1.0]
    assert by_epoch[10] == 0.0
    schedule.bind(steps_per_epoch=7, total_steps=999)
    assert schedule.lr_factor(13) == 1.0
    assert schedule.lr_factor(14 + 28) == pytest.approx(0.5)
    assert schedule.lr_factor(70) == 0.0
    assert schedule.last_lr == 1 / 14  # the step stays, its rate is the bound one


def test_bind_gives_the_length_only_where_none_was_given():
    free, fixed = make("linear"), make("linear", total_steps=10)
    for schedule in (free, fixed):
        schedule.bind(steps_per_epoch=5, total_steps=20)
    assert (free.lr_factor(10), fixed.lr_factor(10)) == (0.5, 0.0)
    fixed.bind(5, 40, budget=True)
    assert fixed.lr_factor(10) == 0.75


def test_step_size_is_in_epochs_once_bound():
    schedule = make("step", total_epochs=9, step_size=3, gamma=0.5)
    assert factors(schedule, 5) == [1, 1, 1, 0.5, 0.5]
    schedule.bind(steps_per_epoch=10, total_steps=90)
    assert (schedule.lr_factor(29), schedule.lr_factor(30)) == (1, 0.5)


def test_warmup_ratio_is_a_share_of_the_total():
    schedule = make("linear", warmup_ratio=0.1)
    schedule.bind(5, 50)
    assert schedule.lr_factor(4) == 1.0
    assert schedule.lr_factor(3) == 0.8


def test_a_schedule_that_must_end_asks_for_its_end():
    with pytest.raises(ConfigError, match="total_steps or total_epochs"):
        make("cosine_warmup").step()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheduler_type": "cosine"}, "Did you mean: cosine_warmup"),
        ({"scheduler_type": "step", "stepsize": 3}, "Did you mean: step_size"),
        ({"scheduler_type": "linear", "gamma": 3}, "no option 'gamma'"),
        ({"scheduler_type": "step", "step_size": 0}, "step_size=0"),
        ({"min_lr": 2.0}, "min_lr=2.0"),
        ({"total_steps": 0}, "total_steps=0"),
    ],
)
def test_mistakes_are_explained(options, said):
    with pytest.raises(ConfigError, match=said):
        get_scheduler(optimizer(), **options)

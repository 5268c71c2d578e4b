import json

import pytest

from tinsmith.engine import stopping
from tinsmith.engine.stopping import EarlyStopping
from tinsmith.errors import ConfigError

NAN = float("nan")


def stops_at(stop: EarlyStopping, values: list[float]) -> int | None:
    return next((i for i, value in enumerate(values) if stop(value)), None)


def test_patience_counts_values_without_improvement():
    assert stops_at(EarlyStopping(2), [3, 2, 2.5, 1, 1, 1, 0]) == 5
    assert stops_at(EarlyStopping(1), [1, 1]) == 1
    assert stops_at(EarlyStopping(2, mode="max"), [1, 2, 3, 3, 2, 9]) == 4


def test_min_delta_must_be_exceeded():
    stop = EarlyStopping(2, min_delta=0.5)
    assert stops_at(stop, [2.0, 1.5, 1.4]) is None  # 1.4 is 0.6 below the best, which is still 2.0
    assert stop.best == 1.4


def test_target_stops_at_once():
    stop = EarlyStopping(None, mode="max", target=0.9)
    assert stops_at(stop, [0.5, 0.89, 0.9]) == 2
    assert stop.reason == "target 0.9 reached"
    assert stops_at(EarlyStopping(5, target=0.1), [0.5, 0.1]) == 1


def test_convergence_looks_at_the_last_values():
    stop = EarlyStopping(3, convergence_threshold=0.01)
    assert stops_at(stop, [1.0, 0.5, 0.499, 0.498, 0.1]) == 3
    assert "converged" in stop.reason
    assert stops_at(EarlyStopping(3, convergence_threshold=0.01), [0.5, 0.49, 0.48, 0.47]) is None


def test_nan_never_improves_and_never_converges():
    stop = EarlyStopping(4, convergence_threshold=1.0, target=5.0)
    assert stops_at(stop, [NAN, NAN, NAN]) is None
    assert (stop.best, stop.bad, stop.improved) == (None, 3, False)
    assert stop(NAN)
    assert stop.reason == "no improvement in 4 values"
    assert stops_at(EarlyStopping(2), [1.0, NAN, 0.5, NAN, NAN]) == 4


def test_minutes_by_the_monotonic_clock_and_across_a_resume(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    stop = EarlyStopping(None, max_minutes=2)
    now[0] += 90
    assert not stop(1.0)
    state = stop.state_dict()
    now[0] = 5.0  # another process, another clock
    resumed = EarlyStopping(None, max_minutes=2)
    resumed.load_state_dict(state)
    now[0] += 29
    assert not resumed(0.9)
    now[0] += 1
    assert resumed(0.8)
    assert resumed.reason == "2 minutes are over"


def test_resume_counts_on():
    stop = EarlyStopping(3, convergence_threshold=1e-9)
    values = [3.0, 2.0, 2.5, 2.6, 2.7]
    for value in values[:3]:
        stop(value)
    resumed = EarlyStopping(3, convergence_threshold=1e-9)
    resumed.load_state_dict(json.loads(json.dumps(stop.state_dict())))
    assert [resumed(v) for v in values[3:]] == [stop(v) for v in values[3:]] == [False, True]


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"mode": "mim"}, {"min_delta": -1.0}])
def test_wrong_arguments(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EarlyStopping(**{"patience": 1, **wrong})

"""Charts: what is thinned, scaled, ticked and escaped."""

import math
import re
from xml.etree import ElementTree

import pytest

from tinsmith.report.svg import BOTTOM, LEFT, RIGHT, TOP, Axis, Series, chart, thin


def svg_of(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", figure, re.DOTALL).group())


def points_of(figure: str) -> list[list[tuple[float, float]]]:
    """The pixels of each polyline."""
    lines = svg_of(figure).iter("polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.get("points").split()] for line in lines]


def test_the_corners_of_the_data_are_the_corners_of_the_frame():
    (points,) = points_of(chart("loss", [Series("train", [0, 50, 100], [1.0, 0.5, 0.0])]))
    pad = (BOTTOM - TOP) * 0.05 / 1.1  # 5% above and below
    assert [x for x, _ in points] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    assert [y for _, y in points] == pytest.approx([TOP + pad, (TOP + BOTTOM) / 2, BOTTOM - pad], abs=0.06)


def test_a_span_of_more_than_30_is_drawn_on_a_log_scale():
    figure = chart("loss", [Series("train", [0, 1, 2], [0.1, 1.0, 10.0])])
    (points,) = points_of(figure)
    assert "log scale" in figure
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.06)
    for y in ([0.5, 1.0, 10.0], [0.0, 1.0, 100.0], [-1.0, 1.0, 100.0]):
        assert "log scale" not in chart("loss", [Series("train", [0, 1, 2], y)])


def test_thinning_keeps_means_and_extremes():
    values = [math.sin(n) for n in range(2000)]
    values[1234] = 50.0  # one spike
    line = thin(Series("train", range(2000), values))
    assert len(line.x) == len(line.y) == 200
    assert sum(line.y) / 200 == pytest.approx(sum(values) / 2000)
    assert max(line.high) == 50.0
    assert min(line.low) == min(values)
    assert line.x[0] == pytest.approx(4.5)


def test_400_points_are_drawn_as_they_are_and_2000_are_not():
    exact = chart("x", [Series("a", range(400), [float(n % 7) for n in range(400)])])
    assert [len(points) for points in points_of(exact)] == [400]
    assert "polygon" not in exact
    thinned = chart("x", [Series("a", range(2000), [float(n % 7) for n in range(2000)])])
    assert [len(points) for points in points_of(thinned)] == [200]
    assert "polygon" in thinned


def test_non_finite_values_are_left_out_and_counted():
    figure = chart("loss", [Series("train", [1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0])])
    assert len(points_of(figure)[0]) == 2
    assert "2 not finite, first at step 2" in figure
    assert "nan" not in re.search(r"<svg.*</svg>", figure).group()


def test_a_series_without_any_finite_value_says_so():
    figure = chart("loss", [Series("train", [7], [math.nan])])
    assert "No finite value" in figure
    assert "first at step 7" in figure


@pytest.mark.parametrize("y", [[3.0], [0.0], [2.0, 2.0], [-1e-9, 1e9]])
def test_one_point_and_constants_have_a_chart(y):
    (points,) = points_of(chart("x", [Series("a", list(range(len(y))), y)]))
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in points)


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (100, 2000, False, [500, 1000, 1500, 2000]),
        (0.11, 9.0, True, [0.1, 0.2, 0.5, 1, 2, 5]),
        (1e-6, 0.9, True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
    ],
)
def test_ticks_are_round(low, high, log, ticks):
    assert Axis(low, high, (0, 100), log).ticks() == pytest.approx(ticks)


def test_titles_and_labels_are_escaped():
    evil = '<script>alert("1")</script>'
    figure = chart(evil, [Series(evil, [1, 2], [1.0, 2.0])])
    assert "<script" not in figure
    assert svg_of(figure).get("aria-label") == evil


def test_the_ninth_series_has_the_first_colour_dashed():
    figure = chart("x", [Series(str(n), [1, 2], [1.0, float(n)], n) for n in range(9)])
    styles = [group.get("class") for group in svg_of(figure).iter("g")]
    assert styles == [*(f"c{n}" for n in range(8)), "c0 dashed"]

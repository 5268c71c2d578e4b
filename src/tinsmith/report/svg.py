"""Line charts as inline SVG: no library, a few kilobytes each, coloured by the page's CSS."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tinsmith.report.tables import escape, number

MAX_POINTS = 400  # of a line: more than a screen has columns for
WIDTH, HEIGHT = 520, 236
LEFT, RIGHT, TOP, BOTTOM = 54, 506, 10, 212  # the frame of the curves
COLOURS = 8  # of the page's palette; a ninth series is dashed


@dataclass(frozen=True)
class Series:
    """A curve. Values need not be finite: those that are not are left out and counted.

    ``colour`` is the index of the series, so that one run has one colour in all charts.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Line:
    """A curve that is ready to draw: finite, thinned; ``low`` and ``high`` hold what the thinning hid."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


class Axis:
    """A linear or logarithmic map from values to pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float, pixels: tuple[float, float], log: bool = False) -> None:
        self.log = log
        pad = 0.0 if high > low else abs(high) * 0.1 or 1.0
        self.low, self.high = (low / 1.1, high * 1.1) if log else (low - pad, high + pad)
        self._from, self._to = pixels

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self._from + share * (self._to - self._from)

    def ticks(self, wanted: int = 5) -> list[float]:
        """About ``wanted`` round values: 1, 2 or 5 times a power of ten; on a log axis powers of ten."""
        if self.log:
            low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1,) if high - low > 3 else (1, 2, 5)
            step = max(1, (high - low) // wanted)
            values = [f * 10.0**power for power in range(low, high + 1, step) for f in factors]
        else:
            rough = (self.high - self.low) / wanted
            unit = 10.0 ** math.floor(math.log10(rough))
            step_size = next(f * unit for f in (1, 2, 5, 10) if f * unit >= rough * 0.7)
            first = math.ceil(self.low / step_size)
            values = [n * step_size for n in range(first, math.floor(self.high / step_size) + 1)]
        return [value for value in values if self.low <= value <= self.high]


def thin(series: Series, max_points: int = MAX_POINTS) -> Line:
    """Leave out what is not finite, and put equal numbers of points together until they fit.

    A point of a thinned line is a mean over its bucket; the band around it reaches from the bucket's
    lowest to its highest value, so that no spike is lost.
    """
    pairs = zip(series.x, series.y, strict=True)
    points = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    if len(points) <= max_points:
        ys = [y for _, y in points]
        return Line([x for x, _ in points], ys, ys, ys)
    count = max(1, max_points // 2)
    edges = [n * len(points) // count for n in range(count + 1)]
    buckets = [points[a:b] for a, b in itertools.pairwise(edges)]
    return Line(
        [sum(x for x, _ in bucket) / len(bucket) for bucket in buckets],
        [sum(y for _, y in bucket) / len(bucket) for bucket in buckets],
        [min(y for _, y in bucket) for bucket in buckets],
        [max(y for _, y in bucket) for bucket in buckets],
    )


def chart(title: str, series: Sequence[Series], max_points: int = MAX_POINTS) -> str:
    """An HTML figure: title, legend with last values, and the curves over the steps.

    The vertical axis is logarithmic where all values are positive and span more than a factor of 30.

    Args:
        title: plain text; it is escaped here, as the labels are.
        series: the curves; those without a finite value have a line in the legend only.
        max_points: most points of a curve.
    """
    lines = [thin(one, max_points) for one in series]
    drawn = [line for line in lines if line.x]
    if not drawn:
        body = '<p class="note">No finite value.</p>'
        log = False
    else:
        low, high = min(min(line.low) for line in drawn), max(max(line.high) for line in drawn)
        log = low > 0 and high / low > 30
        steps = [x for one in series for x in one.x]
        pad = 0.0 if log else (high - low) * 0.05
        axes = (
            Axis(min(steps), max(steps), (LEFT, RIGHT)),
            Axis(low - pad, high + pad, (BOTTOM, TOP), log),
        )
        body = _svg(title, series, lines, axes)
    scale = ' <span class="note">log scale</span>' if log else ""
    legend = "".join(_legend(one) for one in series)
    return (
        f'<figure class="card"><figcaption><b>{escape(title)}</b>{scale}'
        f'<span class="legend">{legend}</span></figcaption>{body}</figure>'
    )


def _svg(title: str, series: Sequence[Series], lines: list[Line], axes: tuple[Axis, Axis]) -> str:
    x_axis, y_axis = axes
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *(_y_tick(y_axis(value), value) for value in y_axis.ticks()),
        *(_x_tick(x_axis(value), value) for value in x_axis.ticks()),
        f'<text x="{LEFT - 6}" y="{BOTTOM + 17}" text-anchor="end">step</text>',
    ]
    for one, line in zip(series, lines, strict=True):
        if line.x:
            parts.append(_curve(one, line, x_axis, y_axis))
    return "".join([*parts, f'<line class="rule" y1="{TOP}" y2="{BOTTOM}"/></svg>'])


def _curve(series: Series, line: Line, x_axis: Axis, y_axis: Axis) -> str:
    xs = [x_axis(x) for x in line.x]
    style = f'class="c{series.colour % COLOURS}{" dashed" if series.colour >= COLOURS else ""}"'
    parts = []
    if line.low is not line.y:
        outline = _points(xs + xs[::-1], [y_axis(y) for y in [*line.high, *line.low[::-1]]])
        parts.append(f'<polygon points="{outline}"/>')
    ys = [y_axis(y) for y in line.y]
    parts.append(
        f'<polyline points="{_points(xs, ys)}" data-label="{escape(series.label)}" '
        f'data-x="{" ".join(f"{x:.0f}" for x in line.x)}" data-y="{" ".join(f"{y:.4g}" for y in line.y)}"/>'
    )
    if len(xs) <= 40:
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<path class="dots" d="{dots}"/>')
    return f"<g {style}>{''.join(parts)}</g>"


def _points(xs: list[float], ys: list[float]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))


def _y_tick(at: float, value: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_short(value)}</text>'
    )


def _x_tick(at: float, value: float) -> str:
    return f'<text x="{at:.1f}" y="{BOTTOM + 17}" text-anchor="middle">{_short(value)}</text>'


def _legend(series: Series) -> str:
    """Colour, label and last value, and how many values are not drawn."""
    bad = [x for x, y in zip(series.x, series.y, strict=True) if not math.isfinite(y)]
    note = f" <em>{len(bad)} not finite, first at step {bad[0]:.0f}</em>" if bad else ""
    last = f" <b>{number(series.y[-1])}</b>" if len(series.y) else ""
    key = f"c{series.colour % COLOURS}{' dashed' if series.colour >= COLOURS else ''}"
    return f'<span class="{key}">{escape(series.label)}{last}{note}</span>'


def _short(value: float) -> str:
    """A tick's label: 20k, 1.5M, 0.25, 3e-05."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:.4g}"

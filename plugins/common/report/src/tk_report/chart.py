"""Line charts as SVG whose colours follow the page (CSS variables), so that one drawing serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from tk_report.reading import Series

LEFT, RIGHT, TOP, BOTTOM = 50, 16, 10, 32
_MOST_POINTS = 1200


@dataclass(frozen=True)
class Line:
    """A line of a chart. css: its class. bars: (low, high) of each point, drawn as whiskers. dots: mark each point."""

    points: Series
    css: str
    bars: Sequence[tuple[float, float] | None] = field(default_factory=list)
    dots: bool = False


def chart(lines: Sequence[Line], *, name: str, width: int = 920, height: int = 330, zero: bool = False) -> str:
    """An SVG chart over steps, or "" where there are no points. width, height: pixels; zero: the axis starts at 0."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    low, high = min(p[0] for p in points), max(p[0] for p in points)
    xs = (low, high if high > low else low + 1)
    ys = _range(lines, zero)
    frame = _Frame(xs, ys, width, height)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">']
    for value in _ticks(*ys, 5 if height > 200 else 2):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in (
        tick for tick in _ticks(*xs, 8 if width > 600 else 4) if tick == int(tick) and frame.x(tick) < width - 55
    ):
        x = frame.x(value)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 10}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text class="tick" x="{width - RIGHT}" y="{height - 10}" text-anchor="end">step</text>')
    parts += [_draw(line, frame) for line in lines]
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Frame:
    """From values to pixels."""

    xs: tuple[float, float]
    ys: tuple[float, float]
    width: int
    height: int

    def x(self, value: float) -> float:
        return LEFT + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.ys[0]), self.ys[1]) - self.ys[0]) / (self.ys[1] - self.ys[0])
        return self.height - BOTTOM - share * (self.height - BOTTOM - TOP)


def _draw(line: Line, frame: _Frame) -> str:
    stride = max(1, len(line.points) // _MOST_POINTS)
    points = [*line.points[::stride], *(line.points[-1:] if stride > 1 else [])]
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    parts = [f'<polyline class="{line.css}" points="{path}"/>'] if len(points) > 1 else []
    for (x, _), bar in zip(line.points, line.bars, strict=False):
        if bar is not None:
            at, low, high = frame.x(x), frame.y(bar[0]), frame.y(bar[1])
            parts.append(f'<path class="{line.css} bar" d="M{at:.1f} {low:.1f}V{high:.1f}"/>')
    if line.dots or len(points) == 1:
        parts += [
            f'<circle class="{line.css} dot" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="4.5">'
            f"<title>step {x:g}: {y:.4g}</title></circle>"
            for x, y in points
        ]
    return "".join(parts)


def _range(lines: Sequence[Line], zero: bool) -> tuple[float, float]:
    """All values but the rare spikes of a raw line, which would flatten everything else."""
    values: list[float] = []
    for line in lines:
        own = sorted(y for _, y in line.points)
        cut = len(own) // 100
        values += [own[0], own[-1 - cut]] if own else []
        values += [v for bar in line.bars if bar is not None for v in bar]
    low, high = (0.0 if zero else min(values)), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if zero else low - margin), high + margin


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round values within a range."""
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


def _short(value: float) -> str:
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:,.4g}"

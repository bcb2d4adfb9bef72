"""Charts as inline SVG: lines over blocks, epochs or bands, and maps of points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from petl.report.page_parts import legend, shown_number, text

WIDTH, HEIGHT = 560, 288
LEFT_EDGE, RIGHT_EDGE, TOP_EDGE, BOTTOM_EDGE = 56, 14, 12, 50
COLOUR_COUNT, SHAPES = 8, 3  # of classes in a map; more classes begin again
# outlines of a point, around (0, 0): a disc, a square, a triangle
OUTLINES = ("M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0", "M-3.2,-3.2h6.4v6.4h-6.4z", "M0,-4.4L4.1,3.2H-4.1z")


@dataclass(frozen=True)
class Line:
    """A line of a chart: its CSS class, its name, a value (or None) for each place on the x axis, and half-lengths of bars."""

    kind: str
    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None] = ()


@dataclass(frozen=True)
class Axes:
    """What a chart shows: names of the places along x, what x and y are, how values look, and the ends of the y axis."""

    labels: Sequence[str]
    x: str
    y: str
    form: str = "percent"
    low: float | None = None
    high: float | None = None
    marks: Mapping[int, str] = field(default_factory=dict)  # places with a bar below the axis, and what it says
    guides: Sequence[tuple[str, str, float | None]] = ()  # level lines: CSS class, name, value


def line_chart(axes: Axes, lines: Sequence[Line], *, mark_name: str = "") -> str:
    """Returns a chart with its key; lines without any value, and guides without one, are left out."""
    lines = [line for line in lines if any(value is not None for value in line.values)]
    guides = [(kind, name, value) for kind, name, value in axes.guides if value is not None]
    low, high = _range(axes, lines, [value for _, _, value in guides])
    scale = _Scale(len(axes.labels), low, high)
    parts = [_grid(scale, axes), *(_guide(scale, kind, value) for kind, _, value in guides)]
    parts += [_line(scale, axes, line) for line in lines]
    parts += [_mark(scale, place, said) for place, said in axes.marks.items()]
    keys = [(line.kind, line.name) for line in lines] + [(f"level {kind}", name) for kind, name, _ in guides]
    keys += [("mark", mark_name)] if axes.marks and mark_name else []
    label = f"{axes.y} over {axes.x}"
    return (
        f'{legend(keys)}<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}">'
        f"{''.join(parts)}</svg>"
    )


class _Scale:
    def __init__(self, count: int, low: float, high: float) -> None:
        self.count, self.low, self.high = count, low, high

    def x(self, place: float) -> float:
        room = WIDTH - LEFT_EDGE - RIGHT_EDGE
        return round(LEFT_EDGE + room * ((place + 0.5) / max(self.count, 1)), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM_EDGE - (HEIGHT - TOP_EDGE - BOTTOM_EDGE) * min(max(share, 0.0), 1.0), 1)


def _range(axes: Axes, lines: Sequence[Line], more: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of the y axis: those that were asked for, else round numbers around all values."""
    values = [value for line in lines for value in line.values if value is not None] + list(more)
    low = min(values, default=0.0) if axes.low is None else axes.low
    high = max(values, default=1.0) if axes.high is None else axes.high
    if high <= low:
        low, high = low - 0.5, high + 0.5
        if axes.form == "percent" and values and 0 <= min(values) <= max(values) <= 1:
            low, high = max(low, 0.0), min(high, 1.0)  # no share is above 100 %
    step = _step(high - low)
    return (
        math.floor(low / step) * step if axes.low is None else low,
        math.ceil(high / step - 1e-9) * step if axes.high is None else high,
    )


def _step(span: float) -> float:
    """Returns the distance of the lines of a grid: 1, 2 or 5 times a power of ten, about five of them."""
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def _grid(scale: _Scale, axes: Axes) -> str:
    step, parts = _step(scale.high - scale.low), []
    for number in range(math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9) + 1):
        y = scale.y(number * step)
        shown = _tick(number * step, axes.form, step)
        parts.append(f'<line class="rule" x1="{LEFT_EDGE}" x2="{WIDTH - RIGHT_EDGE}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT_EDGE - 7}" y="{y + 4}" text-anchor="end">{text(shown)}</text>')
    every = max(
        1, math.ceil(len(axes.labels) * max(map(len, axes.labels), default=1) * 7.5 / (WIDTH - LEFT_EDGE - RIGHT_EDGE))
    )
    for place, label in enumerate(axes.labels):
        if place % every == 0:
            x, y = scale.x(place), HEIGHT - BOTTOM_EDGE + 24
            kind = (
                "tick alt" if len(axes.labels) > 9 and (place // every) % 2 else "tick"
            )  # left out where it is narrow
            parts.append(f'<text class="{kind}" x="{x}" y="{y}" text-anchor="middle">{text(label)}</text>')
    middle = (LEFT_EDGE + WIDTH - RIGHT_EDGE) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{text(axes.x)}</text>')
    return "".join(parts)


def _tick(value: float, form: str, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if form == "percent":
        return f"{value:.{max(0, digits - 2)}%}".replace("%", "\u00a0%")
    return f"{value:.{digits}f}" if digits <= 4 else f"{value:.1e}"


def _guide(scale: _Scale, kind: str, value: float) -> str:
    return f'<line class="guide {kind}" x1="{LEFT_EDGE}" x2="{WIDTH - RIGHT_EDGE}" y1="{scale.y(value)}" y2="{scale.y(value)}"/>'


def _line(scale: _Scale, axes: Axes, line: Line) -> str:
    """Returns a line that is broken where a value is missing, with a dot for each value, which says it when pointed at."""
    places = [(place, value) for place, value in enumerate(line.values) if value is not None and math.isfinite(value)]
    path, last = [], None
    for place, value in places:
        path.append(f"{'L' if last == place - 1 else 'M'}{scale.x(place)},{scale.y(value)}")
        last = place
    dots = []
    for place, value in places:
        error = line.errors[place] if place < len(line.errors) else None
        said = f"{line.name}, {axes.labels[place]}: {shown_number(value, axes.form)}"
        said += f" ± {shown_number(error, axes.form)}" if error is not None else ""
        if error is not None:
            ends = f'y1="{scale.y(value - error)}" y2="{scale.y(value + error)}"'
            dots.append(f'<line class="error" x1="{scale.x(place)}" x2="{scale.x(place)}" {ends}/>')
        dots.append(f'<circle cx="{scale.x(place)}" cy="{scale.y(value)}" r="3.2"><title>{text(said)}</title></circle>')
    return f'<g class="line {line.kind}"><path d="{"".join(path)}"/>{"".join(dots)}</g>'


def _mark(scale: _Scale, place: int, said: str) -> str:
    width = min(18.0, (WIDTH - LEFT_EDGE - RIGHT_EDGE) / max(scale.count, 1) * 0.7)
    x, y = scale.x(place) - width / 2, HEIGHT - BOTTOM_EDGE + 4
    return f'<rect class="mark" x="{x:.1f}" y="{y}" width="{width:.1f}" height="6" rx="1.5"><title>{text(said)}</title></rect>'


MAP_WIDTH, MAP_HEIGHT, MAP_EDGE = 440, 400, 14
MAP_SCALE = MAP_HEIGHT / 2 - MAP_EDGE  # the same along both axes: distances are distances


def point_map(name: str, points: Sequence[Sequence[float]], kinds: Sequence[tuple[int, str]], label: str) -> str:
    """Returns a map of points from -1 to 1; ``kinds`` has each point's group, and the CSS class of its colour.

    Groups have shapes in turn, so that more than eight can be told apart.
    """
    marks = []
    for number, ((x, y), (group, colour)) in enumerate(zip(points, kinds, strict=True)):
        place = f"translate({map_x(x)},{map_y(y)})"
        marks.append(
            f'<path class="{colour}" data-i="{number}" data-group="{group}" transform="{place}" d="{_outline(group)}"/>'
        )
    return (
        f'<svg class="map" data-map="{name}" viewBox="0 0 {MAP_WIDTH} {MAP_HEIGHT}" role="application" tabindex="0" '
        f'aria-label="{text(label)}: arrow keys go from image to image">{"".join(marks)}</svg>'
    )


def point_key(group: int, colour: str) -> str:
    """Returns the point of a group, for the key of a map."""
    return f'<svg viewBox="-5 -5 10 10" aria-hidden="true"><path class="{colour}" d="{_outline(group)}"/></svg>'


def _outline(group: int) -> str:
    return OUTLINES[(max(group, 0) // COLOUR_COUNT) % SHAPES]


def map_x(value: float) -> float:
    return round(MAP_WIDTH / 2 + value * MAP_SCALE, 1)


def map_y(value: float) -> float:
    return round(MAP_HEIGHT / 2 - value * MAP_SCALE, 1)

"""The picture of the speed benchmark: bytes and time of each side as shares of those of full fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.tables import RIVALS, SHOWN, Result, step_seconds


def picture(results: Sequence[Result], path: Path) -> bool:
    """Bytes and time, both over those of full fine-tuning: a panel per model that was timed in float32, a row per side.

    A side has a row of its own, so that sides with equal figures can all be read.
    """
    timed = [r for r in results if "-" not in r["variant"] and step_seconds(r["sides"].get("full", {}))]
    if not timed:
        return False
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "petl", "svg.fonttype": "none"})
    from matplotlib import pyplot

    names = _names(timed)
    columns = min(2, len(timed))
    rows = -(-len(timed) // columns)
    size = (1.5 + 3.6 * columns, 1.2 + (0.7 + 0.21 * len(names)) * rows)
    figure = _figure(pyplot, timed, names, (rows, columns), size)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _names(timed: Sequence[Result]) -> list[str]:
    """All sides that are drawn: what is measured against above what petl offers."""
    most_first = sorted(timed, key=lambda result: -len(_drawn(result)))  # the longest list has the others' order in it
    names = list(dict.fromkeys(name for result in most_first for name in _drawn(result)))
    return sorted(names, key=lambda name: name not in RIVALS)


def _figure(pyplot: Any, timed: Sequence[Result], names: Sequence[str], grid: tuple[int, int], size: Any) -> Any:
    """A grid of panels with one legend; panels that no model needs stay empty."""
    figure, panels = pyplot.subplots(*grid, figsize=size, squeeze=False, sharex=True, sharey=True)
    for panel, result in zip(panels.flat, timed, strict=False):
        _draw(panel, result, names)
    for panel in panels.flat[len(timed) :]:
        panel.set_visible(False)
    panels.flat[0].set_xlim(-0.03, None)  # the axes are shared: only now all panels' figures are in them
    figure.supxlabel("share of full fine-tuning", fontsize=10)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False, fontsize=10)
    figure.tight_layout(rect=(0.01, 0, 1, 1 - 0.35 / size[1]))
    return figure


def _drawn(result: Result) -> dict[str, Result]:
    """The sides whose bytes and time are known."""
    return {name: side for name, side in result["sides"].items() if side.get("bytes") and side.get("seconds")}


def _draw(panel: Any, result: Result, names: Sequence[str]) -> None:
    sides = _drawn(result)
    full = sides["full"]
    shown = [name for name in names if name in sides]
    rows = [names.index(name) for name in shown]
    shares = [sides[name]["bytes"] / full["bytes"] for name in shown]
    times = [(step_seconds(sides[name]) or 0) / (step_seconds(full) or 1) for name in shown]
    panel.hlines(rows, shares, times, color="lightgray", linewidth=1.5, zorder=1)
    panel.scatter(shares, rows, color="tab:green", s=26, zorder=2, label="bytes alive for the backward")
    panel.scatter(
        times, rows, facecolors="none", edgecolors="tab:blue", marker="s", s=34, zorder=3, label="time of a step"
    )
    panel.set_title(result["model"], fontsize=10)
    panel.set_yticks(range(len(names)), [SHOWN.get(name, name) for name in names], fontsize=9)
    panel.set_ylim(len(names) - 0.5, -0.5)  # the first side is on top
    panel.tick_params(axis="x", labelsize=9, labelbottom=True)
    panel.axvline(1, color="gray", linewidth=0.8, zorder=0)
    panel.grid(axis="x", alpha=0.3)

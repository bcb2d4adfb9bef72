"""The learning curves of a training as a picture."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from petl.errors import PetlError

COLOURS = {"train_loss": "#7a8a99", "loss": "#0f766e", "monitor": "#0f766e", "best": "#c2410c"}


OTHER_SCALE = 20  # one loss is so many times the other


def history_figure(history: Any, path: str | Path | None = None) -> Any:
    """Returns a Figure with the losses and, where it isn't the loss, the monitor; saved to ``path``, if that is given."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise PetlError('History.plot needs matplotlib; pip install "petl-vision[plot]"') from error
    if not history.rows:
        raise PetlError("this history has no epoch yet; History.plot draws those of a training")
    has_monitor = history.monitor in history.rows[0] and history.monitor != "loss"
    figure = Figure(figsize=(9 if has_monitor else 5, 3.4), layout="constrained")  # no window: of no global state
    all_axes = figure.subplots(1, 2 if has_monitor else 1, squeeze=False)[0]
    measured = _draw_losses(all_axes[0], history)
    if has_monitor:
        measured = all_axes[1]
        _draw(all_axes[1], history, history.monitor, history.monitor, COLOURS["monitor"])
        all_axes[1].set_ylabel(history.monitor.replace("_", " "))
    for axes in all_axes:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    _mark_best(measured, history)
    if path is not None:
        _save(figure, path)
    return figure


def _draw_losses(axes: Any, history: Any) -> Any:
    """Draws both losses; returns the axes of the validation's."""
    _draw(axes, history, "train_loss", "training", COLOURS["train_loss"])
    if _have_other_scales(history):
        right = axes.twinx()
        _draw(right, history, "loss", "validation", COLOURS["loss"])
        right.set_ylabel("validation loss", color=COLOURS["loss"])
        right.spines["top"].set_visible(False)
        axes.set_ylabel("training loss", color=COLOURS["train_loss"])
        return right
    if "loss" in history.rows[0]:
        _draw(axes, history, "loss", "validation", COLOURS["loss"])
        axes.legend(frameon=False)
    axes.set_ylabel("loss")
    return axes


def _have_other_scales(history: Any) -> bool:
    """Returns whether one axis would flatten one of the losses: a regression trains on standardised targets."""
    sizes = [
        max((abs(row[name]) for row in history.rows if name in row and math.isfinite(row[name])), default=0.0)
        for name in ("train_loss", "loss")
    ]
    return min(sizes) > 0 and max(sizes) > OTHER_SCALE * min(sizes)


def _draw(axes: Any, history: Any, name: str, label: str, colour: str) -> None:
    epochs, values = [row["epoch"] for row in history.rows], [row.get(name) for row in history.rows]
    axes.plot(epochs, values, label=label, color=colour, marker="o", markersize=3, linewidth=1.8)


def _mark_best(axes: Any, history: Any) -> None:
    """Marks the best epoch with a ring, its number and its value; nothing is best without validation data."""
    if history.monitor not in history.best:
        return
    epoch, value = history.best["epoch"], history.best[history.monitor]
    axes.plot(
        [epoch], [value], "o", color=COLOURS["best"], markersize=9, fillstyle="none", markeredgewidth=1.8, zorder=3
    )
    axes.set_title(f"best: {value:.4g} in epoch {epoch}", loc="left", fontsize=10, color=COLOURS["best"])


def _save(figure: Any, path: str | Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise PetlError(f"the picture can't be written to {os.fspath(path)}: {error}") from error

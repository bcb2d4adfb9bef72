"""Learning curves: as text, as a picture and as a table; and the time that is left."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

import petl
from petl import History
from petl.errors import PetlError
from petl.training.fit import fit
from petl.training.learning_curves import BLOCKS, PLAIN, can_show_blocks, duration, remaining_time, sparkline
from tests.support.data import pairs
from tests.support.training import adapted

ACCURACY = [0.3, 0.5, 0.8, 0.7]


def history(count: int = 4, monitor: str = "accuracy", **more: Any) -> History:
    made = History(monitor)
    for number in range(count):
        row = {"epoch": number + 1, "train_loss": 2.0 / (number + 1), "lr": 1e-3, "seconds": 20.0 + number}
        made.add({**row, "loss": 1.5 / (number + 1), "accuracy": ACCURACY[number % 4], **more})
    return made


def test_curves_are_lines_of_one_width() -> None:
    assert history().curves().splitlines() == [
        "train_loss  █▃▂▁  2 to 0.5",
        "loss        █▃▂▁  1.5 to 0.375",
        "accuracy    ▁▄█▇  0.3 to 0.7, best 0.8 in epoch 3",
    ]
    assert history().curves(ascii=True).splitlines()[0] == "train_loss  @-._  2 to 0.5"
    assert history(1).curves() == "" and all(len(line) <= 60 for line in history(500).curves(60).splitlines())
    without = History(rows=[{"epoch": e, "train_loss": 1.0, "lr": 1.0, "seconds": 1.0} for e in (1, 2)])
    assert without.curves() == "train_loss  ▅▅  1 to 1"
    assert history(train_loss=float("nan")).curves().splitlines()[0] == "train_loss        nan to nan"


def test_many_values_are_means_of_neighbours() -> None:
    assert sparkline(range(1000), 8) == "▁▂▃▄▅▆▇█" and sparkline([1.0, float("inf"), 2.0], 5) == "▁ █"
    assert sparkline([float("nan")] * 3, 5) == "   " and len(sparkline(range(7), 5)) == 5
    assert can_show_blocks("utf-8") and not can_show_blocks("latin-1") and not can_show_blocks(None)


def test_the_time_that_is_left() -> None:
    assert remaining_time(history(), 10) == "about 2 min left" and remaining_time(history(), 4) == ""
    stopped = history()
    stopped.stopped = True
    assert remaining_time(stopped, 10) == "" and remaining_time(History(), 10) == ""
    assert [duration(s) for s in (89.4, 89.6, 5370, 47.9 * 3600)] == ["89 s", "2 min", "1 h 30 min", "47 h 54 min"]


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_training_prints_its_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, marks in (("utf-8", BLOCKS), ("ascii", PLAIN)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stderr", stream)
        fit(adapted("probe"), pairs(8), epochs=3, lr=0.1, batch_size=8, schedule="none")
        lines = stream.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]  # of BytesIO
        assert len(lines) == 4 and lines[-1].startswith("train_loss  ") and {*lines[-1][12:15]} <= {*marks}
        assert ["left" in line for line in lines] == [True, True, False, False]


def test_the_picture(tmp_path: Path) -> None:
    figure = history().plot(tmp_path / "history.png")
    losses, monitor = figure.axes
    assert [line.get_label() for line in losses.lines] == ["training", "validation"]
    assert list(monitor.lines[0].get_ydata()) == ACCURACY and monitor.get_title("left") == "best: 0.8 in epoch 3"
    assert monitor.lines[1].get_xydata().tolist() == [[3.0, 0.8]] and (tmp_path / "history.png").stat().st_size > 5000
    (only,) = history(monitor="loss").plot().axes
    assert only.get_title("left") == "best: 0.375 in epoch 4"
    (bare,) = History(rows=[{"epoch": 1, "train_loss": 1.0, "lr": 1.0, "seconds": 1.0}]).plot().axes
    assert len(bare.lines) == 1
    with pytest.raises(PetlError, match="no epoch yet"):
        History().plot()
    for path in (tmp_path / "no" / "a.png", tmp_path / "a.abc"):
        with pytest.raises(PetlError, match="the picture can't be written to"):
            history().plot(path)


def test_the_table() -> None:
    frame = history().to_frame()
    assert frame.index.tolist() == [1, 2, 3, 4] and frame.index.name == "epoch"
    assert frame["accuracy"].tolist() == ACCURACY and frame["best"].tolist() == [False, False, True, False]
    assert len(History().to_frame()) == 0


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pandas", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(petl.PetlError, match=r"pip install \"petl-vision\[tables\]\""):
        history().to_frame()
    with pytest.raises(petl.PetlError, match=r"pip install \"petl-vision\[plot\]\""):
        history().plot()


def test_losses_of_other_scales_have_an_axis_each() -> None:
    """A regression trains on standardised targets, and is measured in their own units."""
    rows = [{"epoch": e, "train_loss": 1 / e, "loss": 400.0 + e, "lr": 1e-3, "seconds": 1.0} for e in (1, 2, 3)]
    found = History("loss", rows, best=rows[0])
    left, right = found.plot().axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("training loss", "validation loss")
    assert right.lines[-1].get_ydata() == [401.0] and len(left.lines) == 1
    error = [
        {**row, "mean_absolute_error": 20.0 - row["epoch"], "mean_absolute_error_standard_error": 0.5} for row in rows
    ]
    lower = History("mean_absolute_error")
    assert [lower.add(row) for row in error] == [True, True, True]
    assert "mean_absolute_error 17 +- 0.5" in lower.line(error[-1], 3) and "best so far" in lower.line(error[-1], 3)
    assert [axes.get_ylabel() for axes in lower.plot().axes] == [
        "training loss",
        "mean absolute error",
        "validation loss",
    ]
    assert lower.curves().endswith("19 to 17, best 17 in epoch 3") and lower.to_frame()["best"].tolist() == [
        False,
        False,
        True,
    ]

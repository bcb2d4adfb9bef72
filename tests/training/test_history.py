"""History.features, and its older name."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from petl import History

ROW = {"epoch": 1, "train_loss": 0.5, "lr": 0.1, "seconds": 1.0}


def test_road_is_the_older_name_of_features() -> None:
    history = History(rows=[ROW], features="in memory")
    with pytest.warns(DeprecationWarning, match=r"History\.features"):
        assert history.road == "in memory"  # type: ignore[attr-defined]  # an init-only field, and a property
    with pytest.warns(DeprecationWarning, match=r"History\.features"):
        history.road = "on disk"  # type: ignore[assignment]  # a property by then
    assert history.features == "on disk"


def test_a_history_that_was_written_with_road_is_read() -> None:
    written = json.dumps({"monitor": "loss", "rows": [ROW], "best": ROW, "stopped": False, "road": "in memory"})
    history = History(**json.loads(written))
    assert history.features == "in memory" and history.monitor == "loss"
    assert [*vars(history)][:5] == ["monitor", "rows", "best", "stopped", "features"]
    assert repr(history).endswith("in memory")


def test_copies_of_a_history_are_equal() -> None:
    history = History(rows=[ROW], features="in memory")
    assert copy.deepcopy(history) == pickle.loads(pickle.dumps(history)) == History(**vars(history)) == history


def test_the_monitor_is_shown_with_its_standard_error() -> None:
    rows = [{**ROW, "epoch": i, "r2": 0.5 + i / 10, "r2_standard_error": 0.0123, "loss": 2.0} for i in (1, 2)]
    history = History(monitor="r2")
    assert [history.add(row) for row in rows] == [True, True]
    assert "0.7 +- 0.012" in repr(history) and "r2 0.7 +- 0.012" in history.line(rows[1], 2)
    assert history.describe(rows[1]) == "epoch 2 (r2 0.7 +- 0.012)"
    history.note_choice()
    assert repr(history).splitlines()[-1].startswith(
        "epoch 2 (r2 0.7 +- 0.012) is the best of 2"
    ) and "optimistic" in repr(history)
    assert History(**json.loads(json.dumps(vars(history)))) == history


def test_less_of_an_error_is_better() -> None:
    history = History(monitor="mean_absolute_error")
    rows = [{**ROW, "epoch": i, "mean_absolute_error": value} for i, value in ((1, 3.0), (2, 4.0), (3, 2.0))]
    assert [history.add(row) for row in rows] == [True, False, True]
    lonely = History(monitor="mean_absolute_error", rows=rows[:1], best=rows[0])
    lonely.note_choice()
    assert lonely.notes == []

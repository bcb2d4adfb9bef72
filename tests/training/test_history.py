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
    assert [*vars(history)] == ["monitor", "rows", "best", "stopped", "features", "notes"]
    assert repr(history).endswith("in memory")


def test_copies_of_a_history_are_equal() -> None:
    history = History(rows=[ROW], features="in memory")
    assert copy.deepcopy(history) == pickle.loads(pickle.dumps(history)) == History(**vars(history)) == history

"""``minutes=``: the number of epochs that fits, by a clock that the test winds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petl.training import settings, time_budget
from petl.training.fit import fit
from petl.training.length import MOST_EPOCHS
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import adapted, without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Clock:
    """Goes on by some seconds whenever it is asked."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Any:
    def wind(tick: float) -> None:
        clock = Clock(tick)
        monkeypatch.setattr(time_budget, "clock", clock)
        monkeypatch.setattr(time_budget, "TIMED", 4)
        monkeypatch.setattr(settings, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    return wind


def trained(**options: Any) -> tuple[Any, Any]:
    model = adapted("norm")
    history = fit(model, pairs(12), pairs(6, seed=1), batch_size=4, progress=False, **options)
    return state(model), history


@pytest.mark.deep
def test_the_epochs_fit_and_a_repeat_with_their_number_is_bit_equal(ticking: Any) -> None:
    """Each update takes a second, and each measured part of the validation one: an epoch of three takes four."""
    ticking(1.0)
    values, history = trained(minutes=0.5)
    assert history.epochs == len(history) == 3  # of 30 seconds 13 are over; of the others they take nine tenths
    assert history.notes[0].startswith("minutes=0.5: 3 epochs of about 4")
    again = trained(epochs=3)
    assert equal(values, again[0]) and without_time(history) == without_time(again[1])


def test_one_epoch_is_the_least_and_petls_own_bound_the_most(ticking: Any) -> None:
    ticking(1000.0)
    history = trained(minutes=0.01)[1]
    assert history.epochs == 1 and "although one doesn't fit" in history.notes[0]
    ticking(0.0)
    model = adapted("probe")
    history = fit(model, pairs(6), batch_size=3, minutes=1.0)
    assert history.epochs == MOST_EPOCHS


@pytest.mark.deep
def test_a_resumed_run_keeps_the_number(ticking: Any, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise Stop

    ticking(1.0)
    with pytest.raises(Stop):
        trained(minutes=0.4, checkpoint=tmp_path, on_epoch=stop)
    ticking(100.0)  # a slower machine
    values, history = trained(minutes=0.4, checkpoint=tmp_path, resume=True)
    assert history.epochs == len(history) == 2
    assert equal(values, trained(epochs=history.epochs)[0])

"""What a training reports while it runs and afterwards."""

from __future__ import annotations

import pytest

from petl.training.fit import evaluate, fit
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_history_prints_a_table() -> None:
    history = fit(adapted(), pairs(16), pairs(8, seed=1), epochs=2, lr=1e-2, batch_size=8)
    lines = repr(history).splitlines()
    assert lines[0].split()[:4] == ["epoch", "train_loss", "loss", "accuracy"]
    assert len(lines) == 3
    assert sum("best accuracy" in line for line in lines) == 1


def test_no_bar_but_a_line_an_epoch_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    fit(adapted("probe"), pairs(8), pairs(8), epochs=2, lr=1e-3, batch_size=8)
    evaluate(adapted(), pairs(8))
    out, err = capfd.readouterr()
    assert out == "" and [line.split("  ")[0] for line in err.splitlines()] == ["epoch 1/2", "epoch 2/2"]

"""Metrics, against scikit-learn's; what a training reports while it runs and afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from petl.objectives.metrics import metrics_of
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_metrics_are_scikit_learns() -> None:
    """Class 3 never occurs, class 4 neither occurs nor is answered."""
    chance = torch.Generator().manual_seed(0)
    truth, answers = torch.randint(3, (200,), generator=chance), torch.randint(4, (200,), generator=chance)
    found = metrics_of(torch.rand(200, generator=chance), answers, truth, list("abcde"))
    assert found.accuracy == pytest.approx(oracle.accuracy_score(truth, answers))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(truth, answers))
    assert found.f1 == pytest.approx(oracle.f1_score(truth, answers, average="macro"))
    wanted = oracle.precision_recall_fscore_support(truth, answers, labels=range(5), zero_division=0)
    columns = zip(*((c.precision, c.recall, c.f1, c.images) for c in found.classes), strict=True)
    assert all(np.allclose(one, other) for one, other in zip(columns, wanted, strict=True))
    assert found.precision == pytest.approx(wanted[0][:4].mean())
    assert np.array_equal(found.confusion, oracle.confusion_matrix(truth, answers, labels=range(5)))
    assert [line.split()[0] for line in repr(found).splitlines()[2:]] == list("abcde")


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

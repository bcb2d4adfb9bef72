"""What all metrics share: standard errors, a baseline, and paired comparisons."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch

from petl.errors import PetlError
from petl.evidence.comparison import mcnemar, paired_bootstrap
from petl.evidence.intervals import accuracy_error, binomial_interval
from petl.objectives.metrics import metrics_of

CHANCE = torch.Generator().manual_seed(0)
TRUTH = torch.randint(3, (80,), generator=CHANCE)
GOOD = torch.where(torch.rand(80, generator=CHANCE) < 0.9, TRUTH, (TRUTH + 1) % 3)
POOR = torch.where(torch.rand(80, generator=CHANCE) < 0.5, TRUTH, (TRUTH + 1) % 3)
LOSSES = torch.rand(80, generator=CHANCE)


def test_each_number_has_its_standard_error() -> None:
    found = metrics_of(LOSSES, GOOD, TRUTH, list("abc"))
    errors = found.standard_errors
    assert errors.keys() == found.scalars.keys() and all(error > 0 for error in errors.values())
    assert errors["accuracy"] == pytest.approx(accuracy_error(found.accuracy, 80))
    assert errors["balanced_accuracy"] == pytest.approx(errors["accuracy"], rel=0.3)  # classes of about one size
    assert found.images == 80
    assert found.accuracy_interval == pytest.approx(binomial_interval(int((GOOD == TRUTH).sum()), 80))
    assert f"accuracy {found.accuracy:.4f} +- {errors['accuracy']:.4f}" in repr(found) and "(n=80)" in repr(found)
    assert "between" in repr(found).splitlines()[0]
    assert found.row["accuracy_standard_error"] == errors["accuracy"]
    json.dumps(vars(found), default=vars)


def test_perfect_answers_are_not_certain() -> None:
    found = metrics_of(LOSSES[:10], TRUTH[:10], TRUTH[:10], list("abc"))
    assert found.accuracy == 1 and all(found.standard_errors[name] > 0.02 for name in ("accuracy", "precision", "f1"))
    alone = metrics_of(LOSSES[:1], TRUTH[:1], TRUTH[:1], list("abc"))
    assert alone.standard_errors == {} and "+-" not in repr(alone).splitlines()[0]


def test_the_baseline_is_the_most_frequent_class() -> None:
    found = metrics_of(LOSSES, GOOD, torch.tensor([1] * 60 + [0] * 20), list("abc"))
    assert found.baseline == {"accuracy": 0.75, "balanced_accuracy": 0.5} and found.baseline_rule == "always b"
    assert "always b" in repr(found)


def test_two_evaluations_on_the_same_images_are_compared_image_by_image() -> None:
    good, poor = (metrics_of(LOSSES, answers, TRUTH, list("abc")) for answers in (GOOD, POOR))
    difference = good.compare(poor)
    right = (GOOD == TRUTH, POOR == TRUTH)
    wanted = paired_bootstrap(right[0].float(), right[1].float())
    assert (difference.mean, difference.low, difference.high) == (wanted.mean, wanted.low, wanted.high)
    assert difference.p == mcnemar(*right) and "McNemar" in str(difference) and "first is better" in str(difference)
    assert poor.compare(good).mean == -difference.mean
    assert pickle.loads(pickle.dumps(good)).compare(copy.deepcopy(poor)) == difference


def test_evaluations_on_other_images_are_not_compared() -> None:
    one = metrics_of(LOSSES, GOOD, TRUTH, list("abc"))
    other = metrics_of(LOSSES, GOOD, TRUTH.flip(0), list("abc"))
    for strange in (other, metrics_of(LOSSES[:9], GOOD[:9], TRUTH[:9], list("abc"))):
        with pytest.raises(PetlError, match="same data"):
            one.compare(strange)
    with pytest.raises(PetlError, match=r"petl\.evaluate"):
        one.compare(vars(one))  # type: ignore[arg-type]  # as read from a file

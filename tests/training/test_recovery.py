"""With default rates a training that diverges starts its epoch again, with lower rates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch.utils.data import TensorDataset

from petl.errors import PetlError
from petl.objectives.classification import CrossEntropy
from petl.training import recovery
from petl.training.fit import fit
from petl.training.recovery import MOST_RESTARTS, untaught_loss, why_diverged
from tests.support.compare import equal, state
from tests.support.data import CLASSES, pairs
from tests.support.training import Breaking, adapted, without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def diverging(lr: Any = "x100", **options: Any) -> tuple[Any, Any]:
    model = adapted("full")
    history = fit(
        model, pairs(12), pairs(6, seed=1), lr=lr, **{"batch_size": 4, "epochs": 3, "warmup_epochs": 0, **options}
    )
    return state(model), history


@pytest.mark.deep
def test_it_goes_back_and_on_with_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch diverges once: it is as a second epoch with a third of the rates after the first."""
    seen: list[Any] = []

    def once(losses: Any, first: float) -> str:
        seen.append((len(losses), first))
        return "it was told to" if len(losses) == 2 and len(seen) == 2 else ""

    monkeypatch.setattr(recovery, "why_diverged", once)
    values, history = diverging(None)
    assert [count for count, _ in seen] == [1, 2, 2, 3]
    assert history.restarts == [{"epoch": 2, "why": "it was told to", "factor": pytest.approx(1 / 3)}]
    assert "epoch 2 diverged (it was told to)" in history.notes[-1] and history.notes[-1] in repr(history)
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    seen.clear()
    again = diverging(None)
    assert equal(values, again[0]) and without_time(history) == without_time(again[1])


@pytest.mark.deep
def test_rates_that_are_far_too_high_are_lowered_twice_at_most() -> None:
    values, history = diverging("x1000", clip=float("inf"))
    assert 1 <= len(history.restarts) <= MOST_RESTARTS
    again = diverging("x1000", clip=float("inf"))
    assert equal(values, again[0]) and history.restarts == again[1].restarts
    top = max(row["lr"] for row in history.rows)
    assert top <= 1000 * max(history.rates.values()) / 3


def test_what_diverges_for_the_third_time_goes_on_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "why_diverged", lambda losses, first: "it was told to")
    _, history = diverging(None, epochs=2)
    assert len(history.restarts) == MOST_RESTARTS and len(history.rows) == 2
    (said,) = (note for note in history.notes if "may be of no use" in note)
    assert said.startswith("epoch 1 diverged again (it was told to)") and said in repr(history)


def test_a_number_for_lr_raises_as_ever() -> None:
    with pytest.raises(PetlError, match="try a lower lr"):
        fit(adapted("norm"), Breaking(8, float("nan")), epochs=2, lr=1e-3, batch_size=8)


def test_images_that_are_no_numbers_from_the_start_are_no_fault_of_the_rates() -> None:
    with pytest.raises(PetlError, match="update 1: .* NaN in the images"):
        fit(adapted("norm"), Breaking(0, float("nan")), epochs=2, batch_size=8)


def test_a_start_that_knows_the_images_already_has_forgotten_nothing_when_its_loss_doubles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen with full fine-tuning on Fashion-MNIST: 0.05, then 0.11, after a start in closed form at 0.14."""
    seen: list[float] = []

    def told(losses: Any, first: float) -> str:
        seen.append(first)
        return why_diverged([0.0469, 0.109], first)

    monkeypatch.setattr(recovery, "why_diverged", told)
    model, data = adapted("full"), pairs(12)
    assert "started from" in fit(model, data, epochs=1).head
    history = fit(model, data, epochs=2)  # and so does a model that was trained before
    assert not history.restarts and min(seen) >= math.log(CLASSES)
    assert why_diverged([0.05, 0.11], 0.14) and not why_diverged([0.05, 0.11], math.log(10))
    assert why_diverged([0.05, 2.2], math.log(10))


def test_what_a_model_that_knows_nothing_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert untaught_loss(CrossEntropy(["a", "b"])) == pytest.approx(math.log(2)) and untaught_loss(object()) == 0
    seen: list[float] = []
    monkeypatch.setattr(recovery, "why_diverged", lambda losses, first: seen.append(first) or "")
    images, _ = pairs(12).tensors
    numbers = TensorDataset(images, 100 + images.mean((2, 3))[:, :CLASSES] * 50)
    history = fit(adapted("norm"), numbers, epochs=1, objective="regression")
    assert history.first_loss is not None and seen == [max(history.first_loss, 1.0)]


@pytest.mark.parametrize(
    ("losses", "first", "diverged"),
    [
        ([2.2], 2.3, False),
        ([9.0], 2.3, True),
        ([1.2, 0.8, 0.6], 2.3, False),
        ([1.2, 1.4, 1.1], 2.3, False),
        ([1.2, 0.8, 2.3], 2.3, True),  # it forgot what it had learnt
        ([2.25, 2.2, 2.28], 2.3, False),  # it had learnt too little to tell
        ([0.01, 0.012], 0.01, False),
        ([0.5, 0.3], 0.0, False),
        ([float("inf")], 2.3, True),
    ],
)
def test_what_counts_as_diverged(losses: list[float], first: float, diverged: bool) -> None:
    assert bool(why_diverged(losses, first)) == diverged

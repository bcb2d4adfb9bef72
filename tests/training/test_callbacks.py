"""Callbacks: what they are called with, in which order, how they stop a training, and those that can't be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import petl
from petl.errors import PetlError
from petl.training.fit import fit
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
OPTIONS: dict[str, Any] = {"lr": 1e-2, "batch_size": 8, "progress": False}


class Noting(petl.Callback):
    """Notes each call, with where the training is."""

    def __init__(self, calls: list[Any], name: str = ""):
        self.calls, self.name = calls, name

    def note(self, what: str, run: petl.Training, *more: Any) -> None:
        self.calls.append((self.name + what, run.epoch, run.update, *more))

    def on_fit_begin(self, run: petl.Training) -> None:
        assert run.is_main and run.model.training and isinstance(run.optimizer, torch.optim.AdamW)
        self.note("begin", run, run.updates, run.epochs)

    def on_batch_end(self, run: petl.Training, loss: float) -> None:
        assert run.lr <= 1e-2 and isinstance(loss, float)
        self.note("batch", run)

    def on_epoch_end(self, run: petl.Training, row: dict[str, Any]) -> None:
        assert run.history.rows[-1] is row
        self.note("epoch", run)

    def on_fit_end(self, run: petl.Training, history: petl.History) -> None:
        assert not run.model.training
        self.note("end", run, len(history))


def test_they_are_called_in_order() -> None:
    calls: list[Any] = []
    fit(
        adapted(),
        pairs(16),
        epochs=2,
        callbacks=Noting(calls),
        on_epoch=lambda row: calls.append(row["epoch"]),
        **OPTIONS,
    )
    assert calls == [
        ("begin", 1, 0, 4, 2), ("batch", 1, 1), ("batch", 1, 2), ("epoch", 1, 2), 1,
        ("batch", 2, 3), ("batch", 2, 4), ("epoch", 2, 4), 2, ("end", 2, 4, 2),
    ]  # fmt: skip
    calls.clear()
    both = [Noting(calls, "first "), Noting(calls, "second ")]
    fit(adapted("probe"), pairs(16), epochs=1, accumulate=2, callbacks=both, **OPTIONS)
    assert [call[0] for call in calls] == [f"{who} {what}" for what in ("begin", "batch", "epoch", "end")
                                           for who in ("first", "second")]  # fmt: skip


def test_callbacks_change_nothing_and_see_a_resume(tmp_path: Path) -> None:
    plain, watched, calls = adapted(), adapted(), []
    fit(plain, pairs(16), epochs=2, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        fit(watched, pairs(16), epochs=2, checkpoint=tmp_path, callbacks=Raising(KeyboardInterrupt), **OPTIONS)
    again = adapted()
    fit(again, pairs(16), epochs=2, checkpoint=tmp_path, resume=True, callbacks=Noting(calls), **OPTIONS)
    assert calls[0] == ("begin", 2, 2, 4, 2) and [call[0] for call in calls].count("epoch") == 1
    assert equal(state(again), state(plain))


class Raising:
    """No petl.Callback: one method is enough."""

    def __init__(self, error: type[BaseException]):
        self.error = error

    def on_epoch_end(self, run: petl.Training, row: dict[str, Any]) -> None:
        raise self.error("out of paper")


def test_an_error_in_a_callback_ends_the_training_as_control_c_does(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, path = adapted(), tmp_path / "best.safetensors"
    with pytest.raises(OSError, match="out of paper"):
        fit(model, pairs(16), epochs=3, out=path, callbacks=[Raising(OSError)], **{**OPTIONS, "progress": True})
    assert petl.read(path)["results"]["epoch"] == 1 and not model.training
    assert not {"forward", "_is_accelerate_prepared"} & vars(model).keys()
    assert f"interrupted in epoch 2: {path} holds epoch 1" in capfd.readouterr().err
    with pytest.raises(OSError, match="out of paper"):  # on_epoch is one of them
        fit(model, pairs(16), epochs=3, on_epoch=lambda row: Raising(OSError).on_epoch_end(None, row), **OPTIONS)  # type: ignore[arg-type]


class Stopping(petl.Callback):
    def __init__(self, method: str):
        setattr(self, method, lambda run, *_: run.stop())


@pytest.mark.deep
def test_stop_ends_after_this_update_or_epoch(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    for method, epochs, updates in (("on_fit_begin", 0, 0), ("on_batch_end", 1, 1), ("on_epoch_end", 1, 3)):
        calls: list[Any] = []
        callbacks = [Stopping(method), Noting(calls)]
        history = fit(adapted(), pairs(24), pairs(6), epochs=3, out=out, callbacks=callbacks, **OPTIONS)
        assert history.stopped and len(history) == epochs and calls[-1][0] == "end" and calls[-1][2] == updates
    model, folder = adapted(), tmp_path / "run"
    fit(model, pairs(24), epochs=2, checkpoint=folder, callbacks=Stopping("on_epoch_end"), **OPTIONS)
    assert len(fit(model, pairs(24), epochs=2, checkpoint=folder, resume=True, **OPTIONS)) == 2  # it may go on


class Measuring(petl.Callback):
    """Measures the model after each update."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self, run: petl.Training, loss: float) -> None:
        self.losses.append(petl.evaluate(run.model, pairs(6, seed=1), progress=False).loss)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("methods", "name"), [("partial", "test_vit"), ("probe", "test_resnet")])
def test_a_callback_may_run_the_model(methods: str, name: str) -> None:
    """Also where what trains runs on cached features, and the layers below are skipped in each step."""
    model, plain, measuring = adapted(methods, name), adapted(methods, name), Measuring()
    history = fit(model, pairs(16), epochs=2, callbacks=measuring, cache=True, **OPTIONS)
    fit(plain, pairs(16), epochs=2, cache=True, **OPTIONS)
    assert "computed once" in history.features and equal(state(model), state(plain))
    assert measuring.losses[-1] == petl.evaluate(model, pairs(6, seed=1), progress=False).loss
    assert len({*measuring.losses}) > 2


class Misspelt(petl.Callback):
    def on_batch_ends(self, run: petl.Training, loss: float) -> None: ...


class Short:
    def on_batch_end(self, run: petl.Training) -> None: ...


BAD: list[Any] = [
    (Noting, "expected an object, not its class: Noting()"),
    (Misspelt(), "Misspelt.on_batch_ends would never be called; near names: on_batch_end"),
    ([petl.Callback(), Short()], r"Short.on_batch_end can't be called .*expected on_batch_end\(self, run"),
    (object(), "object has none of on_fit_begin, on_batch_end"),
    (lambda row: None, "a function of each epoch's row is on_epoch="),
]


@pytest.mark.parametrize(("callbacks", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_what_cannot_be_called_is_one_clear_error(callbacks: Any, message: str) -> None:
    with pytest.raises(PetlError, match=message):
        fit(adapted("probe"), pairs(8), epochs=1, callbacks=callbacks, **OPTIONS)


def test_a_ready_optimizer_that_leaves_something_out_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = adapted()
    parameters = petl.trainable(model)
    left = sorted(parameters)[0]
    optimizer = torch.optim.SGD([p for name, p in parameters.items() if name != left], lr=0.1)
    with caplog.at_level(logging.WARNING):
        fit(model, pairs(8), epochs=1, optimizer=optimizer, batch_size=8, progress=False)
    assert f"optimizer=SGD doesn't have {left}" in caplog.text

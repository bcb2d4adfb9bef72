"""Trackers: a real TensorBoard file read back, a tracker of one's own, and those that are missing or fail."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from petl.errors import PetlError
from petl.training.fit import fit
from petl.training.tracker_choice import as_trackers
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
OPTIONS: dict[str, Any] = {"lr": 1e-2, "batch_size": 8, "progress": False}


class Diary(GeneralTracker):
    name, requires_logging_directory = "diary", False

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.finished, self.fails_at = 0, fails_at

    @property
    def tracker(self) -> Any:
        return self.lines

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if step == self.fails_at:
            raise ConnectionError("no answer")
        self.lines.append((step or 0, values))

    def finish(self) -> None:
        self.finished += 1


def test_tensorboard_has_updates_and_epochs(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"log": "tensorboard", "log_dir": tmp_path / "runs", "out": tmp_path / "pets.safetensors"}
    history = fit(adapted("probe"), pairs(16), pairs(6), epochs=2, **options, **OPTIONS)
    events = EventAccumulator(str(tmp_path / "runs" / "pets")).Reload()
    assert {"update/loss", "update/lr", "epoch/accuracy", "epoch/loss", "epoch/train_loss"} <= {
        *events.Tags()["scalars"]
    }
    assert [event.step for event in events.Scalars("update/loss")] == [1, 2, 3, 4]
    found = [(event.step, event.value) for event in events.Scalars("epoch/train_loss")]
    assert found == [(2 * row["epoch"], pytest.approx(row["train_loss"], rel=1e-6)) for row in history.rows]
    assert events.Scalars("update/lr")[1].value == pytest.approx(history.rows[0]["lr"])


def test_a_tracker_of_ones_own() -> None:
    diary = Diary()
    history = fit(adapted("probe"), pairs(24), epochs=2, log=[diary], log_every=2, mixup=0.1, **OPTIONS)
    assert diary.config["mixup"] == 0.1 and diary.config["model"] == "ResNet" and diary.config["batch_size"] == 8
    assert all(isinstance(value, (bool, int, float, str)) for value in diary.config.values())
    assert "0x" not in str(diary.config)
    steps = [step for step, values in diary.lines if "update/loss" in values]
    rows = [values for _, values in diary.lines if "epoch/train_loss" in values]
    assert steps == [2, 4, 6] and [row["epoch/train_loss"] for row in rows] == [r["train_loss"] for r in history.rows]
    assert diary.finished == 1


def test_a_tracker_is_finished_after_an_error_too() -> None:
    diary = Diary()

    def stop(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(adapted("probe"), pairs(8), epochs=2, log=diary, on_epoch=stop, **OPTIONS)
    assert diary.finished == 1 and len(diary.lines) == 2


def test_a_tracker_that_fails_ends_no_training(caplog: pytest.LogCaptureFixture) -> None:
    failing, whole = Diary(fails_at=2), Diary()
    with caplog.at_level(logging.WARNING):
        history = fit(adapted("probe"), pairs(16), epochs=2, log=[failing, whole], **OPTIONS)
    assert len(history) == 2 and len(failing.lines) == 1 and len(whole.lines) == 6
    assert caplog.text.count("diary failed, and is told no more: no answer") == 1


class Broken(Diary):
    def start(self) -> None:
        raise RuntimeError("not logged in")


def test_accelerate_s_names_are_names_too() -> None:
    assert as_trackers(LoggerType.TENSORBOARD) == as_trackers("tensorboard") == ["tensorboard"]


@pytest.mark.deep
def test_trackers_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    bad: list[tuple[Any, str]] = [
        ("wandb", "needs the package wandb; pip install wandb"),
        (["tensorboard", "comet_ml"], "needs the package tensorboard"),
        ("comet_ml", "pip install comet-ml"),
        ("tensorbord", "near names: tensorboard"),
        ("all", "no tracker is installed"),
        (Diary, "expected a tracker object, not its class"),
        (5, "expected a name such as 'tensorboard'"),
        (Broken(), "log=diary can't be started: not logged in"),
    ]
    for log, message in bad:
        model = adapted("probe")
        with pytest.raises(PetlError, match=message):
            fit(model, pairs(8), epochs=1, log=log, **OPTIONS)
        assert not {"forward", "_is_accelerate_prepared"} & vars(model).keys()
    with pytest.raises(PetlError, match="log_every=0"):
        fit(adapted("probe"), pairs(8), epochs=1, log=Diary(), log_every=0, **OPTIONS)

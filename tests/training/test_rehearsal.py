"""What a training makes is tried before it: paths, labels, settings, disks; and no epoch is lost afterwards."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import petl
from petl.errors import DataError, PetlError, StateError
from tests.support.disk import small_files
from tests.support.training import LOOKS, adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

X = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, torch.arange(8) % 3)


class Watched(Dataset):
    """Counts what is read, and may change the model after so many images."""

    def __init__(self, after: int = 10**9, then: Any = None):
        self.read, self.after, self.then = 0, after, then

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read += 1
        if self.read > self.after:
            self.then()
        return DATA[index]


def fit(model: nn.Module, data: Any = DATA, val: Any = None, **options: Any) -> Any:
    return petl.fit(model, data, val, **{"epochs": 2, "lr": 1e-3, "batch_size": 8, "progress": False, **options})


# Before


@pytest.mark.parametrize("name", ["no/such/x", ".", "folder", "folder/", "x" * 260, "a\0b", "file/x", "pipe"])
def test_paths_that_cannot_be_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("mine")
    os.mkfifo("pipe")
    data, before = Watched(), sorted(tmp_path.rglob("*"))
    with pytest.raises(PetlError, match="out="):
        fit(adapted(), data, out=name)
    assert data.read <= LOOKS
    assert sorted(tmp_path.rglob("*")) == before
    if name not in ("no/such/x", ".", "folder", "folder/"):
        with pytest.raises(PetlError, match="checkpoint="):
            fit(adapted(), data, checkpoint=name)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "labels", [{"a", "b", "c"}, "abc", [1.5, 2.5, 3.5], [None] * 3, 5, {"a": 0, "b": 1, "c": 2}, ["a", "b"]]
)
def test_labels_that_are_none(labels: Any, tmp_path: Path) -> None:
    data, model = Watched(), adapted()
    with pytest.raises(PetlError, match="label"):
        fit(model, data, labels=labels, out=tmp_path / "d.safetensors")
    with pytest.raises(PetlError, match="label"):
        petl.evaluate(model, DATA, labels=labels)
    assert data.read <= LOOKS
    assert not [*tmp_path.iterdir()]


def test_whole_numbers_are_names(tmp_path: Path) -> None:
    model = adapted()
    fit(model, labels=[7, 8, 9], out=tmp_path / "d.safetensors")
    assert petl.read(tmp_path / "d.safetensors")["labels"] == ["7", "8", "9"]


def test_a_full_disk_is_found_before_the_training(tmp_path: Path) -> None:
    data = Watched()
    with (
        small_files(2000),
        pytest.raises(PetlError, match="out=.*couldn't be written after the training, so it doesn't begin"),
    ):
        fit(adapted(), data, out=tmp_path / "d.safetensors")
    assert data.read <= LOOKS
    assert not [*tmp_path.iterdir()]


def test_a_delta_that_is_there_stays_until_a_better_one(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    fit(adapted(), out=path)
    before = path.read_bytes()
    with pytest.raises(PetlError):
        fit(adapted(), out=path, labels={"a", "b", "c"})
    with pytest.raises(RuntimeError, match="stop"):
        fit(adapted(), Watched(LOOKS, lambda: exec("raise RuntimeError('stop')")), out=path)
    assert path.read_bytes() == before


# Settings

OUT_OF_RANGE: dict[str, list[Any]] = {
    "epochs": [0, -1, 2.5, True, "3", float("nan")],
    "minutes": [0, -1.0, float("inf"), "5", True],
    "lr": [0, -1e-3, float("inf"), float("nan"), "1e-3", "", "x", "x-1", "xinf", "best", True],
    "batch_size": [0, 1.5, None],
    "optimizer": [None, 5, ""],
    "weight_decay": [-0.1, float("nan"), float("inf"), None],
    "layer_decay": [0, -0.5, 1.5, "", "gradient", True],
    "schedule": [5, ""],
    "warmup_epochs": [-1, 3, float("nan"), "1"],
    "min_lr": [-1e-5, 1e-2, float("nan")],
    "accumulate": [0, -1, 1.5],
    "clip": [0, -1, float("nan"), "1"],
    "label_smoothing": [-0.1, 1, 1.5, float("nan")],
    "mixup": [-1, float("nan"), float("inf"), "0.2", None],
    "cutmix": [-1, float("nan"), float("inf")],
    "class_weights": [[-1, 1, 1], [0, 0, 0], [float("nan"), 1, 1], [float("inf"), 1, 1], {"a": 1}, 3, [[1, 1, 1]]],
    "ema": [2, 1, -0.1, float("nan"), "0.9", True],
    "monitor": ["", 5, "acc"],
    "patience": [0, -1, 1.5],
    "keep": [None, True, "first"],
    "resume": [None, 5, ""],
    "views": [-1, 1.5, True],
    "cache": [5, "", 0],
    "cache_limit": [0, -1, float("nan"), float("inf"), None],
    "seed": [-1, 1.5, None],
    "workers": [-1, 1.5, None],
    "precision": ["fp8", 16],
    "on_epoch": [5],
    "keys": ["ab", ("a",), (0, 1.5), 5],
}


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range(name: str) -> None:
    """One clear error that names the setting, before an image is read."""
    data, model = Watched(), adapted()
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(PetlError, match=name):
            fit(model, data, DATA, **{name: value})
    assert data.read <= LOOKS * len(OUT_OF_RANGE[name]) * (name == "class_weights")


@pytest.mark.parametrize(
    "wrong", [{"schedule": "cosin"}, {"optimizer": "adamv"}, {"resume": "nowhere"}, {"class_weights": "even"}]
)
def test_names_that_are_none_are_found_before_features_are_computed(wrong: dict[str, Any]) -> None:
    data, model = Watched(), petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3)
    with pytest.raises(PetlError, match=next(iter(wrong))):
        fit(model, data, cache=True, **wrong)
    assert data.read <= LOOKS


def test_settings_at_the_edge() -> None:
    import numpy as np

    edge: dict[str, Any] = {
        "ema": 0,
        "mixup": 0,
        "label_smoothing": 0,
        "layer_decay": 1,
        "weight_decay": 0,
        "min_lr": 0,
    }
    edge |= {"epochs": np.int64(1), "lr": np.float32(1e-3), "warmup_epochs": 1, "patience": 1}
    assert len(fit(adapted(), DATA, DATA, **edge)) == 1


# After the first epoch, and later


def spoil(model: nn.Module) -> Any:
    def change() -> None:
        with torch.no_grad():
            model.conv1[0].weight.add_(1.0)  # type: ignore[index]

    return change


@pytest.mark.parametrize("asked", [True, False])
def test_a_delta_that_cannot_be_saved_is_told_after_the_first_epoch(asked: bool, tmp_path: Path) -> None:
    """Something frozen moves; with a delta asked for or not."""
    model, rows = adapted(), []
    data = Watched(4, spoil(model))
    with pytest.raises(StateError, match="conv1.0.weight"):
        fit(model, data, epochs=9, on_epoch=rows.append, **({"out": tmp_path / "d.safetensors"} if asked else {}))
    assert data.read <= LOOKS + 8
    assert not rows


def test_a_disk_that_fills_up_loses_no_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best delta so far stays, this epoch's goes elsewhere, and the checkpoint is written."""
    import petl.training.rehearsal as rehearsal

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path, real = tmp_path / "d.safetensors", rehearsal.save

    def full(model: nn.Module, to: Any, **options: Any) -> Path:
        if Path(to) == path and options["results"]["epoch"] == 2:
            raise StateError("No space left on device")
        return real(model, to, **options)

    monkeypatch.setattr(rehearsal, "save", full)
    with pytest.raises(StateError, match="No space left on device; the delta is in .*d.safetensors instead") as error:
        fit(adapted(), epochs=5, out=path, checkpoint=tmp_path / "runs")
    assert petl.read(path)["results"]["epoch"] == 1
    place = str(error.value).partition("the delta is in ")[2].removesuffix(" instead")
    assert petl.read(place)["results"]["epoch"] == 2
    assert [epoch.name for epoch in (tmp_path / "runs").iterdir()] == ["epoch-0002"]


def test_a_validation_that_fails_leaves_the_epoch(tmp_path: Path) -> None:
    class Broken(Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return X[index], 7 * (index == 3)

    with pytest.raises(DataError, match="label 7"):
        fit(adapted(), DATA, Broken(), out=tmp_path / "d.safetensors")
    assert petl.read(tmp_path / "d.safetensors")["results"]["epoch"] == 1


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    def fill(row: dict[str, Any]) -> None:
        stack.enter_context(small_files(3000))

    with (
        contextlib.ExitStack() as stack,
        pytest.raises(StateError, match="0002 can't be written.*0001 is the last one"),
    ):
        fit(adapted(), epochs=3, checkpoint=tmp_path, on_epoch=fill)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0001"]
    assert len(fit(adapted(), epochs=3, checkpoint=tmp_path, resume=True)) == 3


@pytest.mark.deep
def test_damaged_checkpoints_leave_the_model(tmp_path: Path) -> None:
    model = adapted()
    fit(adapted(), epochs=1, checkpoint=tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    files = [
        path for path in sorted((tmp_path / "epoch-0001").iterdir()) if "random" not in path.name
    ]  # set anew in each epoch
    assert len(files) == 3
    for file in files:
        good = file.read_bytes()
        for bad in (b"", good[: len(good) // 2], b"\x80\x04\x95junk"):
            file.write_bytes(bad)
            with pytest.raises(StateError, match=r"epoch-0001 can't be read .*resume=False"):
                fit(model, checkpoint=tmp_path, resume=True)
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        file.write_bytes(good)
    assert len(fit(model, checkpoint=tmp_path, resume=True)) == 2


def test_only_checkpoints_are_replaced(tmp_path: Path) -> None:
    for name in ("epoch-0007", "epoch-notes", "epoch-0001.bak"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years")
    (tmp_path / "epoch-0009").write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    fit(adapted(), epochs=2, checkpoint=tmp_path)
    assert {*tmp_path.iterdir()} == {path for path in before if path.parent == tmp_path} | {tmp_path / "epoch-0002"}
    assert {*before} <= {*tmp_path.rglob("*")}
    (tmp_path / "epoch-0003").mkdir()
    (tmp_path / "epoch-0003" / "mine.txt").write_text("mine")
    with pytest.raises(StateError, match="epoch-0003 can't be written.*epoch-0002 is the last one"):
        fit(adapted(), epochs=3, checkpoint=tmp_path, resume=True)
    assert (tmp_path / "epoch-0003" / "mine.txt").exists()

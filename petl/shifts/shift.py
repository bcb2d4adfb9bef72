"""`shift` tells what has changed in new images: their classes' frequencies, their appearance, or what labels mean."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from petl.data.inputs import Data
from petl.data.samples import refuse_sample
from petl.errors import PetlError
from petl.measures.label_shift import fitted_scaling
from petl.measures.mmd import PERMUTATIONS
from petl.shifts.believed_mix import believed_frequencies
from petl.shifts.class_mix import BETTER_THAN_CHANCE
from petl.shifts.concept import concept, labels_needed
from petl.shifts.places import block_shifts, extreme_images
from petl.shifts.readings import Read, read_sides
from petl.shifts.shift_findings import Correction, Shift
from petl.shifts.sides import Sides
from petl.shifts.told_apart import TESTS, ToldApart, tell_apart
from petl.wrapping.lookup import record

FEWEST_OF_A_SIDE = 20
LEAST_LEVEL = TESTS / (1 + PERMUTATIONS)  # at lower ones nothing could ever be found
MOST_OF_A_SIDE = 5000  # a side: the kernel table has (2 x 5000)^2 numbers


def shift(
    model: nn.Module,
    source: Data,
    target: Data,
    *,
    images: int = 1000,
    level: float = 0.05,
    seed: int = 0,
    split: str | None = None,
    seen: bool | None = None,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    cache: Any = None,
    progress: bool = True,
) -> Shift:
    """Tells what differs between labelled source images and new ones: class frequencies, appearance, both, or nothing.

    Three tests on the features decide, at one level together; docs/shift.md says how and how well. The model and the states of
    random generators stay as they are, and equal calls give equal results.

    Args:
        model: Any model of images, wrapped or not. With a classifier for the source's classes, the result has what
            `petl.correct` needs.
        source: Labelled images like those of the training: a folder or table (its own ``val`` or ``test`` where it has one), a
            pair (train, val), of which val is read, a Dataset, a loader.
        target: The new images, with labels or without: also a folder of images alone, a list of files, a tensor. Labels, where
            there are any, have to be of the source's classes.
        images: At most so many of each side, as `petl.data.sample` chooses them; 20 to 5000.
        level: How often something is found where nothing differs, at most; 0.006 or more.
        split: The part of a source folder or table to read.
        seen: Whether the model has learned from the source images. None: not, where they are its own val or test part or a split
            that was named, else yes. From images that it has learned from, a classifier's scores say nothing: a second one in
            closed form takes its place, each image judged without it. Images that it hasn't seen are better.
        strict, cache: As for `petl.features`.

    Raises:
        DataError: the source has no labels or fewer than four images of a class; the target has fewer than 20 images, or classes
            that the source lacks; the model can't take the images. PetlError: a setting that can't be.

    >>> import petl, timm, torch
    >>> drawn = torch.Generator().manual_seed(0)
    >>> images = torch.randn(40, 3, 64, 64, generator=drawn) + (torch.arange(40) % 2).view(-1, 1, 1, 1)
    >>> source = torch.utils.data.TensorDataset(images, torch.arange(40) % 2)
    >>> petl.shift(timm.create_model("test_vit"), source, images.flip(0), progress=False).verdict
    'none'
    """
    _refuse_settings(images, level, seed)
    options = {"batch_size": batch_size, "workers": workers, "strict": strict, "cache": cache, "progress": progress}
    read = read_sides(model, source, target, split=split, seen=seen, images=images, seed=seed, **options)
    found = tell_apart(read.sides, level=level, seed=seed)
    return _findings(model, read, found, level, seed)


def _findings(model: nn.Module, read: Read, found: ToldApart, level: float, seed: int) -> Shift:
    sides, correction = read.sides, _correction(read.sides, found)
    first, last = extreme_images(read.target, found.likeness[len(sides.x) :], read.target.files)
    right = float((sides.scores.argmax(1) == sides.y).double().mean())
    tests = {key: getattr(found, key) for key in ("verdict", "features", "matched", "separation", "mix", "mix_refused")}
    return Shift(
        **tests,
        level=level,
        model=read.source.model,
        classes=sides.classes,
        source_images=len(sides.x),
        target_images=len(sides.z),
        source_accuracy=right,
        scores_by="the model's classifier" if sides.own else "a classifier in closed form, each source image left out",
        concept=concept(sides, level=level, seed=seed),
        labels_needed=labels_needed(right),
        correction=None if isinstance(correction, str) else correction,
        correction_refused=correction if isinstance(correction, str) else None,
        blocks=block_shifts(read.source.blocks, read.target.blocks, found.expected, seed=seed),
        target_like=first,
        source_like=last,
        in_both=_in_both(sides),
        notes=_notes(model, read),
    )


def _correction(sides: Sides, found: ToldApart) -> Correction | str:
    """Returns what fits the model's own classifier to the new frequencies, or why nothing does.

    Where its scores of the source can't be used, as it has learned from those images, they are calibrated on target images: for
    the probabilities of the second classifier, which is as new to them.
    """
    if found.mix is None or found.scores is None:
        return found.mix_refused or (
            f"the classifier is right less than {BETTER_THAN_CHANCE:g} times as often as chance, so its scores can't be corrected"
        )
    if sides.own_scores is None:
        return "the model has no classifier for these classes; wrap it with num_classes= and train it, then call petl.shift"
    scaling = found.scores.scaling if sides.own else fitted_scaling(sides.own_scores, found.scores.target)
    prior, target = found.scores.prior, torch.tensor(found.mix.target, dtype=torch.float64)
    target = believed_frequencies(prior, target, found.mix.believed, len(sides.z))
    return Correction(prior.tolist(), target.tolist(), scaling.scale, scaling.bias.tolist())


def _in_both(sides: Sides) -> int:
    known = {row.numpy().tobytes() for row in sides.x}
    return sum(row.numpy().tobytes() in known for row in sides.z)


def _notes(model: nn.Module, read: Read) -> list[str]:
    wrapped, notes = record(model), []
    if wrapped is not None and wrapped.correction is not None:
        notes.append(
            "The model's classifier is corrected: its scores count here as before that, and petl.correct replaces the correction."
        )
    if read.seen and wrapped is not None and any(len(names) > 0 for names in wrapped.sites):
        notes.append(
            "The model was trained beyond its classifier, and may have learned from these source images: what it remembers of "
            "them looks like a shift. Give images that it hasn't seen: source=(train, val), split=, or seen=False."
        )
    return notes


def _refuse_settings(images: Any, level: Any, seed: Any) -> None:
    refuse_sample(images, seed)
    if not FEWEST_OF_A_SIDE <= images <= MOST_OF_A_SIDE:
        raise PetlError(f"images={images}; expected {FEWEST_OF_A_SIDE} to {MOST_OF_A_SIDE} of each side")
    number = isinstance(level, (int, float)) and not isinstance(level, bool) and math.isfinite(level)
    if not number or not LEAST_LEVEL <= level < 0.5:
        raise PetlError(
            f"level={level!r}; expected a number from {LEAST_LEVEL:.3f} to below 0.5, such as 0.05 (three tests share it, and "
            f"{PERMUTATIONS} permutations show no p-value below {1 / (1 + PERMUTATIONS):.3f})"
        )

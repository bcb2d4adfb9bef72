"""Facts about the images, and about new ones, gathered from files, labels and features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from petl.advice.distance import profile_between
from petl.advice.duplicates import Duplicates, PartPictures, find_duplicates
from petl.advice.file_facts import FileFacts, file_facts
from petl.advice.measuring import MeasuredParts
from petl.advice.opened import ImagePart, Opened
from petl.advice.result import Facts, NewImages
from petl.advice.single_images import part_files, picture_name
from petl.data.class_labels import dataset_classes
from petl.data.grouping import every_target
from petl.data.unlabelled import ONLY_CLASS
from petl.errors import DataError
from petl.extraction.feature_set import Features
from petl.measures.norm_gap import feature_gap

GAP_DRAWS = 5  # of training images beside which a gap is judged


def facts_of(found: Opened, read: MeasuredParts) -> Facts:
    """Returns the facts about the images of all parts."""
    files: dict[str, FileFacts] = {}
    pictures: dict[str, PartPictures] = {}
    for name, part in found.parts.items():
        files[name], prints = file_facts(part)
        pictures[name] = _pictures(part, read.features[name], prints)
    own = found.parts.get("own split")
    per_class = _per_class(pictures["train"], read.train)
    there = [count for count in per_class.values() if count]
    train = len(found.parts["train"].dataset)
    unreadable = {**read.train.unreadable, **files["train"].unreadable}
    return Facts(
        train,
        len(read.train),
        len(own.dataset) if own else 0,
        len(there),
        per_class,
        float(np.median(there)),
        max(there) / min(there),
        found.channels,
        found.expected,
        _with_unreadable(files["train"], unreadable),
        files["own split"].unreadable if own else {},
        find_duplicates(pictures),
    )


def _with_unreadable(facts: FileFacts, unreadable: dict[str, str]) -> FileFacts:
    return FileFacts(facts.files, facts.width, facts.height, facts.bits, facts.channels, facts.transparent, unreadable)


def _per_class(pictures: PartPictures, read: Features) -> dict[str, int]:
    """Returns how many images of the whole part each class has, in the order of the classes that were read."""
    counts = dict.fromkeys(read.per_class, 0)
    for label in pictures.labels:
        if label is not None:
            counts[label] = counts.get(label, 0) + 1
    return counts


def _pictures(part: ImagePart, read: Features, prints: list[str | None]) -> PartPictures:
    files = part_files(part.dataset)
    names = files or [picture_name(part.dataset, index) for index in range(len(part.dataset))]
    rows, labels = part.rows, _labels(part, read.classes)
    assert read.inputs is not None  # asked for
    if len(read) != len(rows):  # some of the sample couldn't be read after all
        if read.files is None:
            return PartPictures(part, names, labels, prints, [], read.x[:0], read.inputs[:0])
        places = {name: row for row, name in enumerate(names)}
        rows = [places[name] for name in read.files]
    return PartPictures(part, names, labels, prints, rows, read.x, read.inputs)


def _labels(part: ImagePart, known: list[str]) -> list[str | None]:
    """Returns the name of each image's class, in ``known`` where the dataset has no names; None for images without labels."""
    classes = dataset_classes(part.dataset) or known
    try:
        targets = every_target(part.dataset)
    except DataError:  # images alone
        return [None] * len(part.dataset)
    if targets.dtype.kind != "i" or targets.ndim != 1 or classes == [ONLY_CLASS]:
        return [None] * len(part.dataset)
    return [classes[number] if classes and 0 <= number < len(classes) else str(number) for number in targets.tolist()]


def new_facts(found: Opened, read: MeasuredParts, duplicates: Duplicates) -> NewImages:
    """Returns what the new images are like beside the training images."""
    part, new, train = found.parts["new"], read.features["new"], read.train
    usual = _usual_gap(train.x, len(new))
    between = profile_between(read.moments.get("new", {}), read.moments.get("train", {}), found.model)
    unreadable = {**part.unreadable, **new.unreadable}
    gap = feature_gap(new.x, train.x)
    return NewImages(len(part.dataset), len(new), duplicates.new or 0, between, gap, usual, unreadable)


def _usual_gap(x: Tensor, count: int) -> float:
    """Returns the mean gap between so many of the training images (at most half of them) and the others, in a few draws."""
    draws, generator = [], torch.Generator().manual_seed(0)
    for _ in range(GAP_DRAWS):
        order = torch.randperm(len(x), generator=generator)
        part = min(count, len(x) // 2)
        draws.append(feature_gap(x[order[:part]], x[order[part:]]))
    return sum(draws) / len(draws)

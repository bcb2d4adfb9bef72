"""Reads both sides of `petl.shift`: features of the images, their classes, and scores of a classifier that is new to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.own_parts import own_parts
from petl.data.pipelines import pipeline
from petl.data.split_folders import held_out
from petl.data.table_sources import is_image_table
from petl.errors import DataError, PetlError, SiteError, listing
from petl.extraction.classifier_inputs import classifier_modules
from petl.extraction.feature_set import Features
from petl.extraction.features import features
from petl.graft.kinds import grafts
from petl.heads.closed_form import fitted_head
from petl.measures.enough_labels import refuse_few_labels
from petl.shifts.sides import Sides
from petl.wrapping.eval_mode import in_eval
from petl.wrapping.lookup import bare, record

FEWEST_TARGET = 20  # images
NO_SOFTMAX = ("multilabel", "regression", "metric")  # tasks whose outputs aren't scores of one class for each image
PROBED = 8  # images whose scores are computed twice, to see that the classifier is what returns them


@dataclass(frozen=True)
class Read:
    """Both sides as tensors, with the features they are of, and whether the model has learned from the source's images."""

    sides: Sides
    source: Features
    target: Features
    seen: bool


def read_sides(
    model: nn.Module, source: Any, target: Any, *, split: str | None, seen: bool | None, **options: Any
) -> Read:
    """Returns both sides; ``options`` are for `petl.features`.

    Raises:
        DataError: no labels or too few of them in the source, too few target images, other classes, or other channels.
    """
    source, split, own_split = _part(model, source, split)
    one = features(model, source, split=split, blocks=True, **options)
    refuse_few_labels("shift", one.y, one.classes)
    y: Any = one.y
    names = [*one.classes] or [str(number) for number in range(int(y.max()) + 1)]
    try:
        two = features(model, target, labels=names, blocks=True, **options)
    except PetlError as error:
        raise type(error)(f"the target images: {error}") from error
    _refuse_target(one, two, names)
    learned = not own_split if seen is None else bool(seen)
    reads = (source, {"split": split}), (target, {"labels": names})
    own = _uncorrected(model, _own_scores(model, (one, two), reads, names, options))
    if own is not None and not learned:
        return Read(Sides(one.x, y, two.x, two.y, names, own[0], own[1], own[1], True), one, two, learned)
    head = fitted_head(one.x, y, len(names), "auto")
    scores = two.x.double() @ head.weight.T + head.bias
    return Read(Sides(one.x, y, two.x, two.y, names, head.left_out, scores, own and own[1]), one, two, learned)


def _part(model: nn.Module, source: Any, split: str | None) -> tuple[Any, str | None, bool]:
    """Returns the data and the split to read, and whether these are the source's own val or test images."""
    if isinstance(source, tuple) and len(source) == 2 and not all(isinstance(part, Tensor) for part in source):
        return own_parts(source, pipeline(model)).rest, None, True
    if split is not None:
        return source, split, split not in ("train", ".")
    if isinstance(source, str) or hasattr(source, "__fspath__") or is_image_table(source):
        apart = held_out(source)
        return source, apart, apart is not None
    return source, None, False


def _refuse_target(source: Features, target: Features, names: list[str]) -> None:
    if len(target) < FEWEST_TARGET:
        raise DataError(
            f"{len(target)} target images; shift needs {FEWEST_TARGET} or more to tell anything from chance"
        )
    y = target.y
    if y is not None and (y.is_floating_point() or y.ndim > 1):
        raise DataError("the target images have numbers or several labels; give one class for each, or images alone")
    if target.classes and y is not None and [*target.classes] != names:
        strange = [name for name in target.classes if name not in names]
        raise DataError(
            f"the target has classes that the source lacks: {listing(strange)}; the source's are {listing(names)}. Leave those "
            "images out, or give the target as a list of files, without labels"
        )
    if source.x.shape[1] != target.x.shape[1]:
        raise DataError(
            f"features of {source.x.shape[1]} and {target.x.shape[1]} numbers; both sides need images of one size"
        )


def _own_scores(
    model: nn.Module, found: tuple[Features, Features], reads: Any, names: list[str], options: Mapping[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """Returns the scores of both sides by the model's own classifier, or None where it has none of these classes."""
    wrapped = record(model)
    if wrapped is not None and wrapped.task in NO_SOFTMAX:
        return None
    if (wrapped is not None and wrapped.labels is not None and [*wrapped.labels] != names) or (
        wrapped is None and getattr(bare(model), "num_classes", len(names)) != len(names)
    ):
        return None
    classifier = classifier_modules(bare(model))
    if not classifier:
        return None
    layer = _linear_classifier(bare(model), classifier, found[0].x.shape[1])
    if layer is not None:
        probe = _outputs(model, reads[0], {**options, "images": PROBED})
        own = [_applied(layer, one.x) for one in found]
        if probe is not None and probe.shape[1] == own[0].shape[1] == len(names):
            near = torch.cdist(probe.double(), own[0].double()).min(1).values
            if float(near.max()) <= 1e-3 * float(probe.abs().max().clamp_min(1e-6)):
                return own[0], own[1]
    outputs = [_outputs(model, read, options) for read in reads]
    if outputs[0] is None or outputs[1] is None or outputs[0].shape[1] != len(names):
        return None
    return outputs[0], outputs[1]


def _uncorrected(model: nn.Module, scores: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """Returns the scores as they were before `petl.correct`, which takes its correction back before it writes another."""
    wrapped = record(model)
    if scores is None or wrapped is None or wrapped.correction is None:
        return scores
    offset = torch.tensor(wrapped.correction["offset"], dtype=torch.float64)
    return scores[0].double() - offset, scores[1].double() - offset


def _outputs(model: nn.Module, read: Any, options: Mapping[str, Any]) -> Tensor | None:
    try:
        return features(model, read[0], head=False, **read[1], **options).x
    except SiteError:  # its output is no vector of scores
        return None


def _linear_classifier(model: nn.Module, names: list[str], width: int) -> nn.Module | None:
    """Returns the classifier where it is one linear layer that can run by itself on vectors [N, width]."""
    layer = model.get_submodule(names[0]) if len(names) == 1 else None
    if any(graft.reads_beyond for _, graft in grafts(layer)) if layer is not None else True:
        return None
    if isinstance(layer, nn.Linear) and layer.in_features == width:
        return layer
    one_by_one = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return layer if one_by_one and layer.in_channels == width else None  # type: ignore[union-attr]  # it is a convolution


@torch.no_grad()
def _applied(layer: nn.Module, x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    with in_eval(layer):
        found = F.linear(x.to(weight.device, weight.dtype), weight.flatten(1), bias)  # type: ignore[arg-type, operator]
    return found.float().cpu()

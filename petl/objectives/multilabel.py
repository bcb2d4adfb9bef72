"""Several labels for each image: a binary cross-entropy for each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.loaders import Loader
from petl.data.logits import require_logits
from petl.data.pairs import Batch, images_and_targets
from petl.errors import DataError, PetlError, listing
from petl.objectives.aux_outputs import loss_of_outputs
from petl.objectives.multilabel_metrics import MULTILABEL_NAMES, MultilabelMetrics, multilabel_metrics
from petl.objectives.protocol import Objective, Setting, Task, refuse_choice
from petl.objectives.ranked_labels import best_thresholds
from petl.objectives.targets import all_targets, are_of_folders, unknown_note


@dataclass(frozen=True, kw_only=True)
class Multilabel(Task):
    """Any number of labels for each image: pass it as ``petl.fit(..., objective=petl.Multilabel())``, or "multilabel".

    Targets are [K] numbers for each image, 1 where the image has the label and 0 where it hasn't; NaN where that isn't known,
    which counts neither in the loss nor in the metrics. The model has one output for each label, a logit whose sigmoid is its
    probability.

    Args:
        pos_weight: weight of the positive images of each label: "balanced" (images without the label / images with it), one
            number for each label, or None.
        thresholds: probabilities from which on an image is said to have a label: "validation" chooses the best F1 for each
            label on the validation images, after every epoch, and writes it into the delta; one number for all, a list, or
            None for 0.5.
        absent: what to do about a label that no training image has: "error", or "keep".

    >>> Multilabel(pos_weight="balanced").task
    'multilabel'
    """

    name: ClassVar[str] = "multilabel"
    task: ClassVar[str | None] = "multilabel"
    metrics: ClassVar[tuple[str, ...]] = MULTILABEL_NAMES
    monitor: ClassVar[str] = "average_precision"
    advice: ClassVar[Mapping[str, str]] = {
        "class_weights": "; petl.Multilabel(pos_weight='balanced') weighs the positive images"
    }

    pos_weight: Any = None
    thresholds: Any = "validation"
    absent: str = "error"

    def __post_init__(self) -> None:
        refuse_choice("absent", self.absent, ("error", "keep"))
        if isinstance(self.pos_weight, str):
            refuse_choice("pos_weight", self.pos_weight, ("balanced",))
        elif self.pos_weight is not None:
            numbers("pos_weight", self.pos_weight, low=0.0)
        if isinstance(self.thresholds, str):
            refuse_choice("thresholds", self.thresholds, ("validation",))
        elif self.thresholds is not None:
            numbers("thresholds", self.thresholds, low=0.0, high=1.0)

    def refuse_kind(self, targets: Tensor, dataset: Any) -> None:
        if are_of_folders(targets, dataset):
            raise DataError(
                "the targets are class numbers of folders, one for each image; that is objective='classification'. For several "
                "labels pass a Dataset of (image, [0 or 1 for each label])"
            )

    def create(self, setting: Setting) -> Objective:
        return BinaryCrossEntropy(self, setting)


def numbers(name: str, value: Any, *, low: float, high: float = torch.inf, count: int | None = None) -> Tensor:
    """Returns one or more numbers as a float64 tensor [K] or [1]; a PetlError for what is none, or not between low and high."""
    try:
        found = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PetlError(f"{name}={value!r} ({error}); expected one number for each label") from error
    if not bool(((found > low) & (found < high)).all()) or not len(found):
        raise PetlError(
            f"{name}={value!r}; expected numbers above {low:g}{f' and below {high:g}' if high < torch.inf else ''}"
        )
    if count is not None and len(found) not in (1, count):
        raise PetlError(f"{name} has {len(found)} numbers for {count} labels; expected one for each")
    return found


class BinaryCrossEntropy:
    """The objective of a multi-label classification: targets are 0, 1 or NaN [N, K]."""

    notes: Sequence[str] = ()  # for the history

    def __init__(self, option: Multilabel, setting: Setting) -> None:
        self.option, self.aux, self.labels = option, setting.aux, setting.labels
        self.training = setting.losses is not None
        self.weight: Tensor | None = None
        self._seen: Tensor | None = None
        self.chosen = option.thresholds == "validation" and self.training
        given = (
            option.thresholds
            if not isinstance(option.thresholds, (str, type(None)))
            else setting.recorded.get("thresholds")
        )
        count = len(self.labels)
        if not isinstance(option.pos_weight, (str, type(None))):
            numbers("pos_weight", option.pos_weight, low=0.0, count=count)
        given = 0.5 if given is None or self.chosen else given
        self.thresholds = numbers("thresholds", given, low=0.0, high=1.0, count=count).expand(count).clone()

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        if not training:
            return
        targets = self._checked(all_targets(loader, nn.Identity()))
        self._seen, self.notes = targets, unknown_note(targets)
        varies = ((targets == 1).any(0)) & ((targets == 0).any(0))
        if not bool(varies.any()):
            raise DataError(
                "no label differs between the training images, so there is nothing to learn; expected 0s and 1s"
            )
        empty = [label for label, any_ in zip(self.labels, (targets == 1).any(0).tolist(), strict=True) if not any_]
        if empty and self.option.absent == "error":
            raise DataError(
                f"none of the {len(targets)} training images has the label {listing(empty)}, so it can't be learned; leave the "
                "label out, or keep it: objective=petl.Multilabel(absent='keep')"
            )

    def prepare(self, train: Loader, device: torch.device) -> None:
        wish = self.option.pos_weight
        if wish is None or not self.training:
            return
        if isinstance(wish, str):
            targets = self._seen if self._seen is not None else self._checked(all_targets(train, nn.Identity()))
            positive, negative = (targets == 1).sum(0), (targets == 0).sum(0)
            weight = torch.where(positive > 0, negative / positive.clamp(min=1), 1.0)
        else:
            weight = numbers("pos_weight", wish, low=0.0).expand(len(self.labels))
        self.weight, self._seen = weight.float().to(device), None

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        images, targets = images_and_targets(batch, model)
        return images, self._checked(targets)

    def _checked(self, targets: Tensor) -> Tensor:
        """Returns the targets as float32 [N, K], or raises a DataError."""
        count = len(self.labels)
        targets = targets[:, None] if targets.ndim == 1 and count == 1 else targets
        if targets.ndim != 2 or targets.shape[1] != count:
            kind = "class numbers" if targets.ndim == 1 and not targets.is_floating_point() else "targets"
            raise DataError(
                f"got {kind} of shape {tuple(targets.shape)}; expected 0 or 1 for each image and each of the {count} outputs, "
                f"[N, {count}]{'; for one class per image, objective=' + repr('classification') if kind != 'targets' else ''}"
            )
        targets = targets.float()
        wrong = ~(targets.isnan() | (targets == 0) | (targets == 1))
        if bool(wrong.any()):
            row, column = (int(index) for index in wrong.nonzero()[0])
            raise DataError(
                f"a target of label {self.labels[column]} is {float(targets[row, column]):g}; expected 1 or 0, or NaN where it "
                "isn't known"
            )
        return targets

    def is_read(self, targets: Tensor) -> Tensor:
        return ~targets.isnan().all(1)

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        known = ~targets.isnan()

        def criterion(scores: Tensor) -> Tensor:
            losses = F.binary_cross_entropy_with_logits(
                scores, targets.nan_to_num(0), pos_weight=self.weight, reduction="none"
            )
            return (losses * known).sum() / known.sum()

        return loss_of_outputs(net(images), self.aux, criterion)

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        scores, known = require_logits(output).float(), ~targets.isnan()
        losses = F.binary_cross_entropy_with_logits(scores, targets.nan_to_num(0), reduction="none")
        return (losses * known).sum(1) / known.sum(1).clamp(min=1), scores.sigmoid()

    def metrics(self, *columns: Tensor) -> MultilabelMetrics:
        losses, probabilities, targets = columns
        if self.chosen:
            self.thresholds = best_thresholds(probabilities, targets)
        return multilabel_metrics(losses, probabilities, targets, self.labels, self.thresholds, chosen_here=self.chosen)

    def described(self) -> Mapping[str, Sequence[float]]:
        """Returns what a delta's header says beside the task."""
        return {"thresholds": self.thresholds.tolist()}

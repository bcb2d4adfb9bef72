"""Computes the classifier in closed form, from the training images as the frozen model sees them, before the first update."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Subset

from petl import data as images
from petl.data.batches import Seeded
from petl.data.datasets import Images
from petl.data.loaders import Loader, on_device
from petl.data.wrappers import DatasetWrapper
from petl.errors import DataError, PetlError
from petl.extraction.feature_dataset import FeatureDataset, whole_batch
from petl.extraction.feature_source import FeatureSource
from petl.heads.feature_groups import grouped_head
from petl.heads.linear_head import LinearHead, calibrated
from petl.training.head_layers import ClassLayers
from petl.training.head_plan import HeadPlan
from petl.training.objectives import Objective
from petl.training.settings import Settings
from petl.wrapping.eval_mode import in_eval

HEAD_STARTED = "started from"  # how the history's line about a classifier begins that was computed and then trains


@dataclass(frozen=True)
class HeadStart:
    """A classifier that was computed and written into the model.

    ``line`` is for the history; ``row`` is the first half of the only epoch's row where the classifier is thereby finished.
    """

    line: str
    row: dict[str, Any] | None = None
    written: bool = False


@dataclass(frozen=True)
class HeadStarter:
    """Computes the classifier of a model that is about to train: ``layers`` on what ``net`` gives them."""

    accelerator: Any
    model: nn.Module
    plan: HeadPlan
    settings: Settings
    objective: Objective
    layers: ClassLayers

    def start(self, source: FeatureSource | None, loaders: tuple[Loader, Loader], progress: Any) -> HeadStart:
        """Computes the classifier and writes it: from training images, or from the features of them that ``source`` gave."""
        features, y = self._inputs(source, in_one_pass(loaders, self.settings), progress)
        try:
            head = self._solved(features, y)
        except ValueError as error:  # of features that aren't finite, or too few images
            raise DataError(f"the classifier can't be computed from these images: {error}") from error
        widths, count = [x.shape[1] for x in features], len(features)
        weights = [part * count for part in head.weight.split(widths, 1)]
        self._write(weights, [head.bias] * count)
        score = f"leave-one-out accuracy {head.accuracy(y):.3f} +- {head.error(y):.3f} on {len(y)} images"
        if not self.plan.alone:
            return HeadStart(f"{HEAD_STARTED} a classifier in closed form ({head.kind}): {score}", written=True)
        scores = sum((x.double() @ w.T for x, w in zip(features, weights, strict=True)), torch.zeros(())) / count
        row = {"epoch": 1, "train_loss": float(F.cross_entropy(scores + head.bias, y)), "lr": 0.0}
        row |= {"left_out_accuracy": head.accuracy(y), "left_out_error": head.error(y)}
        return HeadStart(f"the classifier was computed in closed form ({head.kind}): {score}", row)

    def _solved(self, features: Sequence[Tensor], y: Tensor) -> LinearHead:
        """Returns the calibrated head for all features side by side: the mean of what each layer's own features give."""
        classes = _outputs_of(self.layers)
        weights = image_weights(self.settings.loss.class_weights, y, classes)
        own = self.settings.loss.class_weights
        kind = "ridge" if own is not None and not isinstance(own, str) else self.plan.kind
        heads = [
            grouped_head(x, y, self.layers.widths(number, x.shape[1]), classes, kind=kind, weights=weights)
            for number, x in enumerate(features)
        ]
        if len(heads) == 1:
            return heads[0]
        count, kinds = len(heads), dict.fromkeys(head.kind for head in heads)
        mean = LinearHead(
            " and ".join(kinds),
            torch.cat([head.weight for head in heads], 1) / count,
            torch.stack([head.bias for head in heads]).mean(0),
            torch.stack([head.left_out for head in heads]).mean(0),
        )
        return calibrated(mean, y, weights)

    def _write(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        """Writes the classifier, the same one on all ranks."""
        from accelerate.utils import broadcast

        values = [*weights, *biases]
        if self.accelerator.num_processes > 1:
            values = [broadcast(value.float().to(self.accelerator.device)).cpu() for value in values]  # type: ignore[union-attr]  # of a tensor it is one
        self.layers.write(values[: len(weights)], values[len(weights) :])

    def _inputs(self, source: FeatureSource | None, loader: Any, progress: Any) -> tuple[list[Tensor], Tensor]:
        """Returns what each layer receives for all training images [N, D], and the class numbers [N]."""
        cached = source if isinstance(loader.dataset, FeatureDataset) else None
        net, skipping = (cached.net, cached.skipping()) if cached else (self.model, contextlib.nullcontext())
        rows: list[list[Tensor]] = []
        task = progress.add_task("classifier", total=len(loader) if hasattr(loader, "__len__") else None, note="")
        with torch.no_grad(), in_eval(self.model), in_eval(net), skipping:
            for batch in on_device(self.accelerator, loader):
                rows.append(self._batch_inputs(net, batch))
                progress.advance(task)
        progress.remove_task(task)
        if not rows:
            raise DataError("the training data gave no image; a loader has to start anew each time")
        *features, y = (torch.cat(column) for column in zip(*rows, strict=True))
        read = self.objective.is_read(y)
        return [x[read] for x in features], y[read]

    def _batch_inputs(self, net: nn.Module, batch: Any) -> list[Tensor]:
        """Returns what each layer receives for a batch, and the class numbers, of all ranks."""
        x, targets = self.objective.images_and_targets(batch, self.model)
        with self.layers.inputs() as received, self.accelerator.autocast():
            net(x)
        columns = self.accelerator.gather_for_metrics((*(calls[0] for calls in received), targets))
        return [column.cpu() for column in columns]


def in_one_pass(loaders: tuple[Loader, Loader], settings: Settings) -> Any:
    """Returns a loader of all training images in order, or of their features, without augmentation where petl augments.

    ``loaders`` are that of the images, and that which the training has: of features, or the same.
    """
    options: dict[str, Any] = {"batch_size": settings.run.batch_size, "workers": settings.run.workers}
    train: Any = loaders[0].dataset
    features: Any = loaders[1].dataset
    given: Any = train.dataset if isinstance(train, Seeded) else None
    plain = unaugmented(given)
    if isinstance(features, FeatureDataset) and plain is not None and plain is given:
        features.set_epoch(0)
        return DataLoader(features, settings.run.batch_size, collate_fn=whole_batch)
    return loaders[0] if plain is None else images.loader(plain, **options)


def as_evaluated(train: Loader, settings: Settings) -> Loader:
    """Returns the training loader with images as at evaluation, where petl itself augments them; else the same loader."""
    seeded: Any = train.dataset
    if not isinstance(seeded, Seeded) or (plain := unaugmented(seeded.dataset)) is seeded.dataset:
        return train
    options: dict[str, Any] = {"batch_size": settings.run.batch_size, "workers": settings.run.workers}
    return images.loader(plain, training=True, seed=settings.run.seed, **options)


def unaugmented(dataset: Any) -> Any:
    """Returns the dataset with petl's own images transformed as at evaluation; any other dataset as it is."""
    if type(dataset) is Images:
        return dataset.part(np.arange(len(dataset)), training=False) if dataset.training else dataset
    inner = "dataset" if isinstance(dataset, (DatasetWrapper, Subset)) else "datasets"
    if inner == "datasets" and not isinstance(dataset, ConcatDataset):
        return dataset
    before = getattr(dataset, inner)
    after = [unaugmented(part) for part in before] if inner == "datasets" else unaugmented(before)
    if after is before or (inner == "datasets" and all(a is b for a, b in zip(after, before, strict=True))):
        return dataset
    changed = copy.copy(dataset)
    setattr(changed, inner, after)
    return changed


def image_weights(wish: Any, y: Tensor, classes: int) -> Tensor | None:
    """Returns how much each image counts [N]: None, "balanced" (each class alike), or one number per class."""
    if wish is None:
        return None
    counts = torch.bincount(y, minlength=classes).double()
    per_class = 1 / counts.clamp_min(1) if isinstance(wish, str) else torch.as_tensor(wish, dtype=torch.float64).cpu()
    weights = per_class[y]
    if not float(weights.sum()):
        raise PetlError("class_weights are 0 for every class that has images; give at least two of them a weight")
    return weights


def _outputs_of(layers: ClassLayers) -> int:
    return len(layers.layers[0]._parameters["bias"])  # type: ignore[arg-type]  # plain layers have one

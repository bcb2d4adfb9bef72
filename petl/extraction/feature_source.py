"""Computes features: the inputs of the part of a model that trains, once for all images, to be trained on in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from petl.data.datasets import Images
from petl.data.first_image import one_image
from petl.data.loaders import Loader, on_device
from petl.data.logits import logits
from petl.data.pairs import Batch, are_bools, images_and_targets
from petl.data.wrappers import petl_datasets
from petl.extraction.dataset_fingerprint import dataset_fingerprint
from petl.extraction.feature_dataset import FeatureDataset, whole_batch
from petl.extraction.image_passes import image_count, in_order, user_dataset
from petl.extraction.randomness import may_change
from petl.extraction.skippable import changes_in_training
from petl.extraction.store import Store, tensor_bytes
from petl.extraction.tail import Tail, captured_inputs
from petl.wrapping.eval_mode import in_eval


@dataclass
class FeatureSource:
    """Computes the inputs of ``module``, a module of ``model``, for ``net`` to train on: that module itself, or a `Tail`."""

    accelerator: Any
    model: nn.Module
    module: nn.Module
    net: nn.Module
    store: Store | None = None
    about: dict[str, Any] = field(default_factory=dict)  # what the features depend on besides images, for a kept store
    per_image: int = 0  # bytes

    def train(self, loader: Loader, views: int, progress: Any) -> DataLoader[Batch]:
        """Returns the training features in the batches that ``loader`` would give; view e has the augmentation of epoch e."""
        seed = loader.sampler.seed if may_change(user_dataset(loader)) else None  # type: ignore[attr-defined]  # a Shuffle
        fixed = isinstance(self.net, Tail)  # a head may train on augmented views, a tail may not
        batches = [self._compute(in_order(loader, v, fixed), progress, view=v, seed=seed) for v in range(views)]
        features = FeatureDataset([inputs for inputs, _ in batches], batches[0][1])
        return DataLoader(features, batch_sampler=loader.batch_sampler, collate_fn=whole_batch)

    def val(self, loader: Loader, progress: Any) -> DataLoader[Batch]:
        """Returns the validation features in the batches that ``loader`` gives."""
        inputs, targets = self._compute(loader, progress)
        return DataLoader(FeatureDataset([inputs], targets), loader.batch_size or 64, collate_fn=whole_batch)

    @property
    def name(self) -> str:
        """Returns the name of the module from which on ``net`` trains."""
        return next(name for name, module in self.model.named_modules() if module is self.module)

    def describe(self, count: int) -> str:
        """Returns the line for the history: from which module on ``net`` trained, on how many images, and where features are."""
        place = self.store.describe() if self.store else "in memory"
        return f"trained from {self.name} on, on features that were computed once: {count} images, {place}"

    def skipping(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context inside of which ``net`` can run and be trained."""
        return self.net.skipping() if isinstance(self.net, Tail) else contextlib.nullcontext()

    def release(self) -> None:
        """Lets the whole model run inside ``skipping``, until ``net`` does so again."""
        if isinstance(self.net, Tail):
            self.net.release()

    def close(self) -> None:
        """Removes the features from the disk, unless they are in a folder of the user's."""
        if self.store:
            self.store.close()

    def _compute(self, loader: Loader, progress: Any, **depends_on: Any) -> Batch:
        """Returns the module's inputs [N, ...] and the labels [N] for all images: in memory, or memory-mapped from the store."""
        count = image_count(loader)
        if self.store is None or count is None:
            features, targets = (torch.cat(part) for part in zip(*self._pass(loader, progress), strict=True))
            return features, targets
        about = {**self.about, **depends_on, "batch": loader.batch_size}
        if self.store.persistent:
            about["data"] = dataset_fingerprint(user_dataset(loader))
        parts, needed = self._pass(loader, progress), count * self.per_image
        batch = self.store.get_or_compute(
            about, count, parts, needed=needed, is_valid=lambda stored: self._still_gives(loader, stored)
        )
        if any(images.unreadable for images in petl_datasets(user_dataset(loader)) if isinstance(images, Images)):
            self.store.forget(about)  # another image took the place of one that may be readable next time
        return batch

    def _still_gives(self, loader: Loader, stored: Batch) -> bool:
        """Returns whether the model gives the stored features of the first image, up to rounding."""
        images, targets = images_and_targets(one_image(loader), self.model)
        now, then = self.inputs(images.to(self.accelerator.device))[0].cpu(), stored[0][:1]
        exact = self.accelerator.mixed_precision == "no" and now.dtype in (torch.float32, torch.float64)
        alike = now.shape == then.shape and now.dtype == then.dtype and _equal_targets(targets[:1].cpu(), stored[1][:1])
        return alike and bool((now - then).float().norm() <= (1e-2 if exact else 1e-1) * then.float().norm())

    def _pass(self, loader: Loader, progress: Any) -> Iterator[Batch]:
        """Yields inputs and labels on the CPU, batch by batch; of several processes, each computes its share and gets all."""
        prepared = on_device(self.accelerator, loader)
        task = progress.add_task("features", total=len(prepared) if hasattr(loader, "__len__") else None, note="")
        for batch in prepared:
            images, targets = images_and_targets(batch, self.model)
            if targets.ndim == 1 and are_bools(batch):
                targets = targets.bool()  # the objective says what these are: classes, or a label that is there or not
            inputs, targets = self.accelerator.gather_for_metrics((self.inputs(images)[0], targets))
            yield inputs.cpu(), targets.cpu()
            progress.advance(task)
        progress.remove_task(task)

    @torch.no_grad()
    def inputs(self, images: Tensor, training: bool = False) -> tuple[Tensor, Tensor | None]:
        """Returns the module's input and the model's logits; ``training`` is the mode of everything but the module."""
        with in_eval(self.model), captured_inputs(self.module) as captured, self.accelerator.autocast():
            self.model.train(training)
            self.module.eval()
            output = logits(self.model(images))
        return (captured[0] if len(captured) == 1 else torch.empty(0)), output

    def is_exact(self, images: Tensor) -> bool:
        """Whether, on these images, the module alone gives the model's logits, from the same input in training mode."""
        inputs, output = self.inputs(images)
        if not inputs.numel() or output is None or changes_in_training(self.model) - set(self.module.modules()):
            return False
        self.per_image = tensor_bytes(inputs) // len(images)
        with in_eval(self.module), torch.no_grad(), self.accelerator.autocast():
            repeated = logits(self.module(inputs))
        return (
            repeated is not None and _equal(repeated, output) and _equal(self.inputs(images, training=True)[0], inputs)
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def _equal_targets(one: Tensor, other: Tensor) -> bool:
    """Returns whether two targets are equal; numbers that aren't known (NaN) are equal too."""
    return one.shape == other.shape and torch.equal(one.double().nan_to_num(-1e300), other.double().nan_to_num(-1e300))

"""Training on features: what comes out of the frozen lower part is computed once, and the rest of the model trains on that."""

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
from petl.data.pairs import Batch, images_and_labels
from petl.data.wrappers import petl_datasets
from petl.extraction.dataset_fingerprint import dataset_fingerprint
from petl.extraction.feature_dataset import FeatureDataset, whole_batch
from petl.extraction.image_passes import image_count, in_order, user_dataset
from petl.extraction.randomness import may_change
from petl.extraction.skippable import changes_in_training
from petl.extraction.store import Store, tensor_bytes
from petl.extraction.tail import Tail, captured_inputs
from petl.wrapping.modes import in_eval


@dataclass
class FeatureSource:
    """Computes what goes into ``module`` of ``model``, batch after batch, for ``net`` to train on: the module or an Upper."""

    accelerator: Any
    model: nn.Module
    module: nn.Module
    net: nn.Module
    store: Store | None = None
    about: dict[str, Any] = field(default_factory=dict)  # what the values depend on, besides images; for a kept store
    per_image: int = 0  # bytes

    def train(self, loader: Loader, views: int, progress: Any) -> DataLoader[Batch]:
        """The training data, each view under the augmentation of its epoch, in the batches that ``loader`` would give."""
        seed = loader.sampler.seed if may_change(user_dataset(loader)) else None  # type: ignore[attr-defined]  # a Shuffle
        steady = isinstance(self.net, Tail)  # a head may train on augmented views, an upper part may not
        found = [self._once(in_order(loader, v, steady), progress, view=v, seed=seed) for v in range(views)]
        features = FeatureDataset([images for images, _ in found], found[0][1])
        return DataLoader(features, batch_sampler=loader.batch_sampler, collate_fn=whole_batch)

    def val(self, loader: Loader, progress: Any) -> DataLoader[Batch]:
        """The validation data, read once, in the batches that ``loader`` gives."""
        found, targets = self._once(loader, progress)
        return DataLoader(FeatureDataset([found], targets), loader.batch_size or 64, collate_fn=whole_batch)

    def word(self, count: int) -> str:
        """How the run was done, for its history."""
        name = next(name for name, module in self.model.named_modules() if module is self.module)
        place = self.store.word() if self.store else "in memory"
        return f"trained from {name} on, on features that were computed once: {count} images, {place}"

    def skipping(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, the net can run and be trained."""
        return self.net.skipping() if isinstance(self.net, Tail) else contextlib.nullcontext()

    def close(self) -> None:
        """Let go of what isn't kept."""
        if self.store:
            self.store.close()

    def _once(self, loader: Loader, progress: Any, **more: Any) -> Batch:
        """The module's inputs [N, ...] and the labels [N]: in memory, or from the store."""
        count = image_count(loader)
        if self.store is None or count is None:
            features, targets = (torch.cat(part) for part in zip(*self._pass(loader, progress), strict=True))
            return features, targets
        about = {**self.about, **more, "batch": loader.batch_size}
        if self.store.kept:
            about["data"] = dataset_fingerprint(user_dataset(loader))
        parts, needed = self._pass(loader, progress), count * self.per_image
        found = self.store.entry(about, count, parts, needed=needed, proof=lambda kept: self._gives(loader, kept))
        if any(origin.unreadable for origin in petl_datasets(user_dataset(loader)) if isinstance(origin, Images)):
            self.store.forget(about)  # another image took its place, and next time the file may be read
        return found

    def _gives(self, loader: Loader, kept: Batch) -> bool:
        """Whether the model still gives the kept features of the first image, up to rounding."""
        images, targets = images_and_labels(one_image(loader), self.model)
        now, then = self.inputs(images.to(self.accelerator.device))[0].cpu(), kept[0][:1]
        exact = self.accelerator.mixed_precision == "no" and now.dtype in (torch.float32, torch.float64)
        alike = now.shape == then.shape and now.dtype == then.dtype and int(targets[0]) == int(kept[1][0])
        return alike and bool((now - then).float().norm() <= (1e-2 if exact else 1e-1) * then.float().norm())

    def _pass(self, loader: Loader, progress: Any) -> Iterator[Batch]:
        """Inputs and labels on the CPU, batch by batch; under DDP each rank computes its share and gets all."""
        prepared = on_device(self.accelerator, loader)
        task = progress.add_task("features", total=len(prepared) if hasattr(loader, "__len__") else None, note="")
        for batch in prepared:
            images, targets = images_and_labels(batch, self.model)
            found, targets = self.accelerator.gather_for_metrics((self.inputs(images)[0], targets))
            yield found.cpu(), targets.cpu()
            progress.advance(task)
        progress.remove_task(task)

    @torch.no_grad()
    def inputs(self, images: Tensor, mode: bool = False) -> tuple[Tensor, Tensor | None]:
        """What went into the module, and the model's answer; ``mode`` is that of everything before the module."""
        with in_eval(self.model), captured_inputs(self.module) as seen, self.accelerator.autocast():
            self.model.train(mode)
            self.module.eval()
            answer = logits(self.model(images))
        return (seen[0] if len(seen) == 1 else torch.empty(0)), answer

    def proven(self, images: Tensor) -> bool:
        """On these images: one call of the head makes the answer, and training mode changes nothing that goes into it."""
        found, answer = self.inputs(images)
        if not found.numel() or answer is None or changes_in_training(self.model) - set(self.module.modules()):
            return False
        self.per_image = tensor_bytes(found) // len(images)
        with in_eval(self.module), torch.no_grad(), self.accelerator.autocast():
            repeated = logits(self.module(found))
        return repeated is not None and _equal(repeated, answer) and _equal(self.inputs(images, mode=True)[0], found)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())

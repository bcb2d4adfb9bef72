"""Training on features: what comes out of the frozen lower part is computed once, and the rest of the model trains on that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from petl.data.batches import Marked, Seeded, Shuffle
from petl.data.datasets import Images
from petl.data.inputs import Batch, pair, sample
from petl.data.loaders import Batches, Loader, on_device
from petl.data.logits import logits
from petl.data.origins import origins
from petl.extraction.cut_points import restless
from petl.extraction.dataset_identity import Watched, contents, unsteady
from petl.extraction.store import Store, size
from petl.extraction.tail import Upper, tapped
from petl.wrapping.eval_mode import in_eval


class Features(Dataset[Batch]):
    """The inputs of a net, one [N, ...] per view, and the labels [N]. In epoch e, view e modulo views is the dataset."""

    def __init__(self, views: Sequence[Tensor], targets: Tensor):
        self.views, self.targets, self.view = views, targets, 0

    def __len__(self) -> int:
        return len(self.targets)

    def set_epoch(self, epoch: int) -> None:
        self.view = epoch % len(self.views)

    def __getitem__(self, key: Any) -> Batch:
        index = key[0] if isinstance(key, tuple) else key
        return self.views[self.view][index], self.targets[index]

    def __getitems__(self, keys: Sequence[Any]) -> Batch:
        """A whole batch in one go; the keys may be a Shuffle's (index, seed)."""
        return self[[key[0] if isinstance(key, tuple) else key for key in keys]]


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass
class Road:
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
        seed = loader.sampler.seed if unsteady(dataset_of(loader)) else None  # type: ignore[attr-defined]  # a Shuffle
        steady = isinstance(self.net, Upper)  # a head may train on augmented views, an upper part may not
        found = [self._once(_in_order(loader, v, steady), progress, view=v, seed=seed) for v in range(views)]
        features = Features([images for images, _ in found], found[0][1])
        return DataLoader(features, batch_sampler=loader.batch_sampler, collate_fn=_as_it_is)

    def val(self, loader: Loader, progress: Any) -> DataLoader[Batch]:
        """The validation data, read once, in the batches that ``loader`` gives."""
        found, targets = self._once(loader, progress)
        return DataLoader(Features([found], targets), loader.batch_size or 64, collate_fn=_as_it_is)

    def word(self, count: int) -> str:
        """How the run was done, for its history."""
        name = next(name for name, module in self.model.named_modules() if module is self.module)
        place = self.store.word() if self.store else "in memory"
        return f"trained from {name} on, on features that were computed once: {count} images, {place}"

    def skipping(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, the net can run and be trained."""
        return self.net.skipping() if isinstance(self.net, Upper) else contextlib.nullcontext()

    def close(self) -> None:
        """Let go of what isn't kept."""
        if self.store:
            self.store.close()

    def _once(self, loader: Loader, progress: Any, **more: Any) -> Batch:
        """The module's inputs [N, ...] and the labels [N]: in memory, or from the store."""
        count = count_of(loader)
        if self.store is None or count is None:
            features, targets = (torch.cat(part) for part in zip(*self._pass(loader, progress), strict=True))
            return features, targets
        about = {**self.about, **more, "batch": loader.batch_size}
        if self.store.kept:
            about["data"] = contents(dataset_of(loader))
        parts, needed = self._pass(loader, progress), count * self.per_image
        found = self.store.entry(about, count, parts, needed=needed, proof=lambda kept: self._gives(loader, kept))
        if any(origin.unreadable for origin in origins(dataset_of(loader)) if isinstance(origin, Images)):
            self.store.forget(about)  # another image took its place, and next time the file may be read
        return found

    def _gives(self, loader: Loader, kept: Batch) -> bool:
        """Whether the model still gives the kept features of the first image, up to rounding."""
        images, targets = pair(sample(loader), self.model)
        now, then = self.inputs(images.to(self.accelerator.device))[0].cpu(), kept[0][:1]
        exact = self.accelerator.mixed_precision == "no" and now.dtype in (torch.float32, torch.float64)
        alike = now.shape == then.shape and now.dtype == then.dtype and int(targets[0]) == int(kept[1][0])
        return alike and bool((now - then).float().norm() <= (1e-2 if exact else 1e-1) * then.float().norm())

    def _pass(self, loader: Loader, progress: Any) -> Iterator[Batch]:
        """Inputs and labels on the CPU, batch by batch; under DDP each rank computes its share and gets all."""
        prepared = on_device(self.accelerator, loader)
        task = progress.add_task("features", total=len(prepared) if hasattr(loader, "__len__") else None, note="")
        for batch in prepared:
            images, targets = pair(batch, self.model)
            found, targets = self.accelerator.gather_for_metrics((self.inputs(images)[0], targets))
            yield found.cpu(), targets.cpu()
            progress.advance(task)
        progress.remove_task(task)

    @torch.no_grad()
    def inputs(self, images: Tensor, mode: bool = False) -> tuple[Tensor, Tensor | None]:
        """What went into the module, and the model's answer; ``mode`` is that of everything before the module."""
        with in_eval(self.model), tapped(self.module) as seen, self.accelerator.autocast():
            self.model.train(mode)
            self.module.eval()
            answer = logits(self.model(images))
        return (seen[0] if len(seen) == 1 else torch.empty(0)), answer

    def proven(self, images: Tensor) -> bool:
        """On these images: one call of the head makes the answer, and training mode changes nothing that goes into it."""
        found, answer = self.inputs(images)
        if not found.numel() or answer is None or restless(self.model) - set(self.module.modules()):
            return False
        self.per_image = size(found) // len(images)
        with in_eval(self.module), torch.no_grad(), self.accelerator.autocast():
            repeated = logits(self.module(found))
        return repeated is not None and _equal(repeated, answer) and _equal(self.inputs(images, mode=True)[0], found)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def dataset_of(loader: Loader) -> Any:
    """The user's dataset."""
    dataset = loader.dataset
    while isinstance(dataset, (Seeded, Marked, Watched)):
        dataset = dataset.dataset
    return dataset


def count_of(loader: Loader) -> int | None:
    """How many images a pass over the loader gives, where that is known before."""
    if isinstance(loader, Batches) or isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is None or loader.drop_last:
        return None
    return len(loader.sampler)  # type: ignore[arg-type]  # samplers of map-style datasets have it


def _in_order(loader: Loader, epoch: int, steady: bool) -> DataLoader[Any]:
    """The training images in the dataset's order, each augmented as in that epoch, or with an error if ``steady``."""
    shuffle: Shuffle = loader.sampler  # type: ignore[assignment]  # road looked
    dataset: Seeded = loader.dataset  # type: ignore[assignment]  # what batches.loader puts a Shuffle on
    order = Shuffle(shuffle.count, shuffle.seed)
    order.set_epoch(epoch)
    keys: Any = sorted(order)
    watched = Seeded(Watched(dataset.dataset)) if steady else dataset
    return DataLoader(watched, loader.batch_size, sampler=keys, num_workers=loader.num_workers)  # type: ignore[union-attr]  # road looked

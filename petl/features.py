"""Training on features: what comes out of the frozen lower part is computed once, and the rest of the model trains on that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from petl.batches import Seeded, Shuffle
from petl.cache import Store, Watched, contents, size, unsteady
from petl.depth import restless
from petl.feed import Batch, pair
from petl.launch import in_eval
from petl.origins import Around
from petl.upper import Upper, tapped


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

    def train(self, loader: DataLoader[Any], views: int, progress: Any) -> DataLoader[Batch]:
        """The training data, each view under the augmentation of its epoch, in the batches that ``loader`` would give."""
        seed = loader.sampler.seed if unsteady(dataset_of(loader)) else None  # type: ignore[attr-defined]  # a Shuffle
        steady = isinstance(self.net, Upper)  # a head may train on augmented views, an upper part may not
        found = [self._once(_in_order(loader, v, steady), progress, view=v, seed=seed) for v in range(views)]
        features = Features([images for images, _ in found], found[0][1])
        return DataLoader(features, batch_sampler=loader.batch_sampler, collate_fn=_as_it_is)

    def val(self, loader: DataLoader[Any], progress: Any) -> DataLoader[Batch]:
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

    def _once(self, loader: DataLoader[Any], progress: Any, **more: Any) -> Batch:
        """The module's inputs [N, ...] and the labels [N]: in memory, or from the store."""
        count = count_of(loader)
        if self.store is None or count is None:
            features, targets = (torch.cat(part) for part in zip(*self._pass(loader, progress), strict=True))
            return features, targets
        about = {**self.about, **more, "batch": loader.batch_size}
        about["data"] = contents(dataset_of(loader)) if self.store.kept else id(loader)
        return self.store.entry(about, count, self._pass(loader, progress), needed=count * self.per_image)

    def _pass(self, loader: DataLoader[Any], progress: Any) -> Iterator[Batch]:
        """Inputs and labels on the CPU, batch by batch; under DDP each rank computes its share and gets all."""
        prepared = self.accelerator.prepare_data_loader(loader)
        task = progress.add_task("features", total=len(prepared), note="")
        for batch in prepared:
            images, targets = pair(batch, self.model)
            found, targets = self.accelerator.gather_for_metrics((self.inputs(images)[0], targets))
            yield found.cpu(), targets.cpu()
            progress.advance(task)
        progress.remove_task(task)

    @torch.no_grad()
    def inputs(self, images: Tensor, mode: bool = False) -> tuple[Tensor, Any]:
        """What went into the module, and the model's answer; ``mode`` is that of everything before the module."""
        with in_eval(self.model), tapped(self.module) as seen, self.accelerator.autocast():
            self.model.train(mode)
            self.module.eval()
            answer = self.model(images)
        return (seen[0] if len(seen) == 1 else torch.empty(0)), answer

    def proven(self, images: Tensor) -> bool:
        """On these images: one call of the head makes the answer, and training mode changes nothing that goes into it."""
        found, answer = self.inputs(images)
        if not found.numel() or not isinstance(answer, Tensor) or restless(self.model) - set(self.module.modules()):
            return False
        self.per_image = size(found) // len(images)
        with in_eval(self.module), torch.no_grad(), self.accelerator.autocast():
            repeated = self.module(found)
        return _equal(repeated, answer) and _equal(self.inputs(images, mode=True)[0], found)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def dataset_of(loader: DataLoader[Any]) -> Any:
    """The user's dataset."""
    return loader.dataset.dataset if isinstance(loader.dataset, Around) else loader.dataset


def count_of(loader: DataLoader[Any]) -> int | None:
    """How many images a pass over the loader gives, where that is known before."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None or loader.drop_last:
        return None
    return len(loader.sampler)  # type: ignore[arg-type]  # samplers of map-style datasets have it


def _in_order(loader: DataLoader[Any], epoch: int, steady: bool) -> DataLoader[Any]:
    """The training images in the dataset's order, each augmented as in that epoch, or with an error if ``steady``."""
    shuffle: Shuffle = loader.sampler  # type: ignore[assignment]  # road looked
    dataset: Seeded = loader.dataset  # type: ignore[assignment]  # what batches.loader puts a Shuffle on
    order = Shuffle(shuffle.count, shuffle.seed)
    order.set_epoch(epoch)
    keys: Any = sorted(order)
    watched = Seeded(Watched(dataset.dataset)) if steady else dataset
    return DataLoader(watched, loader.batch_size, sampler=keys, num_workers=loader.num_workers)

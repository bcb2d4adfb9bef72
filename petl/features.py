"""The fast road of a linear probe: what goes into the head is computed once, and the head trains on that.

It is taken where it gives what training over the backbone gives: all that trains lies in one module, the model's answer is
that module's output, and nothing before it drops values or moves statistics. All of this is tried on the first batch.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from petl.batches import Seeded, Shuffle
from petl.feed import Batch, pair, sample
from petl.launch import in_eval


class Features(Dataset[Batch]):
    """The head's inputs [views, N, ...] and the labels [N], in memory. In epoch e, view e modulo views is the dataset."""

    def __init__(self, views: Tensor, targets: Tensor):
        self.views, self.targets, self.view = views, targets, 0

    def __len__(self) -> int:
        return len(self.targets)

    def set_epoch(self, epoch: int) -> None:
        self.view = epoch % len(self.views)

    def __getitem__(self, key: Any) -> Batch:
        index = key[0] if isinstance(key, tuple) else key
        return self.views[self.view, index], self.targets[index]

    def __getitems__(self, keys: Sequence[Any]) -> Batch:
        """A whole batch in one go; the keys may be a Shuffle's (index, seed)."""
        return self[[key[0] if isinstance(key, tuple) else key for key in keys]]


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass
class Extractor:
    """Computes the inputs of ``head``, a module of ``model``, batch after batch."""

    accelerator: Any
    model: nn.Module
    head: nn.Module

    def train(self, loader: DataLoader[Any], views: int, progress: Any) -> DataLoader[Batch]:
        """The training data, each view under the augmentation of its epoch, in the batches that ``loader`` would give."""
        found = [self._pass(_in_order(loader, view), progress) for view in range(views)]
        features = Features(torch.stack([images for images, _ in found]), found[0][1])
        return DataLoader(features, batch_sampler=loader.batch_sampler, collate_fn=_as_it_is)

    def val(self, loader: DataLoader[Any], progress: Any) -> DataLoader[Batch]:
        """The validation data, read once, in the batches that ``loader`` gives."""
        found, targets = self._pass(loader, progress)
        return DataLoader(Features(found[None], targets), loader.batch_size or 64, collate_fn=_as_it_is)

    def _pass(self, loader: DataLoader[Any], progress: Any) -> Batch:
        """The head's inputs [N, ...] and the labels [N] on the CPU; under DDP each rank computes its share and gets all."""
        prepared = self.accelerator.prepare_data_loader(loader)
        task = progress.add_task("features", total=len(prepared), note="")
        parts = []
        for batch in prepared:
            images, targets = pair(batch, self.model)
            found = self.accelerator.gather_for_metrics((self.inputs(images)[0], targets))
            parts.append([part.cpu() for part in found])
            progress.advance(task)
        progress.remove_task(task)
        features, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        return features, targets

    @torch.no_grad()
    def inputs(self, images: Tensor, mode: bool = False) -> tuple[Tensor, Any]:
        """What went into the head, and the model's answer; ``mode`` is that of everything before the head."""
        with in_eval(self.model), tapped(self.head) as seen, self.accelerator.autocast():
            self.model.train(mode)
            self.head.eval()
            answer = self.model(images)
        return (seen[0] if len(seen) == 1 else torch.empty(0)), answer

    def proven(self, images: Tensor) -> bool:
        """On these images: one call of the head makes the answer, and training mode changes nothing that goes into it."""
        found, answer = self.inputs(images)
        if not found.numel() or not isinstance(answer, Tensor) or _restless(self.model, self.head):
            return False
        with in_eval(self.head), torch.no_grad(), self.accelerator.autocast():
            repeated = self.head(found)
        return _equal(repeated, answer) and _equal(self.inputs(images, mode=True)[0], found)


def extractor(accelerator: Any, model: nn.Module, loader: DataLoader[Any]) -> Extractor | None:
    """What computes the head's inputs, or None where the head can't be trained apart from the model."""
    name = trained_module(model)
    if not name or not isinstance(loader.sampler, Shuffle):
        return None
    found = Extractor(accelerator, model, model.get_submodule(name))
    images, _ = pair(sample(loader), model)
    return found if found.proven(images.to(accelerator.device)) else None


def trained_module(model: nn.Module) -> str:
    """The name of the smallest module that holds everything that trains; "" is the model itself."""
    paths = [name.split(".")[:-1] for name, p in model.named_parameters() if p.requires_grad]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))  # up to the shortest
    return ".".join(parts[0] for parts in shared)


@contextlib.contextmanager
def tapped(head: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of each call of ``head`` inside; empty tensors for calls with anything but one tensor."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plain = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        seen.append(args[0].detach() if plain else torch.empty(0))

    handle = head.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _restless(model: nn.Module, head: nn.Module) -> bool:
    """Whether anything outside the head drops values or moves statistics in training."""
    inside = set(head.modules())
    with in_eval(model):
        model.train()
        return any(
            m.training and (_drops(m) or "running_mean" in m._buffers) for m in model.modules() if m not in inside
        )


def _drops(module: nn.Module) -> bool:
    rates = [getattr(module, name, 0.0) for name in ("drop_prob", "drop_rate", "prob")]  # timm's names
    rates += [module.p] if isinstance(module, nn.modules.dropout._DropoutNd) else []
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def _in_order(loader: DataLoader[Any], epoch: int) -> DataLoader[Any]:
    """The training images in the dataset's order, each augmented as in that epoch."""
    shuffle: Shuffle = loader.sampler  # type: ignore[assignment]  # extractor looked
    dataset: Seeded = loader.dataset  # type: ignore[assignment]  # what batches.loader puts a Shuffle on
    order = Shuffle(shuffle.count, shuffle.seed)
    order.set_epoch(epoch)
    keys: Any = sorted(order)
    return DataLoader(dataset, loader.batch_size, sampler=keys, num_workers=loader.num_workers)

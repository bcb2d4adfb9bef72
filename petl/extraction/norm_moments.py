"""Mean and variance of what a model's norm layers with running statistics receive, over all images of a pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from petl.extraction.image_batches import image_batches, images_and_any_targets, unreadable_rows
from petl.extraction.undisturbed import undisturbed
from petl.sites.layers import has_running_statistics
from petl.wrapping.lookup import bare


@dataclass
class ChannelMoments:
    """The ``mean`` and ``variance`` [C] of ``count`` values a channel, in float64; batches are added one by one."""

    mean: Tensor
    squares: Tensor
    count: int

    @classmethod
    def of(cls, values: Tensor) -> ChannelMoments:
        """Returns those of a batch [N, C, ...]."""
        others = [dim for dim in range(values.ndim) if dim != 1]
        count = values.numel() // values.shape[1]
        variance, mean = torch.var_mean(values.detach().float(), others, correction=0)
        return cls(mean.double().cpu(), variance.double().cpu() * count, count)

    def add(self, other: ChannelMoments) -> None:
        """Adds the values of another batch (Chan et al. 1979)."""
        count = self.count + other.count
        gap = other.mean - self.mean
        self.squares = self.squares + other.squares + gap.square() * (self.count * other.count / count)
        self.mean = self.mean + gap * (other.count / count)
        self.count = count

    @property
    def variance(self) -> Tensor:
        """The variance as BatchNorm keeps it: with one value taken off the count."""
        return self.squares / max(1, self.count - 1)


def running_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the norm layers that keep a running mean and variance, by name, also those of other libraries."""
    return {
        name: module
        for name, module in bare(model).named_modules()
        if has_running_statistics(module) and {"running_mean", "running_var"} <= {*module._buffers}
    }


def picture_batches(
    model: nn.Module, dataset: Any, *, batch_size: int = 64, workers: int = 0, shuffled: int | None = None
) -> Iterator[Tensor]:
    """Yields the images of a dataset [N, C, H, W] on the model's device, without those that can't be read.

    ``shuffled`` is the seed of an order in which the classes are mixed; None: the dataset's own.
    """
    plain = bare(model)
    device = next(iter(plain.parameters()), torch.empty(0)).device
    found = image_batches(
        dataset, plain, split=None, classes=None, keys=None, batch_size=batch_size, workers=workers, strict=False
    )
    loader: Any = found.loader
    if shuffled is not None and isinstance(loader, DataLoader):
        order = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(shuffled)).tolist()  # type: ignore[arg-type]  # of map style
        loader = DataLoader(
            loader.dataset, batch_size, sampler=order, collate_fn=loader.collate_fn, num_workers=workers
        )
    for batch in loader:
        pictures, targets = images_and_any_targets(batch, plain)
        yield pictures[~unreadable_rows(pictures, targets)].to(device)


@torch.no_grad()
def norm_moments(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, ChannelMoments]:
    """Returns the moments of what each norm layer with running statistics receives, by its name, in the order of the calls.

    The model runs in evaluation mode and is afterwards as before. A layer that runs several times has the moments of all its
    calls; one that never runs isn't there.
    """
    plain, found = bare(model), {}
    with undisturbed(plain, None), _noted(running_norms(plain), found):
        for images in batches:
            plain(images)
    return found


@contextlib.contextmanager
def _noted(norms: dict[str, nn.Module], found: dict[str, ChannelMoments]) -> Iterator[None]:
    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].ndim > 1 and len(args[0]):
                part = ChannelMoments.of(args[0])
                found[name].add(part) if name in found else found.setdefault(name, part)

        return note

    with contextlib.ExitStack() as stack:
        for name, module in norms.items():
            stack.callback(module.register_forward_pre_hook(noting(name)).remove)
        yield

"""Standardised targets: the model trains on numbers of mean 0 and deviation 1, and returns numbers in the user's units.

An affine change of a model's outputs is exactly a change of its last linear layer: ``y = deviation * (W x + b) + mean`` has the
weight ``deviation * W`` and the bias ``deviation * b + mean``. So the layer is in one of two states, and whoever measures, saves
or leaves the model has it in the user's units.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.loaders import Loader, PairLoader
from petl.data.logits import logits
from petl.graft.kinds import grafts
from petl.graft.sharded import is_sharded_model
from petl.sites.survey import classifier_names
from petl.wrapping.eval_mode import in_eval
from petl.wrapping.lookup import record

SAMPLE = 32  # images on which the fold is proved


@dataclass
class Standardisation:
    """The mean and the deviation of the targets of each output, float64 [K], and the layers that hold them."""

    mean: Tensor
    deviation: Tensor
    layers: list[Any]
    in_units: bool = False  # whether the model came with outputs in the user's units, from an earlier training

    @torch.no_grad()
    def fold(self) -> None:
        """Makes the model return numbers in the user's units."""
        for layer, weight, bias in self._values():
            scale = self.deviation.to(weight.device)
            _set(layer.weight, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)))
            _set(layer.bias, bias * scale + self.mean.to(bias.device))

    @torch.no_grad()
    def unfold(self) -> None:
        """Makes the model return standardised numbers; up to rounding, what `fold` changed."""
        for layer, weight, bias in self._values():
            scale = self.deviation.to(weight.device)
            _set(layer.weight, weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
            _set(layer.bias, (bias - self.mean.to(bias.device)) / scale)

    @contextlib.contextmanager
    def folded(self) -> Iterator[None]:
        """Inside, the model returns numbers in the user's units; afterwards the layers have the very values of before."""
        own = [(p, p.detach().clone()) for layer in self.layers for p in (layer.weight, layer.bias)]
        try:
            self.fold()
            yield
        finally:
            for parameter, value in own:
                _set(parameter, value)

    def _values(self) -> Iterator[tuple[Any, Tensor, Tensor]]:
        for layer in self.layers:
            one: Any = layer
            yield one, one.weight.detach().double(), one.bias.detach().double()


@torch.no_grad()
def _set(parameter: Any, value: Tensor) -> None:
    parameter.copy_(value.to(parameter.dtype))


def find_standardisation(
    model: nn.Module, mean: Tensor, deviation: Tensor, images: Tensor, targets: Tensor
) -> Standardisation | str:
    """Returns the standardisation for a model, or the reason why its outputs can't be standardised.

    The fold is proved on images: the outputs become ``deviation * output + mean``. The same images tell whether the model comes
    from an earlier training and answers in the user's units already: then its squared error against ``targets`` [N, K] (NaN:
    not known) is smaller as it is.
    """
    layers = _last_layers(model)
    if isinstance(layers, str):
        return layers
    found = Standardisation(mean, deviation, layers)
    plain = _outputs(model, images)
    with found.folded():
        folded = _outputs(model, images)
    wanted = plain * deviation.to(plain.device) + mean.to(plain.device)
    size = wanted.abs().amax(0).clamp(min=float(deviation.max()) * 1e-3)
    if not bool(((folded - wanted).abs() <= 1e-3 * size).all()):
        return "the model's outputs don't follow from those of its last linear layer by a sum"
    gaps = [(out - targets.to(out.device)).square().nanmean() for out in (plain, folded)]
    found.in_units = bool(gaps[0] < gaps[1])
    return found


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    with in_eval(model), torch.no_grad():
        scores = logits(model(images))
    return torch.empty(0) if scores is None else scores.double()


def _last_layers(model: nn.Module) -> list[nn.Module] | str:
    """Returns the linear layers that give the outputs, or why none can hold a mean and a deviation."""
    if is_sharded_model(model):
        return "the model's tensors are shared out among processes"
    wrapped = record(model)
    names = list(wrapped.head or ()) if wrapped else classifier_names(model) or []
    tops = [model.get_submodule(name) for name in names] or [model]
    layers = [_last(top) for top in tops]
    if any(layer is None for layer in layers):
        return "its classifier has no linear layer"
    found: list[Any] = layers
    if any(
        grafts(layer) or not isinstance(getattr(layer, "_parameters", {}).get("weight"), nn.Parameter)
        for layer in found
    ):
        return "its last layer is adapted by a method, or its weight is computed"
    if any(layer.bias is None or not (layer.weight.requires_grad and layer.bias.requires_grad) for layer in found):
        return "its last layer has no bias, or doesn't train"
    return found


def _last(top: nn.Module) -> nn.Module | None:
    linear = [module for module in top.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return linear[-1] if linear else None


def sample_of(loader: Loader, read: Callable[[Any], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Returns up to 32 images and targets of a loader's first batch, without starting a worker where there is a dataset."""
    if isinstance(loader, PairLoader):
        batch = loader.sample()
    elif not hasattr(loader.dataset, "__getitem__") or loader.collate_fn is None or loader.batch_sampler is None:
        batch = next(iter(loader))
    else:
        keys = [*itertools.islice(iter(loader.sampler), SAMPLE)]
        batch = loader.collate_fn([loader.dataset[key] for key in keys])
    images, targets = read(batch)
    return images[:SAMPLE], targets[:SAMPLE]


def moments(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and deviation of the known targets [N, K] of each output, float64 [K]."""
    values = targets.double()
    mean = values.nanmean(0)
    return mean, (values - mean).square().nanmean(0).sqrt()


def named(labels: Sequence[str], wrong: Tensor) -> list[str]:
    """Returns the labels for which ``wrong`` [K] is true."""
    return [label for label, is_wrong in zip(labels, wrong.tolist(), strict=True) if is_wrong]

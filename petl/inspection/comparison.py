"""Compares two models: their outputs, tensors and keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.sites.names import within
from petl.sites.survey import classifier_names


def outputs(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Returns all tensors that the model returns for a batch in evaluation mode, in which it is left."""
    model.eval()
    with torch.no_grad():
        return [t for t in tree_leaves(model(batch)) if isinstance(t, Tensor)]


def max_difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Returns the largest difference between two lists of tensors; infinite where the shapes differ or something isn't finite."""
    if [t.shape for t in one] != [t.shape for t in other]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if not torch.equal(a, b)]
    return max(
        (float((a.detach().double() - b.detach().double()).abs().nan_to_num(float("inf")).max()) for a, b in pairs),
        default=0.0,
    )


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields all parameters and buffers with their names, shared ones once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def same_values(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors have equal values, with NaN equal to NaN."""
    if torch.equal(one, other):
        return True
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def copy_requires_grad(model: nn.Module, like: nn.Module) -> None:
    """Sets each ``requires_grad`` as in the other model: torch chooses matrix kernels by it, also without gradients (cait)."""
    flags = {name: p.requires_grad for name, p in like.named_parameters()}
    for name, p in model.named_parameters():
        p.requires_grad_(flags.get(name, p.requires_grad))


def keys_of_one_only(merged: nn.Module, base: nn.Module) -> set[str]:
    """Returns the keys outside the classifier that only one of the two models has."""
    return _keys_outside_head(merged) ^ _keys_outside_head(base)


def _keys_outside_head(model: nn.Module) -> set[str]:
    head = classifier_names(model) or []
    return {key for key in model.state_dict() if not within(key, head)}

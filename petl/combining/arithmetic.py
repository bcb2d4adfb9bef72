"""Sums of changes: weighted means, TIES, isotropic sums, and statistics of norms as moments.

Values that are equal to the bit count as one whose weight is the sum of theirs. A value whose weight is 1 and that is alone is
taken over as it is, and one whose weight is 0 isn't there: so equal changes average to themselves, and ``a - a`` is the base, to
the bit. All else is computed in float64, in an order that doesn't depend on the order of the deltas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petl.combining.changes import TaskChange
from petl.combining.weight_matrices import as_matrix, isotropic
from petl.errors import MethodError
from petl.methods.statistics import STATISTICS
from petl.sites.layers import has_running_statistics, layer_roles, weight_names
from petl.sites.names import joined
from petl.wrapping.own_tensors import own_tensor

HOWS = ("mean", "ties", "iso")
NEAR_ONE = 1e-12


@dataclass(frozen=True)
class Share:
    """A value of a tensor [*], and how much it counts."""

    weight: float
    value: Tensor


@dataclass(frozen=True)
class Summing:
    """How changes are added: one of ``HOWS``, and the share of each change that TIES keeps."""

    how: str = "mean"
    density: float = 0.2

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise MethodError(f"how={self.how!r:.40}; expected one of {', '.join(map(repr, HOWS))}")
        if isinstance(self.density, bool) or not isinstance(self.density, (int, float)) or not 0 < self.density <= 1:
            raise MethodError(
                f"density={self.density!r:.40}; expected the share of numbers to keep, above 0 and up to 1"
            )


def exact_sum(weights: Sequence[float]) -> float:
    """Returns the sum of weights, rounded once; 1 or 0 where it is that but for rounding.

    >>> exact_sum([0.7, 0.2, 0.1]), exact_sum([0.3, -0.1, -0.2])
    (1.0, 0.0)
    """
    total = math.fsum(weights)
    return float(round(total)) if abs(total - round(total)) <= NEAR_ONE else total


def shares(pairs: Sequence[tuple[float, Tensor]]) -> list[Share]:
    """Returns the different values with their weights, without those of weight 0, in the order in which they first come."""
    groups: list[tuple[list[float], Tensor]] = []
    for weight, value in pairs:
        same = next((weights for weights, known in groups if torch.equal(known, value)), None)
        if same is None:
            groups.append(([weight], value))
        else:
            same.append(weight)
    found = [Share(exact_sum(weights), value) for weights, value in groups]
    return [share for share in found if share.weight]


def summed(base: nn.Module, changes: Sequence[TaskChange], summing: Summing) -> dict[str, Tensor]:
    """Returns the values of those of the base's tensors that the sum of the changes changes, by key."""
    order = sorted(changes, key=lambda change: change.delta.mark)
    values: dict[str, Tensor] = {}
    for name, module in base.named_modules():
        leaves = [leaf for leaf in (*module._parameters, *module._buffers) if _changes(order, joined(name, leaf))]
        statistics = [leaf for leaf in leaves if leaf in STATISTICS] if has_running_statistics(module) else []
        if statistics:
            values |= _moments(module, name, order)
        for leaf in leaves:
            if leaf not in statistics:
                key, own = joined(name, leaf), own_tensor(module, leaf)
                assert own is not None
                found = shares([(change.weight, change.tensors.get(key, own.detach())) for change in order])
                found = [share for share in found if not torch.equal(share.value, own)]
                values |= {key: _combined(module, leaf, found, summing, total_rank(order, key))} if found else {}
    own_values = {key: value for key, value in base.state_dict().items() if key in values}
    return {key: value for key, value in values.items() if not torch.equal(value, own_values[key])}


def _changes(changes: Sequence[TaskChange], key: str) -> bool:
    return any(key in change.tensors for change in changes)


def total_rank(changes: Sequence[TaskChange], key: str) -> int | None:
    """Returns the largest rank that the sum of changes of a tensor can have; None where a method doesn't limit it."""
    different: list[Tensor] = []
    ranks: list[int | None] = []
    for change in changes:
        value = change.tensors.get(key)
        if value is not None and change.weight and not any(torch.equal(value, known) for known in different):
            different.append(value)
            ranks.append(change.ranks.get(key))
    return None if None in ranks or not ranks else sum(rank for rank in ranks if rank)


def _combined(module: nn.Module, leaf: str, found: Sequence[Share], summing: Summing, rank: int | None) -> Tensor:
    """Returns the sum for one tensor, as the module's own tensor of this name has it."""
    own = own_tensor(module, leaf)
    assert own is not None
    if len(found) == 1 and found[0].weight == 1:
        return found[0].value
    if not own.is_floating_point():
        return torch.stack([share.value for share in found]).amax(0)
    before = own.detach().double().cpu()
    changes = [(share.weight, share.value.double().cpu() - before) for share in found]
    if len(changes) == 1 or summing.how == "mean":
        return (before + _mean(changes)).to(own)
    if summing.how == "ties":
        return (before + ties(changes, summing.density)).to(own)
    if layer_roles(module) and leaf in weight_names(module) and "norm" not in layer_roles(module):
        return (before + _isotropic(module, leaf, changes, rank)).to(own)
    # Iso-C is for matrices; of other tensors a sum would be too long, as each delta has moved them about alike
    total = exact_sum([abs(weight) for weight, _ in changes])
    return (before + _mean([(weight / total, change) for weight, change in changes])).to(own)


def _mean(changes: Sequence[tuple[float, Tensor]]) -> Tensor:
    return sum((weight * change for weight, change in changes[1:]), changes[0][0] * changes[0][1])


def ties(changes: Sequence[tuple[float, Tensor]], density: float) -> Tensor:
    """Returns the TIES sum of weighted changes of one shape (Yadav et al. 2023, arXiv:2306.01708).

    Of each change the largest numbers stay (a share ``density``); for each number the sign with the larger sum is elected; and
    the weighted mean of those with this sign is taken, times the sum of all weights.
    """
    from peft.utils.merge_utils import calculate_majority_sign_mask, magnitude_based_pruning

    def trimmed(change: Tensor) -> Tensor:
        kept = max(density, 1 / change.numel())  # of a few numbers at least one
        return magnitude_based_pruning(change, kept) if kept < 1 else change

    weighted = torch.stack([weight * trimmed(change) for weight, change in changes])
    sizes = torch.tensor([abs(weight) for weight, _ in changes], dtype=torch.float64)
    agreeing = (calculate_majority_sign_mask(weighted) & (weighted != 0)).double()
    counted = (agreeing * sizes.view(-1, *(1,) * changes[0][1].ndim)).sum(0)
    return (weighted * agreeing).sum(0) * sizes.sum() / torch.where(counted > 0, counted, 1.0)


def _isotropic(module: nn.Module, leaf: str, changes: Sequence[tuple[float, Tensor]], rank: int | None) -> Tensor:
    """Returns the sum with all its singular values set to their mean (Iso-C, Marczak et al. 2025, arXiv:2502.04959)."""
    from petl.methods.lora import LoRA

    total = _mean(changes)
    graft = LoRA(rank=1).graft_of(module, leaf, 1.0)
    matrix = as_matrix(module, leaf, total)
    return graft.shaped(isotropic(matrix, rank), total).to(total)


def _moments(module: nn.Module, name: str, changes: Sequence[TaskChange]) -> dict[str, Tensor]:
    """Returns the running statistics of a norm: means and mean squares are averaged, not deviations.

    ``E[x^2] - E[x]^2`` of the mixture; where a weight is below 0 or their sum above 1 it may not be positive, and the smallest
    variance given takes its place.
    """
    keys = {leaf: joined(name, leaf) for leaf in STATISTICS if module._buffers.get(leaf) is not None}
    own = {leaf: module._buffers[leaf] for leaf in keys}
    sets = [
        (change.weight, {leaf: change.tensors.get(key, own[leaf]) for leaf, key in keys.items()}) for change in changes
    ]
    rows = _distinct([(weight, values) for weight, values in sets if not _same(values, own)])  # type: ignore[arg-type]
    if not rows:
        return {}
    if len(rows) == 1 and rows[0][0] == 1:
        return {keys[leaf]: value for leaf, value in rows[0][1].items()}
    found: dict[str, Tensor] = {}
    if "num_batches_tracked" in keys:
        found[keys["num_batches_tracked"]] = torch.stack([v["num_batches_tracked"] for _, v in rows]).amax(0)
    first, second = (_moment(own, rows, moment) for moment in (_first, _second))  # type: ignore[arg-type]
    variance = second - first.square()
    smallest = torch.stack([own["running_var"], *(v["running_var"] for _, v in rows)]).double().cpu().amin(0)  # type: ignore[list-item]
    variance = torch.where(variance > 0, variance, smallest)
    new = {"running_mean": first, "running_var": variance}
    return found | {keys[leaf]: new[leaf].to(own[leaf]) for leaf in new if leaf in keys}  # type: ignore[arg-type]


def _distinct(sets: Sequence[tuple[float, Mapping[str, Tensor]]]) -> list[tuple[float, Mapping[str, Tensor]]]:
    groups: list[tuple[list[float], Mapping[str, Tensor]]] = []
    for weight, values in sets:
        same = next((weights for weights, known in groups if _same(known, values)), None)
        groups.append(([weight], values)) if same is None else same.append(weight)
    found = [(exact_sum(weights), values) for weights, values in groups]
    return [pair for pair in found if pair[0]]


def _same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[leaf], two[leaf]) for leaf in one)


def _first(values: Mapping[str, Tensor]) -> Tensor:
    return values["running_mean"].double().cpu()


def _second(values: Mapping[str, Tensor]) -> Tensor:
    return values["running_var"].double().cpu() + values["running_mean"].double().cpu().square()


def _moment(
    own: Mapping[str, Tensor],
    rows: Sequence[tuple[float, Mapping[str, Tensor]]],
    moment: Callable[[Mapping[str, Tensor]], Tensor],
) -> Tensor:
    base = moment(own)
    return base + sum((weight * (moment(values) - base) for weight, values in rows), torch.zeros_like(base))

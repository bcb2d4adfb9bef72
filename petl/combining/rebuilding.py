"""Builds a wrapped model whose adapted tensors are given ones: low-rank changes where they are smaller, else whole tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from petl.combining.weight_matrices import as_matrix, best_factors, is_smaller_in_factors
from petl.delta.tensors import fill_model
from petl.graft.folding import adapted_values
from petl.graft.kinds import grafts
from petl.methods.bias import Bias
from petl.methods.full import Full
from petl.methods.lora import LoRA
from petl.methods.lora_weights import LowRank
from petl.methods.norm import Norm
from petl.methods.probe import Probe
from petl.methods.statistics import STATISTICS
from petl.sites.layers import bias_names, layer_roles, weight_names
from petl.sites.names import joined
from petl.sites.roles import all_sites
from petl.sites.sites import Site, Sites
from petl.sites.survey import Survey
from petl.wrapping.head import HeadOption
from petl.wrapping.install import Plan, install
from petl.wrapping.own_tensors import own_tensor, state_tensors
from petl.wrapping.preconditions import survey_unwrapped
from petl.wrapping.record import Record

FULL = "full"  # in place of a rank: whole tensors


@dataclass(frozen=True)
class Head:
    """The classifier to build: ``option`` as of `petl.wrap`, the number of classes (None: as it is), and its tensors by key."""

    option: HeadOption = True
    num_classes: int | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """One changed weight in a result.

    ``rank`` is that of its change, None where the tensor is kept whole; ``change`` is the norm of the change beside that of the
    base's weight, ``residual`` the norm of what is lost beside that of the change (Frobenius).
    """

    name: str
    rank: int | None
    change: float
    residual: float


class Rebuilt(NamedTuple):
    """``model`` is wrapped and in evaluation mode; ``layers`` its changed weights; ``residual`` that of all together."""

    model: nn.Module
    record: Record
    layers: list[Layer]
    residual: float


def rebuilt(
    model: nn.Module, wanted: Mapping[str, Tensor], ranks: Mapping[str, int], head: Head, image_size: Any = None
) -> Rebuilt:
    """Wraps a plain model so that its tensors have the wanted values.

    Args:
        model: the base, which is changed and returned.
        wanted: values of the base's tensors by key; all others stay. Keys of the classifier don't belong here.
        ranks: of the changes that are to be low-rank, by key; all others are kept whole.
        image_size: of the images that the model was built for, where that isn't the usual one.
    """
    survey = survey_unwrapped(model, head.option, image_size)
    base = {key: tensor.detach().clone() for key, _, _, tensor in state_tensors(model) if key in wanted}
    plans, by_hand = _plans(survey, wanted, ranks, bool(head.tensors) or head.option is not False)
    record = install(
        survey, plans, head=head.option, num_classes=head.num_classes, unfrozen_by_hand=by_hand, memory="lean"
    )
    fill_model(model, {**_values(model, wanted, base), **head.tensors}, as_stored=False)
    model.eval()
    return Rebuilt(model, record, *_residuals(model, wanted, base))


def _plans(
    survey: Survey, wanted: Mapping[str, Tensor], ranks: Mapping[str, int], has_head: bool
) -> tuple[list[Plan], list[str]]:
    """Returns the methods with their sites that change the wanted tensors, and the keys that no method reaches."""
    sites = {site.name: site for site in all_sites(survey)}
    groups: dict[Any, list[Site]] = {}
    by_hand: list[str] = []
    for name, leaves in _by_module(survey.model, wanted).items():
        module = survey.modules[name]
        methods = _methods(survey, module, name, leaves, ranks) if name in sites else []
        reached = {leaf for method in methods for leaf in _reached(method, module, sites[name], leaves, ranks, name)}
        by_hand += [joined(name, leaf) for leaf in leaves if leaf not in reached]
        for method in methods:
            groups.setdefault(method, []).append(sites[name])
    order = sorted(groups, key=lambda method: (method.name != "lora", method.name, repr(method)))
    plans: list[Plan] = [(method, Sites(sorted(groups[method], key=lambda site: site.order))) for method in order]
    if not plans and not by_hand and not has_head:
        return [_smallest(survey, sites.values())], []
    return plans or ([] if by_hand else [(Probe(), Sites())]), by_hand


def _smallest(survey: Survey, sites: Iterable[Site]) -> Plan:
    """A wrapped model trains something: of a base without a classifier that doesn't change, its smallest layer, as it is."""
    own = [(sum(p.numel() for p in survey.modules[s.name]._parameters.values() if p is not None), s) for s in sites]
    return Full(), Sites([min((pair for pair in own if pair[0]), key=lambda pair: pair[0])[1]])


def _by_module(model: nn.Module, wanted: Iterable[str]) -> dict[str, list[str]]:
    """Returns the leaves of the wanted keys by the names of their modules."""
    wanted, found = {*wanted}, dict[str, list[str]]()
    names = {id(module): name for name, module in model.named_modules()}
    for key, owner, leaf, _ in state_tensors(model):
        if key in wanted:
            found.setdefault(names[id(owner)], []).append(leaf)
    return found


def _methods(
    survey: Survey, module: nn.Module, name: str, leaves: Sequence[str], ranks: Mapping[str, int]
) -> list[Any]:
    """Returns the methods that change these leaves of a module."""
    matrices, biases = weight_names(module), bias_names(module)
    low = [leaf for leaf in leaves if joined(name, leaf) in ranks and leaf in matrices]
    rest = [leaf for leaf in leaves if leaf not in low]
    if low and {*rest} <= {*biases}:
        rank = max(ranks[joined(name, leaf)] for leaf in low)
        return [LoRA(rank=rank, alpha=float(rank)), *([Bias()] if rest else [])]
    stats = "adapt" if {*leaves} & {*STATISTICS} else "keep"
    if "norm" in layer_roles(module):
        return [Norm(stats=stats)]
    return [Bias()] if {*leaves} <= {*biases} else [Full(stats=stats)]


def _reached(
    method: Any, module: nn.Module, site: Site, leaves: Sequence[str], ranks: Mapping[str, int], name: str
) -> list[str]:
    """Returns the leaves that a method changes at a site."""
    if isinstance(method, LoRA):
        return [leaf for leaf in leaves if joined(name, leaf) in ranks]
    return [*method.trains(module, site)]


def _values(model: nn.Module, wanted: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the values of the wrapped model's tensors by key: whole ones as wanted, and the factors of changes."""
    values: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        low = {graft.param: (child, graft) for child, graft in grafts(module) if isinstance(graft, LowRank)}
        for param, (child, graft) in low.items():
            key = joined(name, param)
            rank = graft.down.shape[-2]
            if key in wanted:
                matrix = graft.matrix(wanted[key].double().cpu() - base[key].double().cpu())
                up, down = best_factors(matrix, rank)
                values |= {f"{joined(name, child)}.up": up, f"{joined(name, child)}.down": down}
        leaves = [leaf for leaf in (*module._parameters, *module._buffers) if leaf not in low]
        values |= {key: wanted[key] for leaf in leaves if (key := joined(name, leaf)) in wanted}
    return values


def _residuals(model: nn.Module, wanted: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> tuple[list[Layer], float]:
    """Returns the changed weights with what is lost of each, measured on the model, and what is lost of all."""
    layers, lost, whole = [], 0.0, 0.0
    for name, module in model.named_modules():
        adapted = adapted_values(module) if grafts(module) else {}
        ranks = {graft.param: graft.down.shape[-2] for _, graft in grafts(module) if isinstance(graft, LowRank)}
        for leaf in module._parameters:
            key = joined(name, leaf)
            if key not in wanted or wanted[key].ndim < 2:
                continue
            value = adapted.get(leaf, own_tensor(module, leaf))
            before, target = base[key].double().cpu(), wanted[key].double().cpu()
            gap, change = float((value.detach().double().cpu() - target).norm()), float((target - before).norm())  # type: ignore[union-attr]  # it is there
            size = float(before.norm())
            lost, whole = lost + gap**2, whole + change**2
            layers.append(Layer(key, ranks.get(leaf), change / size if size else 1.0, gap / change if change else 0.0))
    return layers, (lost / whole) ** 0.5 if whole else 0.0


def chosen_ranks(
    model: nn.Module, wanted: Mapping[str, Tensor], rank_of: Any, base: Mapping[str, Tensor]
) -> dict[str, int]:
    """Returns the ranks of those changes of layers' weights that are smaller as two factors than whole.

    ``rank_of(key, matrix)`` gives the rank that is wanted for a change [..., rows, columns], None to keep the tensor whole.
    """
    ranks: dict[str, int] = {}
    for name, module in model.named_modules():
        if not layer_roles(module) or "norm" in layer_roles(module):
            continue
        for param in weight_names(module):
            key = joined(name, param)
            if key in wanted and param in module._parameters:
                matrix = as_matrix(module, param, wanted[key].double().cpu() - base[key].double().cpu())
                rank = rank_of(key, matrix)
                if rank is not None and is_smaller_in_factors(matrix, rank):
                    ranks[key] = rank
    return ranks

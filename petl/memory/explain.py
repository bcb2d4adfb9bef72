"""Says how training steps run each layer, and why: the words of ``petl.summary``."""

from __future__ import annotations

from torch import nn

from petl.graft.graft import PARTNER, base_class, grafts, ways
from petl.memory.deferral_scope import PairedNorm
from petl.memory.fused_layers import FrozenNorm, FusedConv, FusedLinear
from petl.memory.weight_changes import fuses_with_norm, low_rank_change, scale_trains, weight_grafts, weight_trains
from petl.sites.sites import matrices


def explain_layers(model: nn.Module, memory: str | None) -> dict[str, str]:
    """For each layer that a training step treats in a way of its own, or could: which way, and if it's plain, why."""
    inside = {id(part) for module in model.modules() for _, graft in grafts(module) for part in graft.modules()}
    layers = {n: m for n, m in model.named_modules() if id(m) not in inside and matrices(m)}
    there = {id(module) for module in model.modules()}
    said = {name: _explain(module, memory, there) for name, module in layers.items()}
    return {name: words for name, words in said.items() if words}


def _explain(layer: nn.Module, memory: str | None, there: set[int]) -> str:
    changes, given = weight_grafts(layer), {FusedLinear, FusedConv} & {*ways(layer)}
    if weight_trains(layer):
        computed = layer._parameters.get("weight") is None
        return "plain: its weight is computed" if computed else "plain: the weight itself trains"
    if memory is None:
        return "plain: fused=False" if changes else ""
    if changes and low_rank_change(layer) is None:
        return f"plain: {type(changes[0]).__name__} is not one low-rank change"
    if changes and not given:
        return f"plain: {type(changes[0]).__name__} on {base_class(layer).__name__}, which no kernel knows"
    partner: PairedNorm | None = getattr(layer, PARTNER, None)
    norm = None if partner is None or not fuses_with_norm(layer, partner.norm) else partner.norm
    if norm is not None and (id(norm) not in there or FrozenNorm not in ways(norm) or norm.training):
        return f"{'fused' if changes else 'frozen'}; plain norm: the one after it was replaced or set free since wrap"
    if norm is not None and scale_trains(norm):
        return "frozen, with the norm after it: keeps what lies between"
    with_norm = "" if norm is None else ", the norm after it multiplied in"
    return f"fused{with_norm}" if changes else f"frozen{with_norm}, keeps nothing" if given else ""

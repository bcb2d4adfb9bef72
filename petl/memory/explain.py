"""Says how training steps run each layer, and why: the text of ``petl.summary(model).steps``."""

from __future__ import annotations

from torch import nn

from petl.graft.classes import base_class
from petl.graft.kinds import PAIRED_NORM, grafts
from petl.memory.deferral_scope import PairedNorm
from petl.memory.fast_paths import fast_path_of
from petl.memory.fused_layers import FrozenNorm, FusedConv, FusedLinear
from petl.memory.weight_changes import fuses_with_norm, low_rank_change, scale_trains, weight_grafts, weight_trains
from petl.sites.layers import weight_names


def explain_layers(model: nn.Module, mode: str | None) -> dict[str, str]:
    """Returns, by name, how training steps run each layer with a weight: ``"fused"``, ``"frozen"`` or why it is plain.

    Layers that are plain because nothing in them has changed are left out. ``mode`` is the value of ``memory=``, None where
    the model was wrapped with ``fused=False``.
    """
    of_grafts = {id(part) for module in model.modules() for _, graft in grafts(module) for part in graft.modules()}
    layers = {name: part for name, part in model.named_modules() if id(part) not in of_grafts and weight_names(part)}
    present = {id(module) for module in model.modules()}
    explained = {name: _why_plain(layer, mode) or _explain(layer, present) for name, layer in layers.items()}
    return {name: text for name, text in explained.items() if text}


def _why_plain(layer: nn.Module, mode: str | None) -> str:
    """Returns why the layer runs its plain forward in training steps, or "" where no reason is known."""
    changes = weight_grafts(layer)
    if weight_trains(layer):
        is_computed = layer._parameters.get("weight") is None
        return "plain: its weight is computed" if is_computed else "plain: the weight itself trains"
    if mode is None and changes:
        return "plain: fused=False"
    if changes and low_rank_change(layer) is None:
        return f"plain: {type(changes[0]).__name__} is not one low-rank change"
    if changes and not _is_fused(layer):
        return f"plain: {type(changes[0]).__name__} on {base_class(layer).__name__}, which no kernel knows"
    return ""


def _explain(layer: nn.Module, present: set[int]) -> str:
    """Returns how a fused or frozen layer runs, alone or with the norm after it; ``present`` are ids of the model's modules."""
    is_changed, norm = bool(weight_grafts(layer)), _paired_norm(layer)
    if norm is not None and (id(norm) not in present or fast_path_of(norm) is not FrozenNorm or norm.training):
        return (
            f"{'fused' if is_changed else 'frozen'}; plain norm: the one after it was replaced or set free since wrap"
        )
    if norm is not None and scale_trains(norm):
        return "frozen, with the norm after it: keeps what lies between"
    with_norm = "" if norm is None else ", the norm after it multiplied in"
    if is_changed:
        return f"fused{with_norm}"
    return f"frozen{with_norm}, keeps nothing" if _is_fused(layer) else ""


def _paired_norm(layer: nn.Module) -> nn.Module | None:
    """Returns the norm that is computed together with this convolution, or None."""
    pair: PairedNorm | None = getattr(layer, PAIRED_NORM, None)
    return pair.norm if pair is not None and fuses_with_norm(layer, pair.norm) else None


def _is_fused(layer: nn.Module) -> bool:
    return fast_path_of(layer) in (FusedLinear, FusedConv)

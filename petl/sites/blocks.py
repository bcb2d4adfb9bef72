"""The parts of an architecture: its head, its stem, its blocks and their branches."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from petl.graft.kinds import CONTAINERS, grafts
from petl.sites.channel_axis import channel_axis
from petl.sites.layers import is_layer
from petl.sites.meta import pretrained_cfg
from petl.sites.names import topmost, within
from petl.sites.survey import Survey


def head_names(found: Survey) -> list[str]:
    """The classifier's modules; for models without ``reset_classifier``, none."""
    return list(found.head or [])


def stem_names(found: Survey) -> list[str]:
    """The layers that see the image first: timm's ``first_conv``, else the first convolution or linear layer that runs."""
    first = pretrained_cfg(found.model).get("first_conv") or ()
    names = [n for n in ([first] if isinstance(first, str) else first) if n in found.modules and found.runs(n)]
    if names:
        return names
    layers = [n for n, m in found.modules.items() if is_layer(m) and found.runs(n)]
    return sorted(layers, key=found.order)[:1]


def block_names(found: Survey) -> list[str]:
    """The model's blocks in the order of execution: timm's own groups where it names them, else by structure."""
    names = _grouped_blocks(found)
    names = names if len(names) > 1 else _structural_blocks(found) or _stacked_layers(found)
    return sorted(names, key=found.order)


def _grouped_blocks(found: Survey) -> list[str]:
    """For each of timm's parameter groups, the largest modules that run, hold layers, and lie wholly inside the group."""
    groups = _timm_groups(found.model)
    stems = {groups.get(f"{name}.weight") for name in stem_names(found)}

    def in_one_group(name: str, module: nn.Module) -> bool:
        ids = {groups[key] for key in (f"{name}.{p}" for p, _ in module.named_parameters()) if key in groups}
        return len(ids) == 1 and not ids & stems

    composite = {n: m for n, m in found.modules.items() if n in found.calls and _is_composite(m)}
    whole = [n for n, m in composite.items() if n and in_one_group(n, m) and not _touches_head(found, n)]
    return topmost(whole)


def _timm_groups(model: nn.Module) -> dict[str, int]:
    """Parameter name -> number of its group in timm's own depth order; empty where the model has no such order."""
    from timm.models import group_parameters

    try:
        return group_parameters(model, cast(Any, model).group_matcher(coarse=False), reverse=True)  # type: ignore[return-value]
    except (AttributeError, TypeError, KeyError, ValueError, AssertionError):  # none, or one that doesn't fit the model
        return {}


def _touches_head(found: Survey, name: str) -> bool:
    return any(within(name, [top]) or within(top, [name]) for top in head_names(found))


def _structural_blocks(found: Survey) -> list[str]:
    """Composite modules inside containers (nn.Sequential, nn.ModuleList ...), the innermost that hold no such container."""
    stems = stem_names(found)
    inside = [
        n for n, m in found.modules.items() if n and _is_composite(m) and n in found.calls and _in_container(found, n)
    ]
    inner = [n for n in inside if not any(other.startswith(f"{n}.") for other in inside)]
    return [n for n in inner if not _touches_head(found, n) and not any(within(stem, [n]) for stem in stems)]


def _stacked_layers(found: Survey) -> list[str]:
    """For a plain stack of layers (VGG), each layer with a weight behind the stem."""
    layers = [n for n in found.calls if is_layer(found.modules[n])]
    stems = stem_names(found)
    return [n for n in layers if n and _in_container(found, n) and n not in stems and not _touches_head(found, n)]


def _in_container(found: Survey, name: str) -> bool:
    return isinstance(found.modules[name.rpartition(".")[0]], CONTAINERS)


def _is_composite(module: nn.Module) -> bool:
    """Whether the module is more than one layer: it holds weights of at least two dimensions below it."""
    grown = {id(part) for _, graft in grafts(module) for part in graft.modules()}
    below = [child for child in module.modules() if child is not module and id(child) not in grown]
    return any(p is not None and p.ndim > 1 for child in below for p in child._parameters.values())


def branch_names(found: Survey, block: str) -> list[str]:
    """The block's children that hold layers and return as many channels as the block does, in the order of execution."""
    if isinstance(found.modules[block], nn.Sequential):
        return []
    children = [f"{block}.{name}" for name, child in found.modules[block].named_children() if _is_composite(child)]
    fits = [n for n in children if n in found.calls and _width(found, n) == _width(found, block)]
    return sorted(fits, key=found.order)


def _width(found: Survey, name: str) -> int:
    """Channels of the first tensor that the module returns."""
    shape = next(iter(found.calls[name].outputs), (0,))
    return shape[channel_axis(shape, found.modules[name], found.image[2] / found.image[1])]

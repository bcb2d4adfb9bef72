"""The parts of an architecture: its head, its stem, its blocks and their branches."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from petl.graft.kinds import CONTAINERS, grafts
from petl.sites.channel_axis import channel_axis
from petl.sites.layers import is_layer
from petl.sites.meta import pretrained_cfg
from petl.sites.names import joined, topmost, within
from petl.sites.survey import Survey


def head_names(survey: Survey) -> list[str]:
    """Returns the classifier's modules; none for models without ``reset_classifier``."""
    return list(survey.head or [])


def stem_names(survey: Survey) -> list[str]:
    """Returns the layers that see the image first: timm's ``first_conv``, else the first layer with weights that runs."""
    first = pretrained_cfg(survey.model).get("first_conv") or ()
    names = [n for n in ([first] if isinstance(first, str) else first) if n in survey.modules and survey.runs(n)]
    if names:
        return names
    layers = [n for n, m in survey.modules.items() if is_layer(m) and survey.runs(n)]
    return sorted(layers, key=survey.order)[:1]


def block_names(survey: Survey) -> list[str]:
    """Returns the model's blocks in the order of execution: timm's own groups where it has them, else by structure."""
    names = _grouped_blocks(survey)
    names = names if len(names) > 1 else _structural_blocks(survey) or _stacked_layers(survey)
    return sorted(names, key=survey.order)


def _grouped_blocks(survey: Survey) -> list[str]:
    """For each of timm's parameter groups, the largest modules that run, hold layers, and lie wholly inside the group."""
    groups = _timm_groups(survey.model)
    stems = {groups.get(f"{name}.weight") for name in stem_names(survey)}

    def in_one_group(name: str, module: nn.Module) -> bool:
        ids = {groups[key] for key in (joined(name, p) for p, _ in module.named_parameters()) if key in groups}
        return len(ids) == 1 and not ids & stems

    composite = {n: m for n, m in survey.modules.items() if n in survey.calls and _is_composite(m)}
    whole = [n for n, m in composite.items() if n and in_one_group(n, m) and not _touches_head(survey, n)]
    return topmost(whole)


def _timm_groups(model: nn.Module) -> dict[str, int]:
    """Parameter name -> number of its group in timm's own depth order; empty where the model has no such order."""
    from timm.models import group_parameters

    try:
        return group_parameters(model, cast(Any, model).group_matcher(coarse=False), reverse=True)  # type: ignore[return-value]
    except (AttributeError, TypeError, KeyError, ValueError, AssertionError):  # none, or one that doesn't fit the model
        return {}


def _touches_head(survey: Survey, name: str) -> bool:
    return any(within(name, [top]) or within(top, [name]) for top in head_names(survey))


def _structural_blocks(survey: Survey) -> list[str]:
    """Composite modules inside containers (nn.Sequential, nn.ModuleList ...), the innermost that hold no such container."""
    stems = stem_names(survey)
    inside = [
        n
        for n, m in survey.modules.items()
        if n and _is_composite(m) and n in survey.calls and _in_container(survey, n)
    ]
    inner = [n for n in inside if not any(other.startswith(f"{n}.") for other in inside)]
    return [n for n in inner if not _touches_head(survey, n) and not any(within(stem, [n]) for stem in stems)]


def _stacked_layers(survey: Survey) -> list[str]:
    """For a plain stack of layers (VGG), each layer with a weight behind the stem."""
    layers = [n for n in survey.calls if is_layer(survey.modules[n])]
    stems = stem_names(survey)
    return [n for n in layers if n and _in_container(survey, n) and n not in stems and not _touches_head(survey, n)]


def _in_container(survey: Survey, name: str) -> bool:
    return isinstance(survey.modules[name.rpartition(".")[0]], CONTAINERS)


def _is_composite(module: nn.Module) -> bool:
    """Returns whether the module is more than one layer: it holds weights of at least two dimensions below it."""
    grown = {id(part) for _, graft in grafts(module) for part in graft.modules()}
    below = [child for child in module.modules() if child is not module and id(child) not in grown]
    return any(p is not None and p.ndim > 1 for child in below for p in child._parameters.values())


def branch_names(survey: Survey, block: str) -> list[str]:
    """Returns the block's children that hold layers and return as many channels as the block, in the order of execution."""
    if isinstance(survey.modules[block], nn.Sequential):
        return []
    children = [joined(block, name) for name, child in survey.modules[block].named_children() if _is_composite(child)]
    fits = [n for n in children if n in survey.calls and _width(survey, n) == _width(survey, block)]
    return sorted(fits, key=survey.order)


def _width(survey: Survey, name: str) -> int:
    """Channels of the first tensor that the module returns."""
    shape = next(iter(survey.calls[name].outputs), (0,))
    return shape[channel_axis(shape, survey.modules[name], survey.image[2] / survey.image[1])]

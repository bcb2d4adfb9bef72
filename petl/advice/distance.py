"""How far the images are from those that the model was trained on: by BatchNorm's statistics, and by the first layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from petl.extraction.norm_moments import ChannelMoments, running_norms
from petl.graft.values import own_value
from petl.measures.norm_gap import norm_gap, thirds
from petl.measures.stem_reach import gray_images, stem_reach
from petl.sites.selection import select
from petl.sites.survey import survey_model

EARLY = 1.0  # a gap as of one deviation in every channel


@dataclass(frozen=True)
class LayerGap:
    """The gap of a norm layer (`petl.measures.norm_gap`); ``depth`` is 0 for the first and 1 for the last of them."""

    layer: str
    depth: float
    gap: float


@dataclass(frozen=True)
class Profile:
    """The gaps of all norm layers with running statistics in the order in which they run, and the means of their thirds.

    ``applicable``: whether the model has such layers. What is nan is unknown.
    """

    applicable: bool
    layers: tuple[LayerGap, ...] = ()
    first: float = math.nan
    middle: float = math.nan
    last: float = math.nan


@dataclass(frozen=True)
class StemFacts:
    """What gray images reach of the first layer.

    Attributes:
        layer: Its name; "" where the model has no convolution that takes the image.
        channels: That it takes.
        reach: The share of its filters' energy that an image with equal channels can reach; nan where it isn't known.
        filters: The same for each filter.
        gray: The share of the measured images that are gray.
    """

    layer: str
    channels: int
    reach: float
    filters: tuple[float, ...]
    gray: float


def profile_of(model: nn.Module, moments: Mapping[str, ChannelMoments]) -> Profile:
    """Returns how far what each norm layer receives is from the running statistics that it carries."""
    norms = running_norms(model)
    known = {
        name: (norms[name].running_mean, norms[name].running_var, float(getattr(norms[name], "eps", 0.0)))
        for name in moments
    }
    return _profile({name: _gap(moments[name], *known[name]) for name in moments})


def profile_between(
    moments: Mapping[str, ChannelMoments], known: Mapping[str, ChannelMoments], model: nn.Module
) -> Profile:
    """Returns how far what each norm layer receives of some images is from what it receives of others."""
    norms = running_norms(model)
    both = [name for name in moments if name in known]
    return _profile(
        {
            name: _gap(moments[name], known[name].mean, known[name].variance, float(getattr(norms[name], "eps", 0.0)))
            for name in both
        }
    )


def _gap(found: ChannelMoments, mean: Any, variance: Any, eps: float) -> float:
    return norm_gap(found.mean, found.variance, mean.detach().cpu(), variance.detach().cpu(), eps)


def _profile(gaps: Mapping[str, float]) -> Profile:
    if not gaps:
        return Profile(False)
    last = max(1, len(gaps) - 1)
    layers = tuple(LayerGap(name, place / last, gap) for place, (name, gap) in enumerate(gaps.items()))
    return Profile(True, layers, *thirds([layer.gap for layer in layers]))


def stem_facts(model: nn.Module, pictures: Tensor, *, same_scale: bool) -> StemFacts:
    """Returns what gray images reach of the first layer, and how many of the small pictures are gray."""
    gray = float(gray_images(pictures, same_scale=same_scale).double().mean())
    for name, module in _stems(model):
        weight = own_value(module, "weight")
        reach = stem_reach(weight)
        return StemFacts(name, weight.shape[1], reach.share, tuple(reach.filters.tolist()), gray)
    return StemFacts("", pictures.shape[1], math.nan, (), gray)


def _stems(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Returns the convolutions that take the image, which have several channels and one group."""
    survey = survey_model(model)
    found = [(site.name, survey.modules[site.name]) for site in select(survey, "stem")]
    return [(name, m) for name, m in found if isinstance(m, nn.Conv2d) and m.groups == 1 and m.weight.ndim == 4]

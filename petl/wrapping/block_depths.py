"""How deep each parameter of a model is: in which block, in the order in which the blocks run."""

from __future__ import annotations

import bisect
from typing import Any, cast

from torch import nn

from petl.sites.blocks import block_names
from petl.sites.names import within
from petl.sites.survey import survey_model


def block_depths(model: nn.Module) -> dict[str, int]:
    """Returns the depth of each parameter by name: 0 before the first block, then one more for each, the last one behind all.

    The blocks are those of timm's depth order, and where a model has no such order, those that a forward on shapes alone shows.
    A graft's parameters are as deep as the layer that the graft is on. Empty where no blocks are found.

    >>> import timm
    >>> depths = block_depths(timm.create_model("test_vit"))
    >>> depths["patch_embed.proj.weight"], depths["blocks.1.mlp.fc1.weight"], depths["head.weight"]
    (0, 2, 7)
    """
    depths = _by_timm(model)
    return depths if len({*depths.values()}) > 2 else _by_survey(model)


def _by_timm(model: nn.Module) -> dict[str, int]:
    from timm.models import group_parameters

    try:
        matcher = cast(Any, model).group_matcher(coarse=False)
        return cast(dict[str, int], group_parameters(model, matcher, reverse=True))
    except (AttributeError, TypeError, KeyError, ValueError, AssertionError):  # none, or one that doesn't fit the model
        return {}


def _by_survey(model: nn.Module) -> dict[str, int]:
    survey = survey_model(model)
    blocks = [] if survey.failed else block_names(survey)
    if not blocks:
        return {}
    begins = [survey.order(block) for block in blocks]
    depths = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0]
        inside = next((number for number, block in enumerate(blocks, 1) if within(owner, [block])), None)
        before = bisect.bisect_left(begins, survey.order(owner))  # blocks that have begun by then
        depths[name] = inside if inside is not None else before + (before == len(blocks))
    return depths

"""Finds the frozen norm that follows each convolution."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from petl.graft.classes import is_held_in_eval
from petl.graft.kinds import OutputGraft, grafts
from petl.memory.deferral_scope import PairedNorm
from petl.memory.layer_kinds import is_plain_conv, is_plain_norm
from petl.sites.names import ancestors
from petl.sites.survey import Survey


def conv_norm_pairs(survey: Survey) -> Iterator[tuple[nn.Module, PairedNorm]]:
    """Yields each convolution with the frozen norm that alone takes its output, and the module inside which both run."""
    for conv_name, norm_name in survey.sole_consumer.items():
        conv, norm = (_submodule(survey.model, name) for name in (conv_name, norm_name))
        is_pair = is_plain_conv(conv) and is_plain_norm(norm) and is_held_in_eval(norm)
        if is_pair and not any(isinstance(graft, OutputGraft) for _, graft in (*grafts(conv), *grafts(norm))):
            around_norm = {*ancestors(norm_name)}
            around_both = (name for name in ancestors(conv_name) if name in around_norm and name in survey.calls)
            yield conv, PairedNorm(_submodule(survey.model, next(around_both, "")), norm)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    """Returns the module of that name, or an empty one: a classifier may have been replaced since the survey."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return nn.Module()

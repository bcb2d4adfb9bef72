"""Which frozen norm follows which convolution."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from petl.graft.graft import OutputGraft, grafts, is_still
from petl.memory.deferral_scope import PairedNorm
from petl.memory.layer_kinds import is_plain_conv, is_plain_norm
from petl.sites.survey import Survey, ancestors


def conv_norm_pairs(found: Survey) -> Iterator[tuple[nn.Module, PairedNorm]]:
    """Each convolution with the frozen norm that alone takes what it returns, and the module inside which both run."""
    for name, taker in found.feeds.items():
        conv, norm = (_submodule(found.model, n) for n in (name, taker))
        fits = is_plain_conv(conv) and is_plain_norm(norm) and is_still(norm)
        if fits and not any(isinstance(graft, OutputGraft) for _, graft in (*grafts(conv), *grafts(norm))):
            around = {*ancestors(taker)}
            scope = next((above for above in ancestors(name) if above in around and above in found.calls), "")
            yield conv, PairedNorm(_submodule(found.model, scope), norm)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, or an empty one: a classifier may have been replaced since."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return nn.Module()

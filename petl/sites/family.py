"""Which of the two families a model belongs to: convolutional nets and transformers take different learning rates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from petl.graft.kinds import Graft
from petl.sites.layers import has_running_statistics, is_layer, layer_roles

Family = Literal["cnn", "transformer"]


def family_of(model: nn.Module) -> Family:
    """Returns "transformer" for a model whose norms are layer norms in the main, "cnn" for others.

    It is the norms that set the rates which a net bears: ConvNeXt and MLP-Mixers, with LayerNorms, are trained as transformers
    are; LeViT, with BatchNorms, as a convolutional net. A model without norms is a transformer where most of its layers are
    linear. Grafts don't count.

    >>> import timm
    >>> family_of(timm.create_model("test_resnet")), family_of(timm.create_model("test_vit"))
    ('cnn', 'transformer')
    """
    grown = {part for module in model.modules() if isinstance(module, Graft) for part in module.modules()}
    own = [module for module in model.modules() if module not in grown]
    norms = [module for module in own if "norm" in layer_roles(module)]
    if norms:
        return _family_by_majority(_is_layer_norm(norm) for norm in norms)
    return _family_by_majority("linear" in layer_roles(module) for module in own if is_layer(module))


def _family_by_majority(votes: Iterable[bool]) -> Family:
    counted = list(votes)
    return "transformer" if 2 * sum(counted) > len(counted) else "cnn"


def _is_layer_norm(norm: nn.Module) -> bool:
    """Returns whether the norm is over all channels of a position or an image: no batch, and no groups of channels."""
    in_groups = isinstance(norm, nn.GroupNorm) and norm.num_groups > 1
    return not (has_running_statistics(norm) or in_groups or isinstance(norm, nn.modules.instancenorm._InstanceNorm))

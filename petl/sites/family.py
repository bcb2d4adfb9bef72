"""Which of the two families a model belongs to: convolutional nets and transformers take different learning rates."""

from __future__ import annotations

from typing import Literal

from torch import nn

from petl.graft.kinds import Graft
from petl.sites.layers import layer_roles

Family = Literal["cnn", "transformer"]


def family_of(model: nn.Module) -> Family:
    """Returns "cnn" where at least half of a model's own layers are convolutions, else "transformer".

    Counted are linear layers against convolutions, grafts left out. So ConvNeXt, most of whose layers are linear ones between
    LayerNorms, is a "transformer", and takes the rates of one; an MLP-Mixer, too.

    >>> import timm
    >>> family_of(timm.create_model("test_resnet")), family_of(timm.create_model("test_vit"))
    ('cnn', 'transformer')
    """
    grown = {part for module in model.modules() if isinstance(module, Graft) for part in module.modules()}
    roles = [role for module in model.modules() if module not in grown for role in layer_roles(module)]
    linear = roles.count("linear")
    return "transformer" if linear > roles.count("conv") + roles.count("depthwise") else "cnn"

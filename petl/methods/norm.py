"""Norm tuning: the affine parameters of every normalisation layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from petl.methods.bn import BN
from petl.methods.registry import register
from petl.methods.statistics import Stats
from petl.sites.layers import layer_roles
from petl.sites.sites import Where


@register("norm")
@dataclass(frozen=True, kw_only=True)
class Norm(BN):
    """Norm tuning: scale and shift of norms of every kind: LayerNorm, BatchNorm, GroupNorm, RMSNorm ... (arXiv:2312.11420).

    As ``bn``, for every kind of norm; running statistics, where there are any, are frozen unless ``stats="adapt"``.
    The smallest method for transformers: ViT-S/16 has 19 thousand such numbers.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "norm", num_classes=5)
    >>> "blocks.0.norm1.weight" in petl.trainable(model)
    True
    """

    where: Where = "norm"
    stats: Stats = "keep"

    def fits(self, module: nn.Module) -> bool:
        return "norm" in layer_roles(module)

    def hint(self) -> str:
        return "; this net has no norm layers: try 'bias' or 'lora'"

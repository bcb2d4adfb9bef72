"""BN tuning: the affine parameters and the running statistics of BatchNorm layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from petl.errors import MethodError
from petl.methods.method import Method
from petl.methods.rates import TrainedTensor, rate_for
from petl.methods.registry import register
from petl.methods.statistics import STATISTICS, Stats, check_stats
from petl.sites.layers import layer_roles
from petl.sites.sites import Site, Where


@register("bn")
@dataclass(frozen=True, kw_only=True)
class BN(Method):
    """BN tuning: affine parameters and statistics of BatchNorm layers (Frankle et al. 2020, arXiv:2003.00152).

    Options:
        where: the layers; the default is every norm with running statistics outside the head.
        affine: train scale and shift.
        stats: ``"adapt"`` lets the running statistics move in training and saves them; ``"keep"`` keeps them as they are.

    Statistics that adapt see the new domain's images as they are (Li et al. 2016, arXiv:1603.04779): for many images that
    look different from the backbone's. With small batches or few epochs they are noise, and ``stats="keep"`` is better.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_resnet"), "bn", stats="keep", num_classes=5)
    >>> "conv1.1.weight" in petl.trainable(model)
    True
    """

    where: Where = "batchnorm"
    affine: bool = True
    stats: Stats = "adapt"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stats(self.name, self.stats)
        if not self.affine and self.stats == "keep":
            raise MethodError(f"{self.name}: affine=False with stats='keep' leaves nothing to tune; set one of them")

    def fits(self, module: nn.Module) -> bool:
        return "batchnorm" in layer_roles(module)

    def hint(self) -> str:
        return "; this net has no BatchNorm: try 'norm' (every kind of norm), 'bias' or 'lora'"

    def trains(self, module: nn.Module, site: Site) -> Iterable[str]:
        affine = module._parameters if self.affine else {}
        moving = STATISTICS if self.stats == "adapt" else ()
        return [*(k for k, p in affine.items() if p is not None), *(k for k in moving if k in module._buffers)]

    def rate(self, tensor: TrainedTensor) -> float:
        return rate_for("norm", tensor)

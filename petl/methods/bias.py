"""BitFit: the biases alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from petl.errors import SiteError
from petl.methods.method import Method
from petl.methods.rates import TrainedTensor, rate_for
from petl.methods.registry import register
from petl.sites.layers import bias_names
from petl.sites.roles import all_sites
from petl.sites.selection import select
from petl.sites.sites import Site, Sites, Where
from petl.sites.survey import Survey


@register("bias")
@dataclass(frozen=True, kw_only=True)
class Bias(Method):
    """BitFit: trains the biases alone, also those that live on attention modules (Ben Zaken et al. 2021, arXiv:2106.10199).

    Options:
        where: the layers whose biases train; the default is every module outside the head that has one.

    In a CNN most biases are the shifts of its BatchNorms. Biases of the attention of BEiT, EVA and Swin-V2 (``q_bias``,
    ``v_bias``) belong to the attention module and are found there.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "bias", num_classes=5)
    >>> "blocks.0.attn.qkv.bias" in petl.trainable(model)
    True
    """

    where: Where = "all"

    def plan(self, survey: Survey) -> Sites:
        everything = all_sites(survey) if self.where == "all" else select(survey, self.where)
        kept = Sites(site for site in everything if "head" not in site.roles and _reads_a_bias(survey, site))
        if not kept:
            kind = type(survey.model).__name__
            raise SiteError(f"bias: {kind} has no biases at where={self.where!r}; try 'norm' or 'lora'")
        return kept

    def trains(self, module: nn.Module, site: Site) -> Iterable[str]:
        return bias_names(module)

    def rate(self, tensor: TrainedTensor) -> float:
        return rate_for("bias", tensor)


def _reads_a_bias(survey: Survey, site: Site) -> bool:
    return any(survey.reads(site.name, leaf) for leaf in bias_names(survey.modules[site.name]))

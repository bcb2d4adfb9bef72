"""Full fine-tuning: every parameter; the yardstick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from petl.methods.method import Method
from petl.methods.registry import register
from petl.methods.statistics import Stats, check_stats, has_own_parameters, own_tensors
from petl.sites.roles import all_sites
from petl.sites.sites import Site, Sites
from petl.sites.survey import Survey


@register("full")
@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Full fine-tuning: trains every parameter; the yardstick that the other methods are held against.

    Options:
        stats: BatchNorm's running statistics: ``"keep"`` (frozen, better for small data) or ``"adapt"``.

    The delta holds the whole model.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "full", num_classes=5)
    >>> len(petl.trainable(model)) == len(list(model.parameters()))
    True
    """

    stats: Stats = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stats(self.name, self.stats)

    def plan(self, survey: Survey) -> Sites:
        return Sites(
            site for site in all_sites(survey) if "head" not in site.roles and has_own_parameters(survey, site)
        )

    def trains(self, module: nn.Module, site: Site) -> Iterable[str]:
        return own_tensors(module, self.stats)

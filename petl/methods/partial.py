"""Partial fine-tuning: the last blocks, the first blocks, or both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from petl.errors import MethodError, SiteError
from petl.methods.method import Method
from petl.methods.rates import TrainedTensor, rate_for
from petl.methods.registry import register
from petl.methods.statistics import Stats, check_stats, has_own_parameters, own_tensors
from petl.sites.roles import all_sites
from petl.sites.selection import select
from petl.sites.sites import Site, Sites
from petl.sites.survey import Survey


@register("partial")
@dataclass(frozen=True, kw_only=True)
class Partial(Method):
    """Partial fine-tuning: trains blocks at the end with all that follows them, or blocks at the start with the stem, or both.

    Options:
        last: how many blocks at the end train, with the norms and layers behind them (Yosinski et al. 2014, arXiv:1411.1792).
        first: how many blocks at the start train, with the stem: for new sensors and textures, where the shift is in the
            low-level statistics (surgical fine-tuning, Lee et al. 2022, arXiv:2210.11466).
        stats: running statistics inside them: ``"keep"`` or ``"adapt"``.

    Blocks are timm's own, in the order in which they run: ``petl.find(model, "block")`` lists them.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "partial", last=1, num_classes=5)
    >>> sorted({name.split(".")[0] + "." + name.split(".")[1] for name in petl.trainable(model)})[:1]
    ['blocks.5']
    """

    last: int = 1
    first: int = 0
    stats: Stats = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stats(self.name, self.stats)
        if min(self.last, self.first) < 0 or self.last + self.first == 0:
            raise MethodError(
                f"partial: last={self.last}, first={self.first}; give numbers of blocks, at least one above 0"
            )

    def plan(self, survey: Survey) -> Sites:
        blocks = select(survey, "block")
        if max(self.last, self.first) > len(blocks):
            raise SiteError(
                f"partial: last={self.last}, first={self.first}, but {type(survey.model).__name__} has {len(blocks)} blocks; "
                f"petl.find(model, 'block') lists them, and 'full' trains everything"
            )
        start = blocks[-self.last].order if self.last else float("inf")
        end = blocks[self.first].order if 0 < self.first < len(blocks) else float("inf") if self.first else -1
        everything = [
            site for site in all_sites(survey) if "head" not in site.roles and has_own_parameters(survey, site)
        ]
        return Sites(site for site in everything if site.order >= start or site.order < end)

    def trains(self, module: nn.Module, site: Site) -> Iterable[str]:
        return own_tensors(module, self.stats)

    def rate(self, tensor: TrainedTensor) -> float:
        return rate_for("partial", tensor)

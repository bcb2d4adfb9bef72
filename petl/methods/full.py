"""Full fine-tuning: every parameter; the yardstick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from petl.methods.bn import Stats, check_stats
from petl.methods.method import STATISTICS, Method, register
from petl.sites.sites import Site, Sites, all_sites
from petl.sites.survey import Survey


@register("full")
@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Full fine-tuning: trains every parameter; the yardstick that the other methods are held against.

    Options:
        stats: BatchNorm's running statistics: ``"keep"`` (held still, better for small data) or ``"adapt"``.

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

    def plan(self, found: Survey) -> Sites:
        return Sites(site for site in all_sites(found) if "head" not in site.roles and owns(found, site))

    def trains(self, module: nn.Module, site: Site) -> Iterable[str]:
        return own_tensors(module, self.stats)


def owns(found: Survey, site: Site) -> bool:
    """Whether the module has tensors of its own, not only its children."""
    return any(p is not None for p in found.modules[site.name]._parameters.values())


def own_tensors(module: nn.Module, stats: str) -> list[str]:
    """The module's own parameters, and its running statistics where ``stats`` is "adapt"."""
    moving = STATISTICS if stats == "adapt" else ()
    return [*(k for k, p in module._parameters.items() if p is not None), *(k for k in moving if k in module._buffers)]

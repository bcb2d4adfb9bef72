"""Which of a module's own tensors train in place: parameters, and running statistics where they adapt."""

from __future__ import annotations

from typing import Literal

from torch import nn

from petl.errors import MethodError
from petl.sites.sites import Site
from petl.sites.survey import Survey

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
Stats = Literal["adapt", "keep"]


def check_stats(name: str, stats: str) -> None:
    """Raises a MethodError where ``stats`` is neither "adapt" nor "keep"."""
    if stats not in ("adapt", "keep"):
        raise MethodError(f"{name}: stats={stats!r}; it is 'adapt' (move in training, saved) or 'keep' (held still)")


def has_own_parameters(survey: Survey, site: Site) -> bool:
    """Returns whether the site's module has parameters of its own, not only its children's."""
    return any(p is not None for p in survey.modules[site.name]._parameters.values())


def own_tensors(module: nn.Module, stats: str) -> list[str]:
    """Returns the names of the module's own parameters, and its running statistics where ``stats`` is "adapt"."""
    moving = STATISTICS if stats == "adapt" else ()
    return [*(k for k, p in module._parameters.items() if p is not None), *(k for k in moving if k in module._buffers)]

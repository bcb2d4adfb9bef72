"""Those keyword arguments of `fit` that say whether the frozen part is computed once and cached."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

from petl.errors import PetlError
from petl.training.setting_checks import (
    ABOVE_ZERO,
    INFINITY,
    LARGEST_FINITE,
    Bounds,
    refuse_kinds,
    refuse_numbers,
)

FEATURE_BOUNDS = {
    "views": Bounds(Integral, 0, INFINITY, "at least 0, or None", optional=True),
    "cache_limit": Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "gigabytes above 0, such as 10"),
}


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """Whether the frozen part is computed once and cached. It can't be where the loss mixes images, or needs them."""

    views: int | None
    cache: bool | str | Path | None
    cache_limit: float
    mixes: bool
    needs_images: str  # the option for which the whole model runs in every step, or ""

    def __post_init__(self) -> None:
        refuse_numbers(self, FEATURE_BOUNDS)
        refuse_kinds(self, {"cache": ((bool, str, Path, type(None)), "None, True, False, or the path of a folder")})
        if self.views and self.mixes:
            raise PetlError(
                f"views={self.views} with mixup or cutmix: only images can be mixed; pass views=0 or no mixes"
            )
        if self.views and self.needs_images:
            raise PetlError(
                f"views={self.views} with {self.needs_images}, for which the whole model runs in every step"
            )
        if self.cache and self.views == 0:
            raise PetlError(
                f"cache={self.cache!r} with views=0, which runs the backbone in every epoch; leave one of them out"
            )

    @property
    def limit(self) -> float:
        """Returns the bytes that features may take on disk."""
        return self.cache_limit * 1e9

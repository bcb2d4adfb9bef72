"""Those keyword arguments of `fit` that say how data is read, what is kept, and what is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from petl.data.sampling import refuse_sampling
from petl.errors import PetlError
from petl.format.outputs import label_texts
from petl.training.setting_checks import INFINITY, Bounds, refuse_keys, refuse_kinds, refuse_numbers

DATA_BOUNDS = {
    "batch_size": Bounds(Integral, 1, INFINITY, "at least 1"),
    "workers": Bounds(Integral, 0, INFINITY, "at least 0"),
}
RUN_BOUNDS = {
    **DATA_BOUNDS,
    "seed": Bounds(Integral, 0, INFINITY, "at least 0"),
    "patience": Bounds(Integral, 1, INFINITY, "at least 1, or None", optional=True),
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How data is read, which results are kept and written, and what is told."""

    batch_size: int
    out: str | Path | None
    labels: Sequence[str] | None
    keys: Sequence[str | int] | None
    transform: Callable[..., Any] | None
    sampling: Any
    monitor: str | None
    patience: int | None
    keep: str
    checkpoint: str | Path | None
    resume: bool | str | Path
    seed: int
    workers: int
    strict: bool
    precision: str | None
    progress: bool
    on_epoch: Callable[[dict[str, Any]], Any] | None

    def __post_init__(self) -> None:
        refuse_numbers(self, RUN_BOUNDS)
        if self.keep not in ("last", "best"):
            raise PetlError(f"keep={self.keep!r}; expected 'last' or 'best'")
        refuse_kinds(self, {"out": ((str, Path, type(None)), "the path of a file, or None")})
        refuse_kinds(self, {"checkpoint": ((str, Path, type(None)), "the path of a folder, or None")})
        refuse_kinds(self, {"resume": ((bool, str, Path), "True, False, or the path of a folder")})
        refuse_kinds(self, {"on_epoch": ((Callable, type(None)), "a function of a row of the history, or None")})
        refuse_kinds(self, {"transform": ((Callable, type(None)), "a function of an image, or None")})
        refuse_sampling(self.sampling)
        if self.labels is not None and not label_texts(self.labels):
            raise PetlError(f"labels={self.labels!r} are none; give one name for each output, or leave labels out")
        refuse_keys(self.keys)
        if self.resume is True and self.checkpoint is None:
            raise PetlError("resume=True needs checkpoint=, the folder that the run wrote its checkpoints to")

    @property
    def names(self) -> list[str] | None:
        """Returns the class names that were given, as texts."""
        return label_texts(self.labels)

    def refuse_unmeasured(self, val: Any) -> None:
        """Raises a PetlError for what needs validation data where there is none."""
        if val is None and (self.patience is not None or self.keep == "best"):
            raise PetlError("patience= and keep='best' need validation data: petl.fit(model, train, val, patience=3)")

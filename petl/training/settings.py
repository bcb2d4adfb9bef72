"""The keyword arguments of `fit` in four parts, each of which refuses what it can't be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.errors import PetlError, StateError, near
from petl.format.outputs import label_texts
from petl.training.checkpoints import refuse_checkpoint_folder
from petl.training.metrics import METRIC_NAMES
from petl.training.rehearsal import refuse_delta_path
from petl.training.setting_checks import (
    ABOVE_ZERO,
    BELOW_ONE,
    INFINITY,
    LARGEST_FINITE,
    Bounds,
    refuse_keys,
    refuse_kinds,
    refuse_numbers,
)
from petl.wrapping.lookup import bare

OptimizerChoice = str | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

OPTIMIZER_BOUNDS = {
    "epochs": Bounds(Integral, 1, INFINITY, "at least 1"),
    "accumulate": Bounds(Integral, 1, INFINITY, "at least 1"),
    "lr": Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "a number above 0, such as 1e-3"),
    "weight_decay": Bounds(Real, 0, LARGEST_FINITE, "0 or more, such as 0.01"),
    "layer_decay": Bounds(Real, ABOVE_ZERO, 1, "a factor above 0 and up to 1, such as 0.75, or None", optional=True),
    "min_lr": Bounds(Real, 0, LARGEST_FINITE, "0 or more"),
    "clip": Bounds(Real, ABOVE_ZERO, INFINITY, "a number above 0, such as 1.0, or None", optional=True),
    "ema": Bounds(Real, 0, BELOW_ONE, "a decay of 0 or more and less than 1, such as 0.999, or None", optional=True),
}
LOSS_BOUNDS = {
    "label_smoothing": Bounds(Real, 0, BELOW_ONE, "0 or more, and less than 1"),
    "mixup": Bounds(Real, 0, LARGEST_FINITE, "0 (off) or more, such as 0.2"),
    "cutmix": Bounds(Real, 0, LARGEST_FINITE, "0 (off) or more, such as 1.0"),
}
FEATURE_BOUNDS = {
    "views": Bounds(Integral, 0, INFINITY, "at least 0, or None", optional=True),
    "cache_limit": Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "gigabytes above 0, such as 10"),
}
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
class OptimizerSettings:
    """How the weights are updated: optimizer, learning rates, length of the training, averages."""

    epochs: int
    lr: float
    optimizer: OptimizerChoice
    weight_decay: float
    layer_decay: float | None
    schedule: str
    warmup_epochs: float | None
    min_lr: float
    accumulate: int
    clip: float | None
    ema: float | None

    def __post_init__(self) -> None:
        refuse_numbers(self, OPTIMIZER_BOUNDS)
        warmup = Bounds(Real, 0, self.epochs, f"0 to epochs={self.epochs}, or None", optional=True)
        refuse_numbers(self, {"warmup_epochs": warmup})
        if self.min_lr > self.lr:
            raise PetlError(f"min_lr={self.min_lr} is above lr={self.lr}; expected a number from 0 to lr")
        maker = "a name of timm.optim's, or what makes an optimizer from parameter groups"
        refuse_kinds(self, {"optimizer": ((str, Callable), maker)})
        refuse_kinds(self, {"schedule": ((str,), "'cosine', 'poly', 'tanh' or 'none'")})


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What the loss of a batch is."""

    label_smoothing: float
    mixup: float
    cutmix: float
    class_weights: Any

    def __post_init__(self) -> None:
        refuse_numbers(self, LOSS_BOUNDS)

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """Whether the frozen part is computed once and cached. ``mixes``: the loss mixes images, so it can't be."""

    views: int | None
    cache: bool | str | Path | None
    cache_limit: float
    mixes: bool

    def __post_init__(self) -> None:
        refuse_numbers(self, FEATURE_BOUNDS)
        refuse_kinds(self, {"cache": ((bool, str, Path, type(None)), "None, True, False, or the path of a folder")})
        if self.views and self.mixes:
            raise PetlError(
                f"views={self.views} with mixup or cutmix: only images can be mixed; pass views=0 or no mixes"
            )
        if self.cache and self.views == 0:
            raise PetlError(
                f"cache={self.cache!r} with views=0, which runs the backbone in every epoch; leave one of them out"
            )

    @property
    def limit(self) -> float:
        """Returns the bytes that features may take on disk."""
        return self.cache_limit * 1e9


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How data is read, which results are kept and written, and what is told."""

    batch_size: int
    out: str | Path | None
    labels: Sequence[str] | None
    keys: Sequence[str | int] | None
    monitor: str
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
        if self.monitor not in METRIC_NAMES:
            hint = near(self.monitor, METRIC_NAMES) if isinstance(self.monitor, str) else ""
            raise PetlError(f"monitor={self.monitor!r}; expected one of {', '.join(METRIC_NAMES)}{hint}")
        if self.keep not in ("last", "best"):
            raise PetlError(f"keep={self.keep!r}; expected 'last' or 'best'")
        refuse_kinds(self, {"out": ((str, Path, type(None)), "the path of a file, or None")})
        refuse_kinds(self, {"checkpoint": ((str, Path, type(None)), "the path of a folder, or None")})
        refuse_kinds(self, {"resume": ((bool, str, Path), "True, False, or the path of a folder")})
        refuse_kinds(self, {"on_epoch": ((Callable, type(None)), "a function of a row of the history, or None")})
        label_texts(self.labels)
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
            raise PetlError(
                "patience= and keep='best' need validation data: petl.fit(model, train, val, epochs=10, lr=1e-3, patience=3)"
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keyword arguments of ``fit``."""

    optim: OptimizerSettings
    loss: LossSettings
    features: FeatureSettings
    run: RunSettings

    def refuse_impossible(self, val: Any, model: nn.Module) -> None:
        """Raises a PetlError for what can be known to fail before any data is read."""
        self.run.refuse_unmeasured(val)
        if not any(p.requires_grad for p in model.parameters()):
            raise StateError(f"no parameter of this {type(bare(model)).__name__} trains; call petl.wrap first")
        if self.run.out is not None:
            refuse_delta_path(self.run.out, model)
        if self.run.checkpoint is not None:
            refuse_checkpoint_folder(self.run.checkpoint)

    def keywords(self) -> dict[str, Any]:
        """Returns all settings under the names of ``fit``'s keyword arguments."""
        parts = (self.optim, self.loss, self.features, self.run)
        values = {field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}
        del values["mixes"]  # it follows from mixup and cutmix
        return values

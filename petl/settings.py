"""What ``fit`` was asked for, and a refusal of what can't be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.errors import PetlError, StateError, near
from petl.metrics import NAMES
from petl.record import bare, record

Optimizer = str | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Settings:
    """The keyword arguments of ``fit``."""

    epochs: int
    lr: float
    batch_size: int
    optimizer: Optimizer
    weight_decay: float
    layer_decay: float | None
    schedule: str
    warmup_epochs: float | None
    min_lr: float
    accumulate: int
    clip: float | None
    label_smoothing: float
    mixup: float
    cutmix: float
    class_weights: Any
    ema: float | None
    out: str | Path | None
    labels: Sequence[str] | None
    monitor: str
    patience: int | None
    keep: str
    checkpoint: str | Path | None
    resume: bool | str | Path
    views: int | None
    cache: bool | str | Path | None
    cache_limit: float
    seed: int
    workers: int
    strict: bool
    precision: str | None
    progress: bool
    on_epoch: Callable[[dict[str, Any]], Any] | None

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    @property
    def limit(self) -> float:
        """Bytes that features may take."""
        return self.cache_limit * 1e9

    def refuse_impossible(self, val: Any, model: nn.Module) -> None:
        """What can be known before anything is read."""
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise PetlError(f"{name}={getattr(self, name)}; expected at least {least}")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs <= self.epochs:
            raise PetlError(f"warmup_epochs={self.warmup_epochs}; expected 0 to epochs={self.epochs}")
        if not self.lr > 0:
            raise PetlError(f"lr={self.lr}; expected a number above 0, such as 1e-3")
        if self.monitor not in NAMES:
            raise PetlError(f"monitor={self.monitor!r}; expected one of {', '.join(NAMES)}{near(self.monitor, NAMES)}")
        if self.keep not in ("last", "best"):
            raise PetlError(f"keep={self.keep!r}; expected 'last' or 'best'")
        if val is None and (self.patience is not None or self.keep == "best"):
            raise PetlError("patience= and keep='best' need validation data: fit(model, train, val, ...)")
        if self.resume is True and self.checkpoint is None:
            raise PetlError("resume=True needs checkpoint=, the folder that the run wrote its checkpoints to")
        if self.views and self.mixes:
            raise PetlError(
                f"views={self.views} with mixup or cutmix: only images can be mixed; pass views=0 or no mixes"
            )
        if self.cache and self.views == 0:
            raise PetlError(
                f"cache={self.cache!r} with views=0, which runs the backbone in every epoch; leave one of them out"
            )
        if not self.cache_limit > 0:
            raise PetlError(f"cache_limit={self.cache_limit}; expected gigabytes above 0, such as 10")
        if not any(p.requires_grad for p in model.parameters()):
            raise StateError(f"no parameter of this {type(bare(model)).__name__} trains; call petl.wrap first")
        self._refuse_out(model)

    def _refuse_out(self, model: nn.Module) -> None:
        if self.out is None:
            return
        if record(model) is None:
            raise StateError("out= is for a delta, and this model is not wrapped; call petl.wrap first")
        if not Path(self.out).absolute().parent.is_dir():
            raise StateError(f"out={str(self.out)!r}: {Path(self.out).parent} is not a folder; make it first")

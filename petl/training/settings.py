"""What ``fit`` was asked for, and a refusal of what can't be."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.errors import PetlError, StateError, near
from petl.format.outputs import label_texts
from petl.training.checkpoints import refuse_folder
from petl.training.metrics import NAMES
from petl.training.rehearsal import refuse_path
from petl.wrapping.lookup import bare

Optimizer = str | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
MOST = float("inf")
# name: least, most, and what is expected in words. Whole numbers first, then any.
WHOLE: dict[str, tuple[float, float, str]] = {
    "epochs": (1, MOST, "at least 1"),
    "batch_size": (1, MOST, "at least 1"),
    "accumulate": (1, MOST, "at least 1"),
    "workers": (0, MOST, "at least 0"),
    "seed": (0, MOST, "at least 0"),
    "patience": (1, MOST, "at least 1, or None"),
    "views": (0, MOST, "at least 0, or None"),
}
REAL: dict[str, tuple[float, float, str]] = {
    "lr": (math.ulp(0.0), math.nextafter(MOST, 0), "a number above 0, such as 1e-3"),
    "weight_decay": (0, math.nextafter(MOST, 0), "0 or more, such as 0.01"),
    "layer_decay": (math.ulp(0.0), 1, "a factor above 0 and up to 1, such as 0.75, or None"),
    "min_lr": (0, math.nextafter(MOST, 0), "0 or more"),
    "clip": (math.ulp(0.0), MOST, "a number above 0, such as 1.0, or None"),
    "label_smoothing": (0, math.nextafter(1, 0), "0 or more, and less than 1"),
    "mixup": (0, math.nextafter(MOST, 0), "0 (off) or more, such as 0.2"),
    "cutmix": (0, math.nextafter(MOST, 0), "0 (off) or more, such as 1.0"),
    "ema": (0, math.nextafter(1, 0), "a decay of 0 or more and less than 1, such as 0.999, or None"),
    "cache_limit": (math.ulp(0.0), math.nextafter(MOST, 0), "gigabytes above 0, such as 10"),
}
OPTIONAL = ("patience", "views", "layer_decay", "clip", "ema", "warmup_epochs")  # None is "not at all"


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
    keys: Sequence[str | int] | None
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
    def names(self) -> list[str] | None:
        """The class names that were given, as texts."""
        return label_texts(self.labels)

    @property
    def limit(self) -> float:
        """Bytes that features may take."""
        return self.cache_limit * 1e9

    def refuse_impossible(self, val: Any, model: nn.Module) -> None:
        """What can be known before anything is read."""
        self._refuse_numbers()
        self._refuse_words()
        label_texts(self.labels)
        refuse_keys(self.keys)
        if val is None and (self.patience is not None or self.keep == "best"):
            raise PetlError(
                "patience= and keep='best' need validation data: petl.fit(model, train, val, epochs=10, lr=1e-3, patience=3)"
            )
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
        if not any(p.requires_grad for p in model.parameters()):
            raise StateError(f"no parameter of this {type(bare(model)).__name__} trains; call petl.wrap first")
        if self.out is not None:
            refuse_path(self.out, model)
        if self.checkpoint is not None:
            refuse_folder(self.checkpoint)

    def _refuse_numbers(self) -> None:
        warmup = {"warmup_epochs": (0, self.epochs, f"0 to epochs={self.epochs}, or None")}
        for kind, table in ((numbers.Integral, WHOLE), (numbers.Real, REAL), (numbers.Real, warmup)):
            for name, bounds in table.items():
                if not (name in OPTIONAL and getattr(self, name) is None):
                    refuse_number(name, getattr(self, name), kind, bounds)
        if self.min_lr > self.lr:
            raise PetlError(f"min_lr={self.min_lr} is above lr={self.lr}; expected a number from 0 to lr")

    def _refuse_words(self) -> None:
        if self.monitor not in NAMES:
            hint = near(self.monitor, NAMES) if isinstance(self.monitor, str) else ""
            raise PetlError(f"monitor={self.monitor!r}; expected one of {', '.join(NAMES)}{hint}")
        if self.keep not in ("last", "best"):
            raise PetlError(f"keep={self.keep!r}; expected 'last' or 'best'")
        words: tuple[tuple[str, Any, str], ...] = (
            ("optimizer", (str, Callable), "a name of timm.optim's, or what makes an optimizer from parameter groups"),
            ("schedule", (str,), "'cosine', 'poly', 'tanh' or 'none'"),
            ("out", (str, Path, type(None)), "the path of a file, or None"),
            ("checkpoint", (str, Path, type(None)), "the path of a folder, or None"),
            ("resume", (bool, str, Path), "True, False, or the path of a folder"),
            ("cache", (bool, str, Path, type(None)), "None, True, False, or the path of a folder"),
            ("on_epoch", (Callable, type(None)), "a function of a row of the history, or None"),
        )
        for name, kinds, expected in words:
            value = getattr(self, name)
            if not isinstance(value, kinds) or value == "":
                raise PetlError(f"{name}={value!r}; expected {expected}")


def refuse_number(name: str, value: Any, kind: Any, bounds: tuple[float, float, str]) -> None:
    """Refuse what is no number of that kind, or out of its bounds (least, most, and both in words); True is no number."""
    least, most, words = bounds
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= float(value) <= most:
        whole = "a whole number, " if kind is numbers.Integral else ""
        raise PetlError(f"{name}={value!r}; expected {whole}{words}")


def refuse_keys(keys: Any) -> None:
    """Refuse what can't name the two parts of a batch."""
    good = isinstance(keys, Sequence) and not isinstance(keys, (str, bytes)) and len(keys) == 2
    if keys is not None and not (good and all(isinstance(k, (str, int)) and not isinstance(k, bool) for k in keys)):
        raise PetlError(
            f"keys={keys!r}; expected the names or numbers of two parts, such as ('image', 'label') or (0, 1)"
        )

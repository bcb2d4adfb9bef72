"""What all metrics have in common: numbers with standard errors, a baseline beside them, and a paired comparison."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor

from petl.errors import PetlError, printable
from petl.evidence.comparison import Difference, mcnemar, paired_bootstrap
from petl.evidence.intervals import accuracy_error
from petl.tables import html_table, table

Made = TypeVar("Made", bound="TaskMetrics")
ERROR_SUFFIX = "_standard_error"  # of a metric's name, in rows of a history and in results
LOWER_IS_BETTER = frozenset(
    ["loss", "train_loss", "mean_absolute_error", "root_mean_squared_error", "seconds", "calibration_error"]
)


def is_higher_better(name: str) -> bool:
    """Returns whether more of this metric is better."""
    return name not in LOWER_IS_BETTER


class PerImage(NamedTuple):
    """One score for each image, of which more is better: what a paired comparison needs. ``what`` says what the score is."""

    what: str
    scores: Tensor
    data: str  # a fingerprint of the targets, by which two evaluations on the same images are known


@dataclass(frozen=True, kw_only=True, repr=False)
class TaskMetrics:
    """How well a model does on images whose targets are known: base class of the metrics of every task.

    ``images`` is how many images were measured, ``standard_errors`` the standard error of each number by its name (those that
    can't be known, as with one image, are left out), ``baseline`` what an answer that needs no image reaches, by name, and
    ``baseline_rule`` which answer that is. Metrics print as a table and go into JSON through ``dataclasses.asdict``.
    """

    __slots__ = ("_per_image",)
    metric_names: ClassVar[tuple[str, ...]] = ("loss",)
    images: int = 0
    standard_errors: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    baseline_rule: str = ""

    if TYPE_CHECKING:  # each task has its own numbers

        def __getattr__(self, name: str) -> Any: ...

    @property
    def scalars(self) -> dict[str, float]:
        """Returns the numbers that are not per class, by name: what ``fit(monitor=...)`` can watch."""
        return {name: getattr(self, name) for name in self.metric_names}

    @property
    def row(self) -> dict[str, Any]:
        """Returns the numbers by name, standard errors as ``accuracy_standard_error``, and how many ``images`` were measured."""
        errors = {f"{name}{ERROR_SUFFIX}": error for name, error in self.standard_errors.items()}
        return {**self.scalars, **errors, "images": self.images, **self._more_of_row()}

    def compare(self, other: TaskMetrics, *, level: float = 0.9, seed: int = 0) -> Difference:
        """Returns how much better this evaluation is than another one on the same images, image by image.

        The difference is that of accuracies (of mean absolute errors, recalls at 1 ...), with the interval of a paired
        bootstrap; where images are either right or wrong, ``p`` is the p-value of McNemar's exact test.

        Raises:
            PetlError: the two were measured on other images, in another order, or are of different tasks, or one was read
                from a file, which doesn't keep each image's score.

        >>> import petl, timm, torch
        >>> data = torch.utils.data.TensorDataset(torch.randn(6, 3, 64, 64), torch.arange(6) % 2)
        >>> metrics = petl.evaluate(timm.create_model("test_resnet", num_classes=2), data)
        >>> metrics.compare(metrics).tie
        True
        """
        one, two = per_image_of(self), per_image_of(other)
        if one.what != two.what or one.data != two.data or len(one.scores) < 2:
            raise PetlError(
                f"{one.what} of {len(one.scores)} images and {two.what} of {len(two.scores)} images can't be compared image by "
                "image; evaluate both models on the same data, of two images or more, in the same order (no shuffling)"
            )
        found = paired_bootstrap(one.scores, two.scores, level=level, seed=seed)
        binary = all(bool(((part.scores == 0) | (part.scores == 1)).all()) for part in (one, two))
        p = mcnemar(one.scores > 0.5, two.scores > 0.5) if binary else None
        return dataclasses.replace(found, p=p)

    def with_per_image(self: Made, what: str, scores: Tensor, targets: Tensor) -> Made:
        """Returns these metrics, which keep one score for each image."""
        data = hashlib.sha256(targets.contiguous().numpy().tobytes()).hexdigest()
        object.__setattr__(self, "_per_image", PerImage(what, scores.float(), data))
        return self

    def __getstate__(self) -> Any:
        return vars(self), getattr(self, "_per_image", None)

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state[0])
        if state[1] is not None:
            object.__setattr__(self, "_per_image", state[1])

    def __repr__(self) -> str:
        rows = self._rows()
        return "\n".join([self._head(), *([table(rows)] if rows else []), *self._rest()])

    def _repr_html_(self) -> str:
        head = [self._head(), *self._rest()]
        return html_table(self._rows() or [("",)], head)

    def _head(self) -> str:
        parts = [with_error(name, value, self.standard_errors.get(name)) for name, value in self.scalars.items()]
        parts.append(f"(n={self.images})")
        if self.baseline:
            figures = ", ".join(f"{name} {value:.4f}" for name, value in self.baseline.items())
            parts.append(f"baseline: {figures} ({printable(self.baseline_rule)})")
        return "  ".join(parts)

    def _rows(self) -> list[tuple[str, ...]]:
        return []

    def _rest(self) -> list[str]:
        return []

    def _more_of_row(self) -> dict[str, Any]:
        return {}


def with_error(name: str, value: float, error: float | None) -> str:
    """Returns ``accuracy 0.9120 +- 0.0110``, or without the error where there is none."""
    return f"{name} {value:.4f}" + (f" +- {error:.4f}" if error is not None else "")


def known(errors: Mapping[str, float]) -> dict[str, float]:
    """Returns the standard errors that are numbers, as Python floats."""
    return {name: float(error) for name, error in errors.items() if math.isfinite(error)}


def edge_errors(errors: Mapping[str, float], images: int) -> dict[str, float]:
    """Returns standard errors of figures that are 1 at best; an error of 0, as of a perfect figure, is none.

    A bootstrap of right answers alone never sees a wrong one. Half of the exact 68 % interval of as many right answers takes
    the place of such an error.
    """
    return {name: error if error != 0 else accuracy_error(1.0, images) for name, error in errors.items()}


def per_image_of(metrics: TaskMetrics) -> PerImage:
    """Returns the score of each image; a PetlError for metrics that were read from a file and have none."""
    found = getattr(metrics, "_per_image", None) if isinstance(metrics, TaskMetrics) else None
    if found is None:
        raise PetlError(
            f"this {type(metrics).__name__} has no score for each image; compare what two calls of petl.evaluate returned"
        )
    return found

"""History: the numbers of each epoch of a training, as plain values that print as a table."""

from __future__ import annotations

import math
import warnings
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from petl.objectives.measured import ERROR_SUFFIX, is_higher_better
from petl.tables import html_table, table
from petl.training.history_plot import history_figure
from petl.training.history_table import history_frame
from petl.training.learning_curves import curves_text

T = TypeVar("T")
MEASURED = (
    *("loss", "accuracy", "balanced_accuracy", "average_precision", "auroc", "f1", "mean_absolute_error"),
    *(
        "root_mean_squared_error",
        "r2",
        "spearman",
        "quadratic_kappa",
        "recall_at_1",
        "recall_at_5",
        "mean_average_precision",
    ),
)
COLUMNS = ("epoch", "stage", "train_loss", *MEASURED, "lr", "seconds")


def _warn_road() -> None:
    warnings.warn(
        "History.road is History.features now; road goes with the next version", DeprecationWarning, stacklevel=3
    )


def _with_road(cls: type[T]) -> type[T]:
    """Adds the older name of ``features`` to the class, after @dataclass, which would take the property for a default."""

    def get(history: Any) -> str:
        _warn_road()
        return history.features

    def put(history: Any, value: str) -> None:
        _warn_road()
        history.features = value

    cls.road = property(get, put)  # type: ignore[attr-defined]
    return cls


@_with_road
@dataclass(repr=False)
class History:
    """What happened in each epoch; prints as a table.

    Each of ``rows`` has epoch (from 1), stage (from 1, with ``unfreeze``), train_loss, lr (the highest, at the end of the
    epoch), seconds, and with validation data loss, accuracy, balanced_accuracy, precision, recall and f1. ``best`` is the row
    with the best ``monitor``; the last one where there is no validation data. ``stopped`` says that ``patience`` ended the
    training.
    ``features`` says how cached features of the frozen part were used, or why they were not although there is such a part;
    "" where there is none. ``head`` says how the classifier was computed in closed form, with its leave-one-out accuracy, or why
    it couldn't be; "" where it trained by gradient alone.

    ``epochs`` is the number of epochs that the schedule spans, the user's or petl's choice: with ``epochs=history.epochs`` the
    same training repeats. ``rates`` has the learning rate at the top of the schedule by method (and "head", "full"), or under
    "all"; ``rate_search`` the curve and choice of ``lr="find"``; ``restarts`` the epochs that diverged and were trained again;
    ``notes`` sentences about the training that the table ends with. ``first_loss`` is that of the first update.

    Of each measured number the row has the standard error too: ``accuracy_standard_error`` for accuracy, and ``images`` is how
    many were measured.

    >>> history = History(rows=[{"epoch": 1, "train_loss": 0.5, "lr": 1e-3, "seconds": 2.0}], features="in memory")
    >>> history.features
    'in memory'
    """

    monitor: str = "accuracy"
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    features: str = ""
    epochs: int | None = None
    rates: dict[str, float] = field(default_factory=dict)
    rate_search: dict[str, Any] | None = None
    restarts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first_loss: float | None = None
    head: str = ""
    road: InitVar[str | None] = None  # the older name of ``features``, as files that were written before have it

    def __post_init__(self, road: str | None) -> None:
        self.features = road if isinstance(road, str) else self.features

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: dict[str, Any]) -> bool:
        """Appends an epoch's row. Returns whether it is the best so far."""
        self.rows.append(row)
        better = self._beats(row)
        if better:
            self.best = row
        return better

    def _beats(self, row: dict[str, Any]) -> bool:
        if self.monitor not in row:
            return True
        now, then = row[self.monitor], self.best.get(self.monitor, math.nan)
        if math.isnan(
            then
        ):  # a NaN loss is never best; a figure that isn't defined for these images, such as R2, always is
            return not math.isnan(now) or self.monitor != "loss"
        return now > then if is_higher_better(self.monitor) else now < then

    @property
    def stale(self) -> int:
        """Returns the number of epochs since the best one."""
        return len(self.rows) - self.best.get("epoch", 0)

    def __repr__(self) -> str:
        return "\n".join([table(self._cells()), *self._remarks()])

    def curves(self, width: int = 60, *, ascii: bool = False) -> str:
        """Returns the learning curves as lines of text, of at most ``width`` columns each; "" for less than two epochs.

        >>> rows = [{"epoch": e, "train_loss": 1 / e, "lr": 1e-3, "seconds": 1.0} for e in range(1, 5)]
        >>> print(History(rows=rows).curves())
        train_loss  █▃▂▁  1 to 0.25
        """
        return curves_text(self, width, ascii)

    def to_frame(self) -> Any:
        """Returns the rows as a pandas DataFrame [epochs, columns], indexed by epoch, with a column ``best``.

        Raises:
            PetlError: pandas is missing, which the extra ``tables`` brings.

        >>> History(rows=[{"epoch": 1, "train_loss": 0.5, "lr": 1e-3, "seconds": 2.0}]).to_frame()["train_loss"].tolist()
        [0.5]
        """
        return history_frame(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws losses and ``monitor`` over the epochs, the best one marked, and returns matplotlib's Figure.

        Args:
            path: A file to save the picture to, such as "history.png".

        Raises:
            PetlError: matplotlib is missing, which the extra ``plot`` brings; there is no epoch yet; ``path`` can't be written.

        >>> figure = History(rows=[{"epoch": 1, "train_loss": 0.5, "lr": 1e-3, "seconds": 2.0}]).plot()
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
        """
        return history_figure(self, path)

    def _repr_html_(self) -> str:
        return html_table(self._cells(), self._remarks())

    def _remarks(self) -> list[str]:
        return [*filter(None, (self.features, self.head)), *self.notes]

    def note_choice(self) -> None:
        """Adds a note that the best epoch's score is optimistic, because it was chosen among several on the same images."""
        measured = [row for row in self.rows if self.monitor in row]
        if len(measured) > 1 and self.monitor in self.best:
            self.notes.append(
                f"{self.describe(self.best)} is the best of {len(measured)} on the same images, so this figure is optimistic; "
                "measure on images that chose nothing"
            )

    def _cells(self) -> list[tuple[str, ...]]:
        names = [name for name in COLUMNS if self.rows and name in self.rows[0]]
        return [(*names, ""), *((*(self._cell(n, row) for n in names), self._mark(row)) for row in self.rows)]

    def _mark(self, row: dict[str, Any]) -> str:
        return f"best {self.monitor}" if row is self.best and self.monitor in row else ""

    def line(self, row: dict[str, Any], epochs: int) -> str:
        """Returns one epoch as one line, for log files and narrow terminals: ``epoch 3/10  train_loss 0.412  loss 0.38 ...``."""
        names = dict.fromkeys(("train_loss", "loss", "accuracy", self.monitor))
        cells = [f"{name} {row[name]:.3g}{self._error(name, row)}" for name in names if name in row]
        best = "best so far" if self._mark(row) else ""
        return "  ".join(filter(None, [f"epoch {row['epoch']}/{epochs}", *cells, f"{row['seconds']:.1f} s", best]))

    def describe(self, row: dict[str, Any]) -> str:
        """Returns an epoch in a few words: ``epoch 3 (accuracy 0.91)``."""
        figure = (
            f" ({self.monitor} {row[self.monitor]:.5g}{self._error(self.monitor, row)})" if self.monitor in row else ""
        )
        return f"epoch {row['epoch']}{figure}"

    def _cell(self, name: str, row: dict[str, Any]) -> str:
        return f"{_figure(name, row[name])}{self._error(name, row)}"

    def _error(self, name: str, row: dict[str, Any]) -> str:
        """Returns ``+- 0.011``, the standard error of the monitor; "" for other columns, and where it isn't known."""
        error = row.get(f"{name}{ERROR_SUFFIX}") if name == self.monitor else None
        return "" if error is None else f" +- {error:.2g}"


def _figure(name: str, value: float) -> str:
    return f"{value:.2g}" if name == "lr" else f"{value:.1f}" if name == "seconds" else f"{value:.5g}"

"""`Comparison`: every setting that was tried, the one that was chosen, and what may be said of it."""

from __future__ import annotations

import copy
import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from petl.delta.load import load
from petl.errors import printable
from petl.findings import Findings
from petl.tables import html_table, table
from petl.trials.telling import Baseline, Told

TABLE_HEAD = ("", "setting", "epochs", "seeds", "", "behind", "trains", "bytes", "seconds", "end")


@dataclass(frozen=True)
class SettingRow:
    """A setting that was tried.

    Attributes:
        name: Of the method and the factor of its rates.
        method: The methods as text. ``factor``: of their default rates, None in closed form; ``rates``: by method, at the top.
        rung: The last one that it was in, from 1; 0 for a classifier in closed form.
        epochs: It was trained for so many in all; 0 in closed form.
        accuracy: The mean over ``images`` images that chose, with its standard error ``error`` (of another task than classes,
            the mean of `Comparison.measure`). ``seed_accuracies``: of each seed, on its own fold.
        gap: How far it is behind the leader on the images that both saw, with the paired standard error ``gap_error``.
        seconds: Of all its runs. ``bytes``: of its delta. ``trainable``: how many numbers train.
        end: "winner", "finalist", "closed form", "dropped", "failed" or "not tried" (for lack of time); ``why`` says the reason.
    """

    name: str
    method: str
    factor: float | None
    rates: dict[str, float]
    rung: int
    epochs: int
    accuracy: float | None
    error: float | None
    gap: float | None
    gap_error: float | None
    images: int
    seeds: int
    seed_accuracies: list[float]
    seconds: float
    bytes: int
    trainable: int
    end: str
    why: str
    notes: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """Returns the row as text."""
        mark = "*" if self.end == "winner" else ""
        if self.accuracy is None:
            return (mark, self.name, "", "", "", "", "", "", f"{self.seconds:.1f}", f"{self.end}: {self.why[:50]}")
        score, behind = _with_error(self.accuracy, self.error), _with_error(self.gap or 0.0, self.gap_error)
        sizes = (f"{self.trainable:,}", f"{self.bytes:,}", f"{self.seconds:.1f}", self.end)
        return (mark, self.name, str(self.epochs), str(self.seeds), score, behind, *sizes)


@dataclass(frozen=True, repr=False)
class Comparison(Findings):
    """What `petl.compare` found. It prints as sentences and a table; ``best`` is the model that won.

    Attributes:
        best_name: Of the setting that won; ``leader`` is the one with the best score, which may cost more.
        rows: Every setting that was tried, those that got furthest first.
        measure: What scores are means of: "accuracy" for classes. ``margin``: how far behind the leader the winner might be; None
            for one paired standard error.
        held_out: The winner's score on images that chose nothing: ``accuracy``, ``error`` and ``images``. ``held_out_is`` says
            whose these are: "own" for the data's own validation or test images, "fifth" for a fifth that was held out.
        chance: What an answer that needs no image reaches there; None where there is no such answer.
        baselines: What the winner has to beat there: the probe in closed form, and raw pixels.
        claims: What may be said by more than two standard errors: "above_chance", and "above NAME" of each baseline.
        rungs: Epochs in all at the end of each rung. ``folds``, ``images``: how the images that choose were divided.
        seconds: Of the comparison, with those before an interruption; ``budget`` is what was given for it.
        plan: Sentences about rungs and budget. ``repeat``: how `petl.fit` trains the winner. ``delta``: its file, if it is kept.
    """

    best_name: str
    leader: str
    rows: list[SettingRow]
    measure: str
    margin: float | None
    held_out: Told
    held_out_is: str
    chance: float | None
    baselines: list[Baseline]
    claims: dict[str, bool]
    rungs: tuple[int, ...]
    folds: int
    images: int
    seconds: float
    budget: float | None
    plan: list[str]
    repeat: str
    delta: str | None

    @functools.cached_property
    def best(self) -> nn.Module:
        """Returns the winner: a copy of the model with the delta on it, wrapped and trained, in evaluation mode."""
        base, content = vars(self)["_base"], vars(self)["_content"]
        model = copy.deepcopy(base)
        if self.delta is not None:
            return load(self.delta, model).eval()
        with tempfile.TemporaryDirectory(prefix="petl-") as folder:
            path = Path(folder) / "best.safetensors"
            path.write_bytes(content)
            return load(path, model).eval()

    def with_base(self, base: nn.Module, content: bytes | None) -> Comparison:
        """Returns this comparison, which can make ``best`` of the bare model and the delta's file or content."""
        vars(self).update(_base=base, _content=content)
        return self

    @property
    def winner(self) -> SettingRow:
        """Returns the winner's row."""
        return next(row for row in self.rows if row.name == self.best_name)

    def sentences(self) -> list[str]:
        return [self._first(), *self._told(), *self._chosen(), *self.plan, self.repeat]

    def __repr__(self) -> str:
        return printable("\n".join([*self.sentences(), table(self._cells())]), keep="\n")

    def _repr_html_(self) -> str:
        return html_table(self._cells(), self.sentences())

    def _cells(self) -> list[tuple[str, ...]]:
        head = [self.measure if not name and place == 4 else name for place, name in enumerate(TABLE_HEAD)]
        return [tuple(head), *(row.cells() for row in self.rows)]

    def _first(self) -> str:
        score, n = _with_error(self.held_out.accuracy, self.held_out.error), self.held_out.images
        which = "the data's own" if self.held_out_is == "own" else "held out before anything else"
        told = f"{self.measure} {score} on {n} images that chose nothing ({which})"
        if self.claims.get("above_chance", True):
            tried = sum(row.end != "not tried" for row in self.rows)
            return f"{self.best_name} is chosen of {tried} settings: {told}."
        return (
            f"No setting is claimed to be better than chance: {self.best_name}, which stood best, has {told}, and "
            f"{self.chance:.3f} needs no image."
        )

    def _told(self) -> list[str]:
        chance = [] if self.chance is None else [f"An answer that needs no image has {self.chance:.3f} there."]
        return chance + [
            f"{one.name}: {_with_error(one.accuracy, one.error)} there; the winner is {one.gain:+.3f} +- {one.gain_error:.3f} "
            f"from it, {one.said}."
            for one in self.baselines
        ]

    def _chosen(self) -> list[str]:
        row = self.winner
        near = "within one standard error of" if self.margin is None else f"no more than {self.margin:g} behind"
        rule = f"The winner trains the fewest numbers ({row.trainable:,}) of all {near} the leader"
        behind = (
            "" if row.name == self.leader else f", {self.leader}: {_with_error(row.gap or 0.0, row.gap_error)} behind"
        )
        each = f"It was chosen by {row.images} of {self.images} images, {row.seeds} seed{'s' * (row.seeds != 1)}"
        failed = [one.name for one in self.rows if one.end == "failed"]
        return [
            f"{rule}{behind}{' (one-standard-error rule)' * (self.margin is None)}.",
            f"{each}; that score, {self.measure} {_with_error(row.accuracy or 0.0, row.error)}, chose and is optimistic.",
            *([f"{len(failed)} failed: {', '.join(failed)}; .rows says why."] if failed else []),
        ]


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} +- {error:.3f}"


def claims_of(told: Told, chance: float | None, baselines: list[Baseline]) -> dict[str, bool]:
    """Returns what may be said of a winner by more than two standard errors.

    >>> claims_of(Told(accuracy=0.4, error=0.06, images=60), 0.3, [])
    {'above_chance': False}
    """
    above = {} if chance is None else {"above_chance": told.accuracy > chance + 2 * told.error}
    return above | {f"above {one.name}": one.beaten for one in baselines}

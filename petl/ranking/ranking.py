"""`Ranking`: what `petl.rank` returns, as a table and sentences, and as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from petl.errors import StateError, near, printable, shortened
from petl.findings import Findings
from petl.ranking.results import HeldOut, RankedBackbone, RawPixels, by_reason
from petl.tables import table

NAME_WIDTH = 44  # characters of a name in the table
RANK_HEAD = (
    "backbone",
    "score",
    "+-",
    "head",
    "images",
    "LogME",
    "H",
    "top-1",
    "params",
    "GMACs",
    "ms",
    "px",
    "licence",
)
NOT_KNOWN = "-"
MEASURED_TIMES = ("ms_per_image", "seconds")  # differ from run to run; everything else is repeatable


@dataclass(frozen=True, repr=False)
class Ranking(Findings):
    """What `petl.rank` found. It prints as a table and sentences; `to_json` has every number.

    Attributes:
        rows: A `RankedBackbone` for each candidate that was measured, the best first: those that tie with the highest score by
            timm's published accuracy, then cost; then the others by score; then those that were dropped.
        best: The name of the first. ``ties``: the names of all that tie with the highest score, the best among them.
        measure: "accuracy" or "balanced accuracy".
        images: Images that the last ones were read on, of ``total`` to learn from; ``classes``: how many of each class.
        raw_pixels: What the pixels alone reach.
        held_out: The best one's score on images that chose nothing; None where there are none, and ``held_out_note`` says why.
        left_out: Candidates that weren't measured, with the reasons.
        considered: How many pretrained weights of timm a filter looked at; 0 without one.
        alarms: What should stop you. ``warnings``: licences, and how far the scores can be trusted.
        prior: Where the published accuracies come from, with the date.
        seconds: That it took.
    """

    rows: list[RankedBackbone]
    best: str
    ties: list[str]
    measure: str
    images: int
    total: int
    classes: dict[str, int]
    raw_pixels: RawPixels
    held_out: HeldOut | None
    held_out_note: str
    left_out: dict[str, str]
    considered: int
    alarms: list[str]
    warnings: list[str]
    prior: str
    seed: int
    seconds: float = field(compare=False, default=0.0)

    def __getitem__(self, name: str) -> RankedBackbone:
        """Returns the row of a candidate.

        Raises:
            StateError: none was measured under this name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise StateError(f"{name!r} was not measured{near(str(name), names)}; there are {', '.join(names)}")

    def sentences(self) -> list[str]:
        return _lines(self)

    def to_json(self) -> dict[str, Any]:
        """Returns every field as plain values; ``measured_times`` names those that are times of this run."""
        return {**super().to_json(), "measured_times": list(MEASURED_TIMES)}


def _lines(ranking: Ranking) -> list[str]:
    """Returns the table, and what it means."""
    rows = [_cells(row, ranking) for row in ranking.rows]
    raw = ranking.raw_pixels
    pixels = ("  raw pixels", f"{raw.score:.3f}", f"{raw.error:.3f}", raw.by, raw.images, *[""] * 8)
    listed = table([RANK_HEAD, *rows, pixels], left=(0, 12))
    return [_first_line(ranking), listed, *_verdict(ranking), *_others(ranking), *ranking.alarms, *ranking.warnings]


def _first_line(ranking: Ranking) -> str:
    counts = list(ranking.classes.values())
    spread = f"{min(counts)}" if len({*counts}) == 1 else f"{min(counts)} to {max(counts)}"
    what = f"{_plural(len(ranking.rows), 'backbone')} on {ranking.images} of {_plural(ranking.total, 'image')}"
    return (
        f"{what}, {len(counts)} classes with {spread} each; the score is the {ranking.measure} of leave-one-out predictions (the "
        "better of ridge and nearest neighbours)."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _cells(row: RankedBackbone, ranking: Ranking) -> tuple[object, ...]:
    mark = "*" if row.name == ranking.best else "=" if row.tie else " "
    return (
        f"{mark} {_short(row.name)}",
        f"{row.score:.3f}",
        f"{row.error:.3f}",
        row.by,
        row.images,
        f"{row.logme:.3f}",
        f"{row.h_score:.2f}",
        NOT_KNOWN if row.top1 is None else f"{row.top1:.1f}",
        f"{row.params / 1e6:.1f}M",
        f"{row.gmacs:.2f}",
        f"{row.ms_per_image:.1f}",
        row.side,
        row.licence or "unknown",
    )


def _short(name: str) -> str:
    """Returns a name that fits the table; of a path, its end is what tells it from others."""
    return shortened_path(printable(name))


def shortened_path(name: str) -> str:
    """Returns a long name with its middle left out.

    >>> shortened_path("mobilenetv2_100:/a/long/way/to/the/folder/of/weights.safetensors")
    'mobilenetv2_100:/a/l...older/of/weights.safetensors'
    """
    return name if len(name) <= NAME_WIDTH else f"{name[:20]}...{name[-(NAME_WIDTH - 23) - 7 :]}"


def _verdict(ranking: Ranking) -> list[str]:
    """Returns which is the best, what ties with it, and how good it is on images that chose nothing."""
    best, others = ranking[ranking.best], [name for name in ranking.ties if name != ranking.best]
    lines = [
        f"Best (*): {_short(best.name)}, {best.score:.3f} +- {best.error:.3f}{_against_ties(ranking, best, others)}."
    ]
    if ranking.held_out is None:
        lines.append(
            f"No image is left that chose nothing ({ranking.held_out_note}): the score of the best of {len(ranking.rows)} is a "
            "little too high."
        )
    else:
        held = ranking.held_out
        on = f"{_plural(held.images, 'image')} that chose nothing ({held.source})"
        lines.append(f"Its {ranking.measure} on {on}: {held.score:.3f} +- {held.error:.3f}.")
    raw = ranking.raw_pixels
    interval = f"90% interval {raw.gain_low:+.3f} to {raw.gain_high:+.3f}"
    side = "above" if raw.gain >= 0 else "below"
    lines.append(f"Raw pixels alone reach {raw.score:.3f}; the best is {abs(raw.gain):.3f} {side} that ({interval}).")
    return lines


def _against_ties(ranking: Ranking, best: RankedBackbone, others: list[str]) -> str:
    if not others:
        return "; no other comes near it" if len(ranking.rows) > 1 else ""
    tied = [ranking[name] for name in others]
    cheapest = min([best, *tied], key=lambda row: row.gmacs)
    cost = (
        "; it is the cheapest of them"
        if cheapest is best
        else f"; the cheapest of them is {_short(cheapest.name)} ({cheapest.gmacs:.2f} GMACs, {best.gmacs:.2f} for the best)"
    )
    known = sum(row.top1 is not None for row in [best, *tied])
    by = (
        "timm's published top-1"
        if known == len(tied) + 1
        else "published top-1 where both have it, else cost,"
        if known
        else "cost"
    )
    return f"; a tie with {', '.join(map(_short, others))} (=), which {by} decides{cost}"


def _others(ranking: Ranking) -> list[str]:
    dropped = [f"{_short(row.name)} after {row.dropped_at}" for row in ranking.rows if row.dropped_at]
    lines = [f"Dropped early (images): {', '.join(dropped)}."] if dropped else []
    alike = by_reason(ranking.left_out)
    lines += [f"Not measured: {', '.join(names)} ({shortened(why, 200)})." for why, names in alike.items()]
    return lines

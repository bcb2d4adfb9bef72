"""Parts of advice as words."""

from __future__ import annotations

from pathlib import Path

from petl.advice.duplicates import Copies, Duplicates
from petl.advice.file_facts import FileFacts, Spread
from petl.advice.readings import PairedReading, Readings, Score
from petl.advice.rules import Suggestion
from petl.errors import listing


def are(count: int) -> str:
    """Returns the verb for so many images."""
    return "is" if count == 1 else "are"


def score_text(score: Score) -> str:
    return f"{score.accuracy:.3f} +- {score.error:.3f}"


def difference_text(found: PairedReading) -> str:
    return (
        f"{found.difference:+.3f} against {found.second} ({found.level:.0%} interval {found.low:+.3f} to {found.high:+.3f}, "
        f"p={found.p:.2g})"
    )


def files_text(files: FileFacts) -> str:
    if not files.files:
        return "The images are no files: their sizes and bits aren't known."
    sizes = f"{_range(files.width)} x {_range(files.height)} pixels"
    bits = " and ".join(files.bits)
    channels = " and ".join(files.channels)
    bad = (
        f"; {len(files.unreadable)} can't be read ({listing(map(shown_file, files.unreadable), 3)})"
        if files.unreadable
        else ""
    )
    return f"Files: {sizes}, {bits} bit{'s' * (bits != '1')}, {channels} channel{'s' * (channels != '1')}{bad}."


def _range(spread: Spread) -> str:
    least, middle, most = (f"{value:.0f}" for value in (spread.least, spread.median, spread.most))
    return least if least == most else f"{least} to {most} (median {middle})"


def copies_text(found: Duplicates, *, has_split: bool) -> str:
    if not found.groups:
        return "No duplicates."
    near = found.within - found.within_exact
    parts = [f"{found.within_exact} exact and {near} near duplicates among the training images"]
    parts += [f"{found.across} of its own split {are(found.across)} in the training part"] if has_split else []
    return f"Duplicates: {', '.join(parts)} ({_example(found.groups[0])})."


def _example(copies: Copies) -> str:
    return " = ".join(shown_file(file) for file in copies.files[:2])


def shown_file(file: str) -> str:
    return "/".join(Path(file).parts[-2:])


def curve_text(readings: Readings) -> str:
    """Returns a line about the probing curve: a few places of it, and where it is highest."""
    curve, count = readings.curve, len(readings.curve)
    places = sorted({0, count // 4, count // 2, 3 * count // 4, count - 1})
    shown = ", ".join(f"{curve[place].accuracy:.2f}" for place in places)
    best = next(place for place, score in enumerate(curve) if score.what == readings.best_block)
    if readings.earlier is None:
        return f"Over the depth: {shown}; highest at the end."
    gain = f"{readings.earlier.difference:+.3f} to the end, p={readings.earlier.p:.2g}"
    return f"Over the depth: {shown}; highest after {readings.best_block} ({best + 1} of {count}; {gain})."


def rates_text(row: Suggestion) -> str:
    if row.rates is None:
        return ""
    if not row.rates:
        return " (no learning rate: closed form)"
    rates = ", ".join(f"{name} {rate:.2g}" for name, rate in row.rates.items())
    more = "".join(f", {name}={value}" for name, value in row.options.items())
    return f" (rates {rates}{more})"

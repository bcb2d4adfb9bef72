"""What a finished contest means: rows, the raw pixels, the best one's score on other images, alarms and warnings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from petl.evidence.comparison import Difference
from petl.evidence.intervals import balanced_error, recall_error
from petl.evidence.new_images import predict_new
from petl.evidence.reading import ClassReading
from petl.measures.h_score import h_score
from petl.measures.logme import logme
from petl.ranking.contenders import Contender, Options
from petl.ranking.contest import Contest, preferred
from petl.ranking.raw_pixels import read_raw_pixels
from petl.ranking.results import PUBLISHED_FIELDS, HeldOut, RankedBackbone, RawPixels, Step
from petl.wrapping.licences import licence_warning


def ranked_rows(contest: Contest) -> list[RankedBackbone]:
    """Returns a row for each candidate that was measured, the best first."""
    first = preferred(contest.ties)
    later = [one for one in contest.alive if one not in first]
    dropped = sorted(contest.dropped, key=lambda one: (-(one.dropped_at or 0), -one.tested[-1][1]))
    return [_row(one, contest, tie=one in first) for one in [*first, *later, *dropped]]


def _row(one: Contender, contest: Contest, *, tie: bool) -> RankedBackbone:
    reading, price, gap = one.reading, one.price, contest.behind[one.name]
    assert reading is not None and price is not None, "it was measured"
    y = contest.images.train.y[torch.from_numpy(one.rows)]
    return RankedBackbone(
        name=one.name,
        **_scores(reading, y, contest),
        images=len(y),
        steps=[Step(*step) for step in one.tested],
        behind=gap.mean,
        behind_low=gap.low,
        behind_high=gap.high,
        tie=tie,
        dropped_at=one.dropped_at,
        why=one.why,
        logme=logme(one.x, y, contest.measure.classes),
        h_score=h_score(one.x, y, contest.measure.classes),
        **{name: getattr(one.candidate.results, name) for name in PUBLISHED_FIELDS},
        **vars(price),
        licence=one.licence,
        side=one.pipeline["input_size"][-1],
        width=one.x.shape[1],
    )


def _scores(reading: ClassReading, y: Tensor, contest: Contest) -> dict[str, float | str]:
    """Returns the score, its standard error, both accuracies, and the head."""
    return {
        "score": contest.measure.score(reading),
        "error": _error(reading.right, y, contest),
        "accuracy": reading.accuracy,
        "balanced": reading.balanced,
        "by": reading.by,
    }


def _error(right: Tensor, y: Tensor, contest: Contest) -> float:
    if not contest.measure.balanced or len(y) < 2:
        return recall_error(int(right.sum()), len(y))
    return balanced_error(right, y)


def raw_pixels_of(contest: Contest, best: Contender) -> RawPixels:
    """Returns what raw pixels say of the images that the best one was read on."""
    images, y = contest.images.train, contest.images.train.y[torch.from_numpy(best.rows)]
    raw = read_raw_pixels(images, best.rows, best.pipeline, contest.measure.classes)
    assert best.reading is not None, "it was measured"
    gain: Difference = contest.measure.compare(best.reading.right, raw.right, y, contest.seed)
    return RawPixels(**_scores(raw, y, contest), images=len(y), gain=gain.mean, gain_low=gain.low, gain_high=gain.high)  # type: ignore[arg-type]  # by name


def held_out_of(contest: Contest, best: Contender, options: Options) -> HeldOut | None:
    """Returns the best one's score on the images that chose nothing, by the head that was best; None without such images."""
    held, images = contest.images.held, contest.images
    if held is None or not len(images.held_rows):
        return None
    found, rows = best.features_of(held, images.held_rows, options)
    y, own = held.y[torch.from_numpy(rows)], images.train.y[torch.from_numpy(best.rows)]
    assert best.reading is not None, "it was measured"
    predicted = predict_new(best.reading.by, best.x, own, contest.measure.classes, found.x)
    right = predicted == y
    counts, hits = (torch.bincount(part, minlength=contest.measure.classes).double() for part in (y, y[right]))
    reading = ClassReading(
        best.reading.by, predicted, right, float(right.double().mean()), 0.0, float((hits / counts)[counts > 0].mean())
    )
    scores = {key: value for key, value in _scores(reading, y, contest).items() if key != "by"}
    return HeldOut(**scores, images=len(y), source=images.held_from)  # type: ignore[arg-type]  # by name


def alarms_of(raw: RawPixels, best: RankedBackbone) -> list[str]:
    """Returns what should stop the user: features that say no more than pixels do."""
    if raw.gain_low > 0:
        return []
    words = "below raw pixels" if raw.gain < 0 else "not better than raw pixels beyond the error"
    return [
        f"ALARM: the features of the best backbone ({best.score:.3f}) are {words} ({raw.score:.3f}): what it was pretrained on "
        "helps little here. Ask petl advise before you train it."
    ]


def warnings_of(rows: list[RankedBackbone], notes: list[str], unreadable: int) -> list[str]:
    """Returns what has to be known of licences and of the scores."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if words := licence_warning(row.licence):
            found.setdefault(words, []).append(row.name)
    said = [f"The weights of {', '.join(names)} {words}." for words, names in found.items()]
    lost = [f"{unreadable} of the images couldn't be read, and are left out for all."] if unreadable else []
    return [*said, *lost, *notes]


def class_counts(contest: Contest) -> Mapping[str, int]:
    """Returns how many of the images each class has."""
    y = contest.images.train.y[torch.from_numpy(contest.rows)]
    counts = torch.bincount(y, minlength=len(contest.images.classes)).tolist()
    return {name: count for name, count in zip(contest.images.classes, counts, strict=True) if count}

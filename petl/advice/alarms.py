"""What should be looked at before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from petl.advice.duplicates import Copies
from petl.advice.readings import Readings, Verdict
from petl.advice.result import Facts
from petl.advice.wording import are, shown_file

MANY_COPIES = 0.05  # share of the training images from which duplicates make left-out readings too good
REMEDIES = "larger images (size=), another backbone (petl.rank), or methods that reach the first layers may help"


def alarms(facts: Facts, readings: Readings, verdict: Verdict) -> Iterator[str]:
    """Yields the alarms, as sentences without a full stop's need of more."""
    yield from _about_pretraining(readings, verdict)
    copies = facts.duplicates
    if copies.across:
        found = next(one for one in copies.groups if {"train", "own split"} <= {*one.parts})
        yield (
            f"{copies.across} of the {facts.own_split} images of its own split {are(copies.across)} also in the training part "
            f"({_two(found)}): scores there are too good; take them out."
        )
    if copies.conflicting:
        found = next(one for one in copies.groups if len({label for label in one.labels if label is not None}) > 1)
        labels = " and ".join(dict.fromkeys(repr(label) for label in found.labels if label is not None))
        yield f"{copies.conflicting} picture{'s' * (copies.conflicting > 1)} with several labels ({_two(found)}: {labels})."
    if copies.within > MANY_COPIES * facts.images:
        yield (
            f"{copies.within} of {facts.images} training images are copies of others: readings that leave one image out are too "
            "good, and a hold-out would be; keep copies together (a table's column group), or take them out."
        )


def _about_pretraining(readings: Readings, verdict: Verdict) -> Iterator[str]:
    found = verdict.comparison
    if verdict.transfer == "negative":
        yield f"{found.second} tell the classes better than what was pretrained: {REMEDIES}."
    elif verdict.transfer == "ambiguous" and not any(verdict.above_chance):
        yield (
            "neither the pretrained network nor raw pixels tell the classes better than chance: look at the labels; if "
            "they are right, what they are about is too fine for these readings, and only a training can tell."
        )
    elif verdict.transfer == "ambiguous":
        better = "no worse than" if found.difference <= 0 else "about as well as"
        text = f"{found.second} tell the classes {better} the pretrained network"
        yield f"nothing shows that pretraining helps: {text}; {REMEDIES}."


def _two(copies: Copies) -> str:
    """Returns two of the files, of different parts or labels where there are such."""
    odd = next((n for n in range(1, len(copies.files)) if _side(copies, n) != _side(copies, 0)), 1)
    return f"{shown_file(copies.files[0])} = {shown_file(copies.files[odd])}"


def _side(copies: Copies, number: int) -> tuple[str, str | None]:
    return copies.parts[number], copies.labels[number]

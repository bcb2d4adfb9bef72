"""`Advice`: the facts, readings, alarms and the shortlist that `petl.advise` returns, and how they are said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from petl.advice.distance import Profile, StemFacts
from petl.advice.duplicates import Duplicates
from petl.advice.file_facts import FileFacts
from petl.advice.readings import Readings, Verdict
from petl.advice.rules import ENOUGH_FOR_STATISTICS, Distance, Suggestion
from petl.advice.wording import are, copies_text, curve_text, difference_text, files_text, rates_text, score_text
from petl.findings import Findings, json_value
from petl.methods.method import Method

MOSTLY_GRAY = 0.95  # share of gray images from which the data is called gray
UNEVEN = 3.0  # times as many images in the largest class as in the smallest, from which it is said


@dataclass(frozen=True)
class Facts:
    """What there is.

    Attributes:
        images: In the training part; the model read ``measured`` of them; ``own_split`` are in the data's own val or test.
        classes: How many; ``per_class`` images of each, ``median_per_class``, and ``imbalance``, the largest over the smallest.
        channels: Of the images as the model is given them; ``expected`` by the model.
        files: Sizes, bits and channels of the files; `own_split_unreadable` are those of the data's own split.
        duplicates: Images that are there twice.
    """

    images: int
    measured: int
    own_split: int
    classes: int
    per_class: dict[str, int]
    median_per_class: float
    imbalance: float
    channels: int
    expected: int
    files: FileFacts
    own_split_unreadable: dict[str, str]
    duplicates: Duplicates


@dataclass(frozen=True)
class NewImages:
    """What the new images are like beside the training images.

    Attributes:
        images: How many; ``measured`` by the model.
        duplicates: How many of them are also in the training part.
        profile: The gap of what BatchNorms receive of the new images to what they receive of the training images.
        feature_gap: The same of what the classifier takes; for any model.
        usual_gap: That gap of as many training images to the others: what chance alone gives.
        unreadable: Files that can't be read.
    """

    images: int
    measured: int
    duplicates: int
    profile: Profile
    feature_gap: float
    usual_gap: float
    unreadable: dict[str, str]


@dataclass(frozen=True)
class HeadAdvice:
    """The classifier in closed form that is best by leave-one-out: its kind, accuracy (classes count alike) and error."""

    kind: str
    accuracy: float
    error: float


@dataclass(frozen=True, repr=False)
class Advice(Findings):
    """Which method, and whether pretraining helps; it prints as sentences. `petl.advise` returns it.

    Attributes:
        model: The model's name.
        facts, readings, verdict: What there is, what was read of it, and whether pretraining helps.
        alarms: What should be looked at before anything is trained, as sentences.
        profile: The distance to the training of the model by BatchNorm's statistics, per depth.
        stem: What gray images reach of the first layer, and whether they are gray.
        distance: Whether the images are near or far.
        head: The classifier to use.
        shortlist: The methods to try with their reasons and rates; ``methods`` are the same as `petl.compare` takes them.
        new: About the new images, or None.
    """

    model: str
    facts: Facts
    readings: Readings
    verdict: Verdict
    alarms: tuple[str, ...]
    profile: Profile
    stem: StemFacts
    distance: Distance
    head: HeadAdvice
    shortlist: tuple[Suggestion, ...]
    new: NewImages | None = None

    @property
    def methods(self) -> list[list[Method]]:
        """The shortlist, each as a list of methods that `petl.wrap` takes."""
        return [list(row.methods) for row in self.shortlist]

    def to_json(self) -> dict[str, Any]:
        """Returns every number as plain values; methods as `petl.Method.to_json` has them."""
        found = super().to_json()
        found["shortlist"] = [json_value(row.to_json()) for row in self.shortlist]
        found["methods"] = [row["methods"] for row in found["shortlist"]]
        return found

    def sentences(self) -> list[str]:
        """Returns the advice as about a dozen lines."""
        lines = [*self._about_data(), *self._about_readings(), *self._about_distance()]
        lines += [f"ALARM: {alarm}" for alarm in self.alarms]
        lines += [self._about_new(self.new)] if self.new else []
        return [*lines, *self._about_methods()]

    def _about_data(self) -> Iterator[str]:
        facts, files = self.facts, self.facts.files
        counts = [count for count in facts.per_class.values() if count]
        spread = f"{counts[0]}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        uneven = f", the largest {facts.imbalance:.1f} times the smallest" if facts.imbalance >= UNEVEN else ""
        split = f", and {facts.own_split} images in their own split" if facts.own_split else ""
        read = f"; {facts.measured} of them are read" if facts.measured < facts.images else ""
        yield f"{self.model} on {facts.images} images of {facts.classes} classes, {spread} each{uneven}{split}{read}."
        yield f"{files_text(files)} {copies_text(facts.duplicates, has_split=bool(facts.own_split))}"

    def _about_readings(self) -> Iterator[str]:
        readings, verdict = self.readings, self.verdict
        random = f"random weights {score_text(readings.random)}, " if readings.random else f"{readings.random_by}, "
        yield (
            f"Classes are told (leave-one-out, chance {verdict.chance:.3f}): pretrained {score_text(readings.pretrained)}, "
            f"{random}"
            f"{readings.raw.what} {score_text(readings.raw)}."
        )
        yield f"Pretraining: {verdict.transfer}; {difference_text(verdict.comparison)}."
        if len(readings.curve) > 1:
            yield curve_text(readings)

    def _about_distance(self) -> Iterator[str]:
        profile, stem = self.profile, self.stem
        gap = (
            f"BatchNorm gap {profile.first:.2f} in the first third of the layers, {profile.middle:.2f} in the middle, "
            f"{profile.last:.2f} in the last (0: the images of the pretraining; 1: off by a deviation)"
            if profile.applicable
            else "no BatchNorm statistics to compare with"
        )
        yield f"The images are {self.distance.verdict}: {'; '.join(self.distance.reasons)}; {gap}."
        if stem.gray >= MOSTLY_GRAY and stem.layer and stem.channels > 1:
            yield f"They are gray: {stem.reach:.0%} of the energy of the first layer ({stem.layer}) can be reached by gray."

    def _about_new(self, new: NewImages) -> str:
        gap = f"{new.feature_gap:.2f} (as many of the training images: {new.usual_gap:.2f})"
        norms = (
            f", by BatchNorm {new.profile.first:.2f}, {new.profile.middle:.2f} and {new.profile.last:.2f} by depth"
            if new.profile.applicable
            else ""
        )
        return (
            f"New images: {new.images}, of which {new.duplicates} {are(new.duplicates)} among the training images; their gap to "
            f"these is {gap} in features{norms}. petl.shift says what has changed."
        )

    def _about_methods(self) -> Iterator[str]:
        yield f"Classifier: {self.head.kind} in closed form, {self.head.accuracy:.3f} +- {self.head.error:.3f} left out."
        still = f"; keep BatchNorm statistics as they are (below {ENOUGH_FOR_STATISTICS} images a class)"
        few = self.facts.median_per_class < ENOUGH_FOR_STATISTICS and self.profile.applicable
        yield f"To try, by rules (priors, not measured on these images; petl.compare measures them){still if few else ''}:"
        for number, row in enumerate(self.shortlist, 1):
            yield f"  {number}. {row.code}: {row.reason}{rates_text(row)}."

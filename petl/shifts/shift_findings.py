"""`Shift`: what differs between two sets of images, with every number, in about ten sentences."""

from __future__ import annotations

from dataclasses import dataclass

from petl.findings import Findings
from petl.measures.mmd import KernelTest
from petl.measures.two_sample import Separation
from petl.shifts.class_mix import ClassMix
from petl.shifts.concept import FEWEST_LABELS, Concept
from petl.shifts.places import BlockShift, OneImage

CLASSES_NAMED = 3  # classes in a sentence
VERDICTS = {
    "none": "Nothing differs beyond chance",
    "classes": "The class frequencies differ; images of a class look alike",
    "appearance": "Images of the same class look different; the class frequencies are not clearly others",
    "both": "The class frequencies differ, and images of the same class look different too",
    "unknown": "The images differ; whether in class frequencies or in appearance can't be known",
}


@dataclass(frozen=True)
class Correction:
    """What `petl.correct` needs: frequencies of source and target [K], and the scaling of the model's own class scores.

    ``target`` is what is believed of the estimate in `Shift.mix`: it is nearer to ``source``, as far as chance explains the
    change (``mix.believed``), and no class is below half an image.
    """

    source: list[float]
    target: list[float]
    scale: float
    bias: list[float]


@dataclass(frozen=True, repr=False)
class Shift(Findings):
    """What differs between source and target images; `petl.shift` returns it. It prints as sentences.

    Attributes:
        verdict: "none", "classes", "appearance", "both", or "unknown" (the features differ, and the classifier knows too
            little to say more). ``level`` is the level of all tests together.
        model, classes, source_images, target_images: What was compared.
        features: The test of all features: unbiased squared MMD with a p-value by permutations.
        matched: The same test with the class frequencies taken out of account; None where they can't be known.
        separation: How well a linear classifier tells the sides apart: held-out accuracy with its exact interval, and the
            proxy A-distance.
        mix: The class frequencies of both sides with intervals, and the p-value of their being equal; None where they can't be
            known, as ``mix_refused`` says.
        source_accuracy: Of the classifier that was used, on source images that it hasn't learned from; ``scores_by`` says which.
        concept: Whether the labels mean the same; None without 30 labelled target images. ``labels_needed`` is how many
            labelled target images would show a drop of accuracy by 10 points.
        correction: For `petl.correct`; its frequencies are shrunk towards the source's by what chance explains. None where there
            is none, as ``correction_refused`` says.
        blocks: How much each block's outputs differ, in depth order.
        target_like, source_like: The target's images that look least and most like the source.
        in_both: How many target images have exactly a source image's features: they are the same images.
        notes: What else to know.
    """

    verdict: str
    level: float
    model: str
    classes: list[str]
    source_images: int
    target_images: int
    features: KernelTest
    matched: KernelTest | None
    separation: Separation
    mix: ClassMix | None
    mix_refused: str | None
    source_accuracy: float
    scores_by: str
    concept: Concept | None
    labels_needed: int
    correction: Correction | None
    correction_refused: str | None
    blocks: list[BlockShift]
    target_like: list[OneImage]
    source_like: list[OneImage]
    in_both: int
    notes: list[str]

    def sentences(self) -> list[str]:
        """Returns what was found as lines of text."""
        return [
            f"{VERDICTS[self.verdict]} (three tests, level {self.level:g} together; {self.source_images} source and "
            f"{self.target_images} target images, {self.model}).",
            self._about_features(),
            *self._about_mix(),
            *self._about_concept(),
            *self._about_places(),
            *self.notes,
            f"What to do: {self._advice()}.",
        ]

    def _about_features(self) -> str:
        one, apart = self.features, self.separation
        matched = (
            f"; with equal class frequencies p = {self.matched.p:.3f} ({self.matched.deviations:+.1f} deviations)"
            if self.matched
            else ""
        )
        return (
            f"Features: p = {one.p:.3f} ({one.deviations:+.1f} deviations from chance){matched}. A linear classifier tells "
            f"the sides apart on {apart.accuracy:.0%} of {apart.images} held-out images (95% {apart.low:.0%} to "
            f"{apart.high:.0%}; proxy A-distance {apart.distance:.2f})."
        )

    def _about_mix(self) -> list[str]:
        mix = self.mix
        if mix is None:
            return [f"Class frequencies can't be known: {self.mix_refused}."]
        gaps = sorted(range(len(self.classes)), key=lambda k: -abs(mix.target[k] - mix.source[k]))[:CLASSES_NAMED]
        named = ", ".join(
            f"{self.classes[k]} {mix.source[k]:.2f} -> {mix.target[k]:.2f} ({mix.intervals[k][0]:.2f} to "
            f"{mix.intervals[k][1]:.2f})"
            for k in gaps
        )
        low, high = mix.variation_interval
        how = {
            "labels": "counted",
            "scores": "estimated",
            "moved classes": "estimated, allowing for the other appearance",
        }
        return [
            f"Class frequencies, {how[mix.by]}: {named}; total variation {mix.variation:.2f} ({low:.2f} to {high:.2f}), "
            f"p = {mix.p:.3f}."
        ]

    def _about_concept(self) -> list[str]:
        if self.concept is not None:
            said = "mean something else than" if self.concept.changed else "show no other meaning than"
            return [
                f"The target's labels {said} the source's: {self.concept.gap:+.2f} nats, p = {self.concept.p:.3f}, "
                f"{self.concept.images} labels."
            ]
        return [
            f"Whether labels still mean the same can't be known without target labels: label about {self.labels_needed} images "
            f"({FEWEST_LABELS} at least)."
        ]

    def _about_places(self) -> list[str]:
        lines = []
        if self.blocks:
            most = max(self.blocks, key=lambda block: block.deviations)
            lines.append(
                f"Blocks: {most.name} differs most ({most.deviations:+.1f} deviations from chance, p = {most.p:.3f})."
            )
        if self.target_like:
            named = ", ".join(one.image for one in self.target_like[:CLASSES_NAMED])
            lines.append(f"Least like the source: {named}.")
        if self.in_both:
            lines.append(f"{self.in_both} target images are in the source too; leave them out on one side.")
        return lines

    def _advice(self) -> str:
        if self.verdict == "none":
            return "nothing; the model is used on what it was made for"
        if self.concept is not None and self.concept.changed:
            return "train on the target's labels: petl.fit"
        if self.verdict in ("classes", "both"):
            more = "; and for the appearance, label target images and train with them" if self.verdict == "both" else ""
            if self.correction is None:
                return f"{self.correction_refused}{more}"
            far = f", going {self.mix.believed:.0%} of the way: the rest may be chance" if self.mix else ""
            return f"petl.correct(model, shift) fits the classifier to the new frequencies{far}{more}"
        if self.verdict == "unknown":
            return "label some target images and call petl.shift again"
        return "label target images and train with them; new frequencies can't mend another appearance"

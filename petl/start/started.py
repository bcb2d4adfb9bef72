"""`Started`: what `petl.start` did, step by step, what came out of it, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petl.findings import Findings


@dataclass(frozen=True, repr=False)
class Started(Findings):
    """What came out of `petl.start`. It prints as sentences; ``to_json`` has every number of every step.

    Attributes:
        backbone: The candidate that was chosen, as it was named.
        methods: What was put onto it, as text; ``factor``: of petl's default learning rates, None in closed form.
        measure: What ``score`` is, such as "accuracy"; ``error`` is its standard error on ``images`` images that chose nothing,
            and ``told_is`` says whose they are: "own" for the data's own validation or test images, else "fifth".
        held_out: The names and checksums of these images where they are a fifth, so that `petl eval`, `petl shift` and
            `petl report` find them again; None where the data has its own.
        claimed: Whether the score is above chance by more than two standard errors. ``verdict``: of `petl.advise`.
        delta, page, numbers: The files: the delta, the report, and its numbers, together with those of every step.
        steps: Seconds of each step. ``skipped``: steps that were left out, with the reasons.
        findings: What each verb found, as its ``to_json`` gives it.
        next: Commands that go on from here.
    """

    backbone: str
    methods: str
    factor: float | None
    measure: str
    score: float
    error: float
    images: int
    told_is: str
    held_out: dict[str, Any] | None = field(compare=False)
    claimed: bool
    verdict: str
    delta: Path
    page: Path
    numbers: Path
    bytes: int
    steps: dict[str, float] = field(compare=False)
    skipped: dict[str, str]
    findings: dict[str, Any] = field(compare=False)
    next: list[str]

    def sentences(self) -> list[str]:
        whose = (
            "the data's own validation images"
            if self.told_is == "own"
            else "a fifth of the images, held out before anything else"
        )
        said = (
            f"{self.measure} {self.score:.3f} +- {self.error:.3f} on {self.images} images that chose nothing ({whose})"
        )
        rates = "in closed form" if self.factor is None else f"at {self.factor:.2g} times the default rates"
        lines = [f"{self.backbone} with {self.methods}, {rates}: {said}."]
        if not self.claimed:
            lines.append("That is not above chance by two standard errors: nothing is claimed.")
        lines.append(
            f"Pretraining: {self.verdict} transfer, by leave-one-out on these images against raw pixels and random weights."
        )
        lines += [f"Left out: {step} ({why})." for step, why in self.skipped.items()]
        spent = ", ".join(f"{step} {seconds:.0f}" for step, seconds in self.steps.items())
        lines.append(f"Seconds: {spent}.")
        lines.append(f"Wrote {self.delta} ({self.bytes:,} bytes), {self.page}, and {self.numbers} with every number.")
        return [*lines, "Next:", *(f"  {command}" for command in self.next)]

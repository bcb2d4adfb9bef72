"""`Extracted`: the delta that `petl.extract` found in a fine-tuned checkpoint, and what it lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from petl.combining.model_findings import ModelFindings
from petl.combining.rebuilding import Layer


@dataclass(frozen=True)
class AccuracyCost:
    """Accuracies on the same ``images``: of the checkpoint, of the delta, and the paired difference with its standard error."""

    images: int
    tuned: float
    extracted: float
    difference: float
    error: float


@dataclass(frozen=True, repr=False)
class Extracted(ModelFindings):
    """What `petl.extract` found. It prints as sentences; ``save(path)`` writes the delta; ``to_json`` has every number.

    Attributes:
        model: The base with the delta on it, in evaluation mode.
        tensors: How many of the base's tensors differ in the checkpoint, the classifier's not counted.
        layers: The weights among them, each with its rank (None: whole), the size of its change beside the base's weight, and
            ``residual``: the share of the change (Frobenius norm) that is lost. ``residual``: of all of them together.
        numbers: Of the delta; ``base_numbers``: of the base.
        classes: Outputs of the classifier; None where the model has none.
        cost: In accuracy, where data was given.
    """

    tensors: int
    layers: Sequence[Layer]
    residual: float
    numbers: int
    base_numbers: int
    classes: int | None
    cost: AccuracyCost | None = None

    def sentences(self) -> list[str]:
        low = [layer.rank for layer in self.layers if layer.rank is not None]
        whole = len(self.layers) - len(low)
        if not self.tensors:
            lines = ["The backbone of the checkpoint is the base's, to the bit: the delta is a classifier alone."]
        else:
            ranks = f"{min(low)} to {max(low)}" if len({*low}) > 1 else f"{low[0]}" if low else ""
            kinds = [f"{len(low)} low-rank ({ranks})"] * bool(low) + [f"{whole} whole"] * bool(whole)
            lines = [
                f"{self.tensors} tensors differ from the base, {len(self.layers)} of them weights"
                + (f": {', '.join(kinds)}." if kinds else "."),
            ]
        share = self.numbers / max(self.base_numbers, 1)
        lines.append(f"The delta has {self.numbers:,} numbers, {share:.1%} of the base's {self.base_numbers:,}.")
        worst = max(self.layers, key=lambda layer: layer.residual, default=None)
        if worst is not None:
            lines.append(
                f"Lost: {self.residual:.2%} of the change (Frobenius norm), at most {worst.residual:.1%} ({worst.name})."
            )
        if self.cost:
            cost = self.cost
            lines.append(
                f"Accuracy on {cost.images} images: checkpoint {cost.tuned:.3f}, delta {cost.extracted:.3f}, difference "
                f"{cost.difference:+.3f} +- {cost.error:.3f} (paired)."
            )
        return lines

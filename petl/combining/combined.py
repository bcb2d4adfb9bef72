"""`Combined`: what `petl.combine` made, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from petl.combining.choice import TriedWeights
from petl.combining.model_findings import ModelFindings
from petl.combining.rebuilding import Layer
from petl.combining.refitted import linear_classifier
from petl.errors import StateError, listing
from petl.wrapping.lookup import require_record


@dataclass(frozen=True)
class TaskHead:
    """A computed classifier: its classes, the images that it was computed from, its leave-one-out accuracy on them."""

    classes: list[str]
    images: int
    accuracy: float
    error: float


@dataclass(frozen=True, repr=False)
class Combined(ModelFindings):
    """What `petl.combine` made. It prints as sentences; ``save(path)`` writes the delta; ``to_json`` has every number.

    Attributes:
        model: The wrapped model, in evaluation mode.
        names, weights, how: Of what was combined, in the order given.
        layers: The changed weights, each with its rank (None: kept whole), the size of its change beside the base's weight, and
            ``residual``: the share of the change (Frobenius norm) that the rank cuts off. ``residual``: of all layers together.
        tensors: How many of the base's tensors change, the classifier's not counted.
        heads: How the classifier came about, in words. ``slices``: for classifiers side by side, the first output of each and
            one past its last. ``refitted``: the computed ones by task ("": the only one).
        curve: What was tried on held-out images, with ``weights="auto"``; ``even`` are the weights that nobody chose,
            ``held_out`` the number of images.
    """

    names: list[str]
    weights: list[float]
    how: str
    layers: list[Layer]
    residual: float
    tensors: int
    heads: str
    labels: list[str] | None
    slices: Mapping[str, tuple[int, int]]
    refitted: Mapping[str, TaskHead]
    curve: Sequence[TriedWeights]
    even: list[float]
    held_out: int

    def sentences(self) -> list[str]:
        parts = ", ".join(f"{weight:g} x {name}" for weight, name in zip(self.weights, self.names, strict=True))
        lines = [f"Combined ({self.how}): {parts}."]
        lines += self._backbone()
        lines.append(f"Classifier: {self.heads}{f', {len(self.labels)} labels' if self.labels else ''}.")
        lines += [
            f"Computed for {name or 'the images'}: leave-one-out accuracy {head.accuracy:.3f} +- {head.error:.3f} on "
            f"{head.images} images of {len(head.classes)} classes."
            for name, head in self.refitted.items()
        ]
        return lines + self._choice()

    def _backbone(self) -> list[str]:
        if not self.tensors:
            return ["The backbone is the base's, to the bit."]
        low = [layer.rank for layer in self.layers if layer.rank is not None]
        whole = len(self.layers) - len(low)
        kinds = [f"{len(low)} of rank {_span(low)}"] * bool(low) + [f"{whole} whole"] * bool(whole)
        said = f"{self.tensors} tensors of the backbone change, {len(self.layers)} of them weights"
        lines = [said + (f" ({', '.join(kinds)})." if kinds else ".")]
        worst = max(self.layers, key=lambda layer: layer.residual, default=None)
        if worst is not None and self.residual >= 5e-4:
            lines.append(
                f"The rank cuts off {self.residual:.1%} of the change (Frobenius norm), at most {worst.residual:.1%} "
                f"({worst.name})."
            )
        elif low:
            lines.append(f"Nothing is cut off but rounding ({self.residual:.1g} of the change).")
        return lines

    def _choice(self) -> list[str]:
        chosen = next((one for one in self.curve if one.weights == self.weights_tried), None)
        if chosen is None:
            return []
        return [
            f"The weights were chosen among {len(self.curve)} on {self.held_out} held-out images: {chosen.accuracy:.3f} +- "
            f"{chosen.error:.3f}, {chosen.against_even:+.3f} +- {chosen.against_even_error:.3f} (paired) against "
            f"{', '.join(f'{weight:g}' for weight in self.even)}. The best of several looks better than it is: measure it on "
            "images that chose nothing."
        ]

    @property
    def weights_tried(self) -> list[float]:
        """The weights as they stand in ``curve``: without the base's."""
        return [weight for weight, name in zip(self.weights, self.names, strict=True) if name != "base"]

    def only(self, name: str) -> nn.Module:
        """Returns a copy of the model with the classifier of one task alone, of those that stand side by side.

        Raises:
            StateError: there is no such classifier.
        """
        from petl.combining.regrown import with_classifier

        if name not in self.slices:
            raise StateError(
                f"there is no classifier {name!r:.60} of its own; there are {listing(self.slices) or 'none'}"
            )
        start, stop = self.slices[name]
        _, record = require_record(self.model)
        layer = linear_classifier(self.model, len(record.labels or ()))
        weight, bias = (layer._parameters[key].detach()[start:stop] for key in ("weight", "bias"))  # type: ignore[union-attr]  # it is linear
        labels = [label.removeprefix(f"{name}/") for label in (record.labels or [])[start:stop]]
        return with_classifier(self.model, torch.as_tensor(weight), torch.as_tensor(bias), labels)


def _span(ranks: Sequence[int]) -> str:
    return str(next(iter(ranks), 0)) if len({*ranks}) < 2 else f"{min(ranks)} to {max(ranks)}"

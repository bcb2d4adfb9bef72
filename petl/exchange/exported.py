"""What `petl.export` wrote: the file, its input and outputs, and how far its answers are from the model's."""

from __future__ import annotations

from dataclasses import dataclass

from petl.errors import listing
from petl.findings import Findings


@dataclass(frozen=True, repr=False)
class Exported(Findings):
    """A file that petl exported.

    Attributes:
        path, bytes: the file.
        input_shape: of the images; a word stands for a size that may vary.
        outputs: their names: "logits", "probabilities", "values" (of a regression) or "embedding".
        layers_of_their_own: changes that are no change of a weight, and are layers in the file.
        difference: the largest difference between the file's outputs and the model's, for 1 and for 3 random images.
        largest_output: the largest of the model's outputs there.
        metadata: the keys in the file's metadata.
        seconds: that it took.
    """

    path: str
    bytes: int
    input_shape: list[int | str]
    outputs: list[str]
    layers_of_their_own: list[str]
    difference: float
    largest_output: float
    metadata: list[str]
    seconds: float

    def sentences(self) -> list[str]:
        """Returns what was written as lines of text."""
        shape = ", ".join(str(size) for size in self.input_shape)
        lines = [
            f"{self.path}: {self.bytes / 1e6:.2f} MB, in {self.seconds:.0f} s.",
            f"It takes float32 images [{shape}], as its pipeline makes them, and gives {listing(self.outputs)}.",
            f"Tried with 1 and with 3 images: outputs are off by at most {self.difference:.1e}, where they reach "
            f"{self.largest_output:.3g}.",
            f"In its metadata: {', '.join(self.metadata)}.",
        ]
        if self.layers_of_their_own:
            lines.append(f"Layers of their own, as no weight can hold them: {listing(self.layers_of_their_own)}.")
        return lines

"""What `petl.to_peft` wrote: layers of each kind, size, the difference of outputs, and how to load it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from petl.errors import listing
from petl.findings import Findings


@dataclass(frozen=True, repr=False)
class PeftAdapter(Findings):
    """An adapter of peft's that petl wrote.

    Attributes:
        folder: where the two files are.
        tuner: peft's name of the kind: "LoRA", "DoRA", "LOHA" ...
        adapted: layers with a change of that kind.
        saved: modules that train as a whole (the classifier, norms), in ``modules_to_save``.
        whole: layers that are written whole because peft would compute their change otherwise, with the reason.
        biases: how many layers train their bias alone.
        bytes: of both files.
        difference: the largest difference of outputs between peft's model and petl's, on random images, before writing; None for
            a model that doesn't run on images.
        model, arguments: what ``timm.create_model`` takes to make the model that the adapter goes onto.
    """

    folder: str
    tuner: str
    adapted: list[str]
    saved: list[str]
    whole: dict[str, str]
    biases: int
    bytes: int
    difference: float | None
    model: str | None
    arguments: dict[str, Any]

    def sentences(self) -> list[str]:
        """Returns what was written as lines of text."""
        lines = [f"{self.folder}: an adapter of peft's, {self.bytes / 1e6:.2f} MB."]
        if self.adapted:
            lines.append(f"{self.tuner} on {len(self.adapted)} layers: {listing(self.adapted, 4)}.")
        if self.saved:
            lines.append(f"Saved as whole modules, since all of them trains: {listing(self.saved, 4)}.")
        if self.whole:
            reasons = "; ".join(sorted({*self.whole.values()}))
            lines.append(
                f"Whole, with the changed weight, peft having no other way: {listing(self.whole, 4)} ({reasons})."
            )
        if self.biases:
            lines.append(f"The biases of {self.biases} layers.")
        if self.difference is not None:
            lines.append(f"Loaded by peft onto a copy of the base: outputs differ by at most {self.difference:.1e}.")
        return [*lines, "To load it:", *(f"    {line}" for line in self.snippet().splitlines())]

    def snippet(self) -> str:
        """Returns the lines of Python that load the adapter onto the timm model."""
        options = "".join(f", {key}={value!r}" for key, value in self.arguments.items())
        return (
            "import timm\nfrom peft import PeftModel\n"
            f"model = timm.create_model({self.model!r}, pretrained=True{options})\n"
            f"model = PeftModel.from_pretrained(model, {self.folder!r}).eval()"
        )

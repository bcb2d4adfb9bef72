"""What a report asks of a model: the classifier's inputs, its blocks' outputs and its answers, of images in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.first_image import output_of
from petl.data.logits import logits
from petl.errors import PetlError
from petl.extraction.classifier_inputs import captured_classifier, classifier_vectors, output_vectors
from petl.extraction.pooling import captured_blocks, pooled_block_modules
from petl.report.images import in_batches


@dataclass(frozen=True)
class ModelPass:
    """What a model gives for N images: ``x`` [N, D], pooled ``blocks`` by name, and ``scores`` [N, K] (None: no such output).

    ``why_no_blocks`` says why there are no blocks, where there are none.
    """

    x: Tensor
    blocks: dict[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None
    why_no_blocks: str = ""


@dataclass(frozen=True)
class ReportModel:
    """A model that is asked: its classifier's modules ``head``, and the device that it is on."""

    model: nn.Module
    head: list[str]
    device: Any
    batch_size: int = 64

    def whole_pass(self, pictures: Tensor, each: Callable[[], object] = lambda: None) -> ModelPass:
        """Returns all that the model gives for the images."""
        try:
            used, why = pooled_block_modules(self.model), ""
        except PetlError as error:
            used, why = {}, str(error).replace("; leave out blocks=True", "")
        parts = []
        for batch in in_batches(pictures, self.batch_size):
            parts.append(self._batch(batch, used))
            each()
        xs, blocks, scores = zip(*parts, strict=True)
        there = all(score is not None and score.ndim == 2 for score in scores)
        return ModelPass(
            torch.cat(xs),
            {name: torch.cat([part[name] for part in blocks]) for name in used},
            torch.cat([score for score in scores if score is not None]) if there else None,
            why,
        )

    def vectors(self, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the classifier's inputs [N, D] and the answers [N, K] alone."""
        parts = [self._batch(batch, {}) for batch in in_batches(pictures, self.batch_size)]
        scores = [part[2] for part in parts]
        whole = None if any(score is None or score.ndim != 2 for score in scores) else torch.cat(scores)  # type: ignore[arg-type]  # none is None
        return torch.cat([part[0] for part in parts]), whole

    @torch.no_grad()
    def _batch(self, pictures: Tensor, used: dict[str, list[bool]]) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        ratio = pictures.shape[3] / pictures.shape[2]
        with (
            captured_classifier(self.model, self.head) as calls,
            captured_blocks(self.model, used, ratio) as outputs,
        ):
            output = output_of(self.model, pictures.to(self.device))
        count = len(pictures)
        vectors = classifier_vectors(calls, count, ratio) if self.head else output_vectors(output, count)
        scores = logits(output) if self.head else None
        return (
            vectors.float().cpu(),
            {name: outputs[name].float().cpu() for name in used},
            scores.float().cpu() if isinstance(scores, Tensor) else None,
        )

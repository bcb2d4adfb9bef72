"""One pass of a model over images: for each batch what the classifier takes, and the other tables that are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.first_image import output_of
from petl.errors import StateError
from petl.extraction.classifier_inputs import captured_classifier, classifier_vectors, output_vectors
from petl.extraction.image_batches import images_and_any_targets, unreadable_rows
from petl.extraction.pooling import captured_blocks, small_pictures
from petl.wrapping.fingerprints import fingerprint


@dataclass
class BatchRows:
    """What a pass gives for a batch: tables with a row for each image, and the batch's fingerprint.

    ``unreadable`` [N] marks images that stand for files that couldn't be read; ``widths`` are the blocks', in depth order.
    """

    tables: dict[str, Tensor]
    unreadable: Tensor
    fingerprint: str = ""
    widths: dict[str, int] | None = None


@dataclass(frozen=True)
class FeaturePass:
    """What is computed of each batch: the inputs of the classifier's modules ``names``, the ``blocks``, small pictures.

    ``side`` is the pictures' in pixels, 0 for none. ``pipeline`` has the mean and deviation that images were normalised with, or
    None where petl can't know them.
    """

    accelerator: Any
    model: nn.Module
    names: Sequence[str]
    blocks: Mapping[str, Sequence[bool]]
    side: int
    pipeline: Mapping[str, Any] | None
    fingerprints: bool

    def read(self, batch: Any) -> BatchRows:
        """Returns what is known of a batch without running the model."""
        return self._known(*images_and_any_targets(batch, self.model))

    def _known(self, pictures: Tensor, targets: Tensor | None) -> BatchRows:
        rows = BatchRows({}, unreadable_rows(pictures, targets))
        if targets is not None:
            rows.tables["y"] = targets.cpu()
        if self.fingerprints:
            parts = [fingerprint(part) for part in (pictures, targets) if part is not None]
            rows.fingerprint = " ".join(parts)
        return rows

    @torch.no_grad()
    def compute(self, batch: Any) -> BatchRows:
        """Returns what is known of a batch, with the model's features, on the CPU and in float32."""
        pictures, targets = images_and_any_targets(batch, self.model)
        rows = self._known(pictures, targets)
        pictures = pictures.to(self.accelerator.device)
        ratio = pictures.shape[3] / pictures.shape[2]
        with (
            captured_classifier(self.model, self.names) as calls,
            captured_blocks(self.model, self.blocks, ratio) as outputs,
            self.accelerator.autocast(),
        ):
            output = output_of(self.model, pictures)
        count = len(pictures)
        vectors = classifier_vectors(calls, count, ratio) if self.names else output_vectors(output, count)
        rows.tables["x"] = vectors.cpu()
        self._refuse_broken(rows)
        if self.blocks:
            ordered = {name: outputs[name] for name in self.blocks}
            rows.tables["blocks"] = torch.cat(list(ordered.values()), 1).cpu()
            rows.widths = {name: table.shape[1] for name, table in ordered.items()}
        if self.side:
            rows.tables["inputs"] = small_pictures(pictures, self.pipeline, self.side).cpu()
        return rows

    def _refuse_broken(self, rows: BatchRows) -> None:
        """Raises a StateError where the model makes NaN or infinite features of numbers that are finite."""
        odd = ~torch.isfinite(rows.tables["x"]).all(1) & ~rows.unreadable
        if odd.any():
            lower = "" if self.accelerator.mixed_precision == "no" else ", or call it without a lower precision"
            raise StateError(
                f"the features of {int(odd.sum())} of {len(odd)} images are NaN or infinite, and their pixels aren't; the "
                f"model's values are broken: train it again{lower}"
            )


class Table:
    """Rows that come batch by batch, in one tensor; ``count`` is how many there will be, where that is known."""

    def __init__(self, count: int | None):
        self.count, self.filled, self.rows = count, 0, torch.empty(0)

    def add(self, rows: Tensor) -> None:
        end = self.filled + len(rows)
        if not self.filled:
            self.rows = rows.new_empty((max(self.count or 0, len(rows)), *rows.shape[1:]))
        if rows.shape[1:] != self.rows.shape[1:] or rows.dtype != self.rows.dtype:
            raise StateError(
                f"a batch gave rows of shape {tuple(rows.shape[1:])} and {rows.dtype}, the ones before of "
                f"{tuple(self.rows.shape[1:])} and {self.rows.dtype}; all images need features of one size"
            )
        if end > len(self.rows):
            grown = self.rows.new_empty((max(end, 2 * len(self.rows)), *rows.shape[1:]))
            grown[: self.filled] = self.rows[: self.filled]
            self.rows = grown
        self.rows[self.filled : end] = rows
        self.filled = end

    def all(self) -> Tensor:
        """Returns the rows; without the room that was made for more of them."""
        return self.rows if self.filled == len(self.rows) else self.rows[: self.filled].clone()


def in_step(accelerator: Any, parts: Iterator[Any]) -> Iterator[Any]:
    """Yields the parts of all ranks on each of them: the first ones in the order of the ranks, then the second ones, and so on.

    An error of one rank is raised on all, so that none waits for it.
    """
    if accelerator.num_processes == 1:
        yield from parts
        return
    while True:
        shares = exchanged(accelerator, _next_or_error(parts))
        for share in shares:
            if isinstance(share, Exception):
                raise share
        present = [share for share in shares if share is not None]
        if not present:
            return
        yield from present


def _next_or_error(parts: Iterator[Any]) -> Any:
    try:
        return next(parts, None)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # what this line itself made
        except Exception:  # an error of any library
            return RuntimeError(f"{type(error).__name__}: {error}")
        return error


def exchanged(accelerator: Any, value: Any) -> list[Any]:
    """Returns the values of all ranks, in their order; a value has to be one that can be pickled."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return values

"""Computes batches in which each row has its own task: in one pass of the backbone where that is possible."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from petl.data.first_image import output_of
from petl.errors import DataError, PetlError
from petl.graft.values import input_dtype
from petl.prediction.meaning import scores_of
from petl.tasks.images import ImageStack
from petl.tasks.inputs import inputs_of
from petl.tasks.layer_changes import TaskChanges, changes_of, fits_one_pass
from petl.tasks.outputs import RowOutputs
from petl.tasks.row_layers import RowSegment, segments_running
from petl.tasks.row_proof import RowProof, prove_rows, row_layers
from petl.tasks.task import AddedTask
from petl.wrapping.lookup import in_chans

OWN_PASS, SHARED_PASS, SEGMENT_PASS = "grouped", "shared", "segments"


class RowOutput(NamedTuple):
    """What one row's model returned [K], and what its classifier took where that is the task's answer."""

    scores: Tensor
    features: Tensor | None


class RowGroup(NamedTuple):
    """The rows of one task in a batch."""

    task: AddedTask
    rows: list[int]


class RowMixer:
    """Runs batches of several tasks on one backbone; what it finds out about backbone and tasks is kept."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self._lock = threading.Lock()
        self._row_model: Any = None
        self._proofs: dict[tuple[int, ...], RowProof] = {}

    @torch.no_grad()
    def predict(self, batches: Sequence[ImageStack], tasks: Sequence[AddedTask], exact: bool) -> RowOutputs:
        """Returns the outputs of each row under its task."""
        outputs: dict[int, RowOutput] = {}
        paths: dict[int, str] = {}
        for places, images in batches:
            batch = self._on_device(images)
            groups = _groups([tasks[place] for place in places])
            together = {} if exact else self._together(batch, groups)
            path = SEGMENT_PASS if any(changes.layers for changes in together.values()) else SHARED_PASS
            found = self._one_pass(batch, groups, together) if together else {}
            for task, rows in groups:
                found |= {} if task in together else _by_row(rows, *_own_pass(task, batch[rows]))
                paths |= {places[row]: path if task in together else OWN_PASS for row in rows}
            outputs |= {places[row]: out for row, out in found.items()}
        order = range(len(tasks))
        features = {row: seen for row in order if (seen := outputs[row].features) is not None}
        return RowOutputs([outputs[row].scores for row in order], [*tasks], [paths[row] for row in order], features)

    def explain(self, batches: Sequence[ImageStack], tasks: Sequence[AddedTask]) -> dict[str, str]:
        """Returns for each task in words how its rows would be computed."""
        words: dict[str, str] = {}
        for places, images in batches:
            batch = self._on_device(images)
            groups = _groups([tasks[place] for place in places])
            together = self._together(batch, groups)
            for task, _ in groups:
                words[task.name] = self._why(task, batch, together)
        return words

    def _on_device(self, images: Tensor) -> Tensor:
        first = next(self.backbone.parameters(), None)
        return images.to(device=None if first is None else first.device, dtype=input_dtype(self.backbone))

    def _together(self, batch: Tensor, groups: Sequence[RowGroup]) -> dict[AddedTask, TaskChanges]:
        """Returns the tasks of a batch that are computed in one pass, with what they change; none where that gains nothing."""
        if len(groups) < 2 or not fits_one_pass(batch):
            return {}
        found = {task: self._changes(task, batch) for task, _ in groups}
        fitting = {task: changes for task, changes in found.items() if not changes.fault}
        return fitting if len(fitting) > 1 else {}

    @torch.inference_mode(False)  # what is found is kept, and used in every mode
    def _changes(self, task: AddedTask, batch: Tensor) -> TaskChanges:
        shape = tuple(batch.shape[1:])
        with self._lock:
            if shape not in self._proofs:
                self._proofs[shape] = prove_rows(self.backbone, shape, batch[:0])
            if shape not in task.changes:
                task.changes[shape] = changes_of(task, self.backbone, self._proofs[shape])
        return task.changes[shape]

    def _one_pass(
        self, batch: Tensor, groups: Sequence[RowGroup], together: dict[AddedTask, TaskChanges]
    ) -> dict[int, RowOutput]:
        """Computes the backbone once for the rows of these tasks, sorted by task, and each task's classifier on its rows."""
        with self._lock:
            self._row_model = self._row_model or row_layers(self.backbone)
        chosen = [group for group in groups if group.task in together]
        ends = torch.tensor([len(rows) for _, rows in chosen]).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        segments = [
            RowSegment(a, b, together[task].layers) for a, b, (task, _) in zip(starts, ends, chosen, strict=True)
        ]
        order = [row for _, rows in chosen for row in rows]
        with segments_running(segments):
            features = self._row_model.forward_features(batch[order])
        found: dict[int, RowOutput] = {}
        for (start, end, _), (task, rows) in zip(segments, chosen, strict=True):
            own = tree_map(lambda part, a=start, b=end: part[a:b], features)
            with inputs_of(task.embedder) as seen:
                scores = scores_of(task.model.forward_head(own), len(rows))  # type: ignore[operator]  # the proof has called it
            found |= _by_row(rows, scores, seen)
        return found

    def _why(self, task: AddedTask, batch: Tensor, together: dict[AddedTask, TaskChanges]) -> str:
        if task in together:
            layers = len(together[task].layers)
            how = f"with its changes of {layers} layers on its rows" if layers else "and its classifier"
            return f"{SEGMENT_PASS if any(c.layers for c in together.values()) else SHARED_PASS}: one pass of the backbone, {how}"
        if not fits_one_pass(batch):
            return f"{OWN_PASS}: one pass for several tasks is for float32 without autocast"
        fault = self._changes(task, batch).fault
        return f"{OWN_PASS}: {fault or 'no other task of the batch can be computed with it'}"


def _groups(tasks: Sequence[AddedTask]) -> list[RowGroup]:
    """Returns the rows of each task, in the order in which tasks first come."""
    rows: dict[AddedTask, list[int]] = {}
    for row, task in enumerate(tasks):
        rows.setdefault(task, []).append(row)
    return [RowGroup(task, found) for task, found in rows.items()]


def _by_row(rows: Sequence[int], scores: Tensor, seen: Sequence[Tensor]) -> dict[int, RowOutput]:
    features = seen[0].flatten(1) if seen else [None] * len(rows)
    return {row: RowOutput(one, other) for row, one, other in zip(rows, scores, features, strict=True)}


def _own_pass(task: AddedTask, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Runs the task's own model on its rows; returns the outputs, and what its classifier took where that is the answer."""
    try:
        channels = in_chans(task.model)
        if images.shape[1] != channels:
            raise DataError(f"its images have {channels} channels, and these {images.shape[1]}")
        with inputs_of(task.embedder) as seen:
            return scores_of(output_of(task.model, images), len(images)), seen
    except PetlError as error:
        raise DataError(f"task {task.name!r}: {error}") from error

"""Makes the result of `petl.combine` of opened deltas: chooses weights where asked, sums, rebuilds, and refits classifiers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from petl.combining.arithmetic import Summing, summed, total_rank
from petl.combining.changes import TaskChange
from petl.combining.choice import Chosen, Hits, choose_weights
from petl.combining.combined import Combined, TaskHead
from petl.combining.heads import CombinedHead, combined_head
from petl.combining.opened import BASE, Contents
from petl.combining.rebuilding import FULL, Head, Rebuilt, chosen_ranks, rebuilt
from petl.combining.refitted import RefittedTask, refit, refitted, right
from petl.combining.task_data import Passes, TaskData
from petl.delta.fitting import rounded_type
from petl.errors import StateError
from petl.wrapping.head import head_option
from petl.wrapping.lookup import require_record
from petl.wrapping.own_tensors import state_tensors

ROUNDED_TYPES = ("int3", "int4", "int8", "bfloat16", "float16")  # the coarsest first


@dataclass(frozen=True)
class CombineJob:
    """All that a result is made of, but the weights."""

    base: nn.Module
    changes: list[TaskChange]
    summing: Summing
    rank: int | str | None
    way: str
    tasks: list[TaskData]
    passes: Passes

    def weighted(self, weights: Sequence[float]) -> list[TaskChange]:
        return [replace(change, weight=weight) for change, weight in zip(self.changes, weights, strict=True)]


def as_it_is(model: nn.Module, contents: Contents, weights: Sequence[float], how: str) -> Combined:
    record = require_record(model)[1]
    tensors = len(record.owned_keys - {*record.head_tensors})
    said = "as it is: one delta counts, with the weight 1"
    return Combined(
        model, names_of(contents), [*weights], how, [], 0.0, tensors, said, record.labels, {}, {}, [], [*weights], 0
    )


def names_of(contents: Contents) -> list[str]:
    return [BASE if delta is None else delta.name for delta in contents.deltas]


def finished(job: CombineJob, contents: Contents, given: Sequence[float], *, auto: bool) -> Combined:
    """Returns the result for the weights, which are chosen first with ``auto``."""
    places = [number for number, delta in enumerate(contents.deltas) if delta]
    weights, chosen = [given[number] for number in places], None
    if auto:
        chosen = _chosen(job, weights)
        weights = chosen.weights
    all_weights = [*given]
    for number, weight in zip(places, weights, strict=True):
        all_weights[number] = weight
    changes = job.weighted(weights)
    wanted = summed(job.base, changes, job.summing)
    head = _head(job, changes)
    result = _rebuilt(job, changes, wanted, head)
    found = refit(result.model, job.tasks, job.passes) if job.way == "refit" else []
    curve, held, even = (chosen.curve, chosen.images, chosen.even) if chosen else ([], 0, [*weights])
    combined = Combined(
        result.model, names_of(contents), all_weights, job.summing.how, result.layers, result.residual, len(wanted), head.how,
        head.labels, head.slices, {one.name: _task_head(one) for one in found}, curve, even, held,
    )  # fmt: skip
    _note(result, head, combined)
    result.record.approximate = _coarsest(changes) if wanted else None
    return combined


def _task_head(found: RefittedTask) -> TaskHead:
    return TaskHead(found.labels, found.images, found.accuracy, found.error)


def _head(job: CombineJob, changes: Sequence[TaskChange]) -> CombinedHead:
    if job.way != "refit":
        return combined_head(job.way, changes)
    option = next((head_option(c.delta.header.head) for c in changes if c.delta.header.head), True)
    names = [task.name for task in job.tasks]
    several = len(names) > 1
    labels = [f"{task.name}/{label}" if several else label for task in job.tasks for label in task.labels]
    ends = [sum(len(task.labels) for task in job.tasks[: number + 1]) for number in range(len(names))]
    slices = {t.name: (end - len(t.labels), end) for t, end in zip(job.tasks, ends, strict=True)} if several else {}
    meaning = {"task": "classification", "pipeline": changes[0].delta.header.pipeline}
    said = "computed from images" + (", side by side" if several else "")
    return CombinedHead(Head(option, len(labels)), said, labels, meaning, slices)


def _rebuilt(
    job: CombineJob, changes: Sequence[TaskChange], wanted: Mapping[str, Tensor], head: CombinedHead
) -> Rebuilt:
    def rank_of(key: str, matrix: Tensor) -> int | None:
        if job.rank == FULL:
            return None
        own = total_rank(changes, key)
        return own if job.rank is None else min(int(job.rank), own or int(job.rank))

    base = {key: tensor.detach() for key, _, _, tensor in state_tensors(job.base)}
    ranks = chosen_ranks(job.base, wanted, rank_of, base)
    size = changes[0].delta.header.backbone.get("args", {}).get("img_size")
    return rebuilt(copy.deepcopy(job.base), wanted, ranks, head.head, size)


def _chosen(job: CombineJob, even: Sequence[float]) -> Chosen:
    """Chooses the weights on held-out images; the rank is not cut for that."""

    def measure(weights: Sequence[float]) -> Hits:
        changes = job.weighted(weights)
        wanted = summed(job.base, changes, job.summing)
        if job.way == "refit":
            model = copy.deepcopy(job.base)
            model.load_state_dict({**model.state_dict(), **wanted})
            heads = [refitted(model, task, job.passes).head for task in job.tasks]
            reads = [job.passes.read(model, task.held, task.labels) for task in job.tasks]
            scores = [x.double() @ head.weight.T + head.bias for (x, _), head in zip(reads, heads, strict=True)]
            return [right(score, y) for score, (_, y) in zip(scores, reads, strict=True)]
        head = combined_head(job.way, changes)
        if head.slices:
            raise StateError(
                "weights='auto' needs classifiers that answer for the images; leave out heads= to compute them"
            )
        model = rebuilt(copy.deepcopy(job.base), wanted, {}, head.head).model
        reads = [job.passes.read(model, task.held, task.labels, head=False) for task in job.tasks]
        return [right(scores, y) for scores, y in reads]

    return choose_weights(len(job.changes), even, measure, one_task=len(job.tasks) == 1)


def _coarsest(changes: Sequence[TaskChange]) -> str | None:
    """Returns the type of the fewest bits that numbers in the sum were rounded to; None where none were."""
    types = {rounded_type(change.delta.header) for change in changes if change.weight}
    return next((name for name in ROUNDED_TYPES if name in types), None)


def _note(result: Rebuilt, head: CombinedHead, combined: Combined) -> None:
    """Writes into the record what the delta's header is to say."""
    record = result.record
    record.labels = head.labels
    for key, value in head.meaning.items():
        setattr(record, key, value)
    said = combined.to_json()
    kept = ("names", "weights", "how", "residual", "heads", "refitted", "curve", "held_out")
    record.results = {"combined": {key: said[key] for key in kept}}

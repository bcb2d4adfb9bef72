"""`combine` adds, averages and subtracts deltas on one backbone: one delta comes out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petl.combining.arithmetic import Summing, exact_sum, summed, total_rank
from petl.combining.changes import TaskChange, change_of, with_delta
from petl.combining.choice import Chosen, Hits, choose_weights
from petl.combining.combined import Combined, TaskHead
from petl.combining.heads import CombinedHead, chosen_way, combined_head
from petl.combining.opened import BASE, Contents, Opened, base_of, opened, refuse_other_bases
from petl.combining.rebuilding import Head, Rebuilt, chosen_ranks, rebuilt
from petl.combining.refitted import RefittedTask, refit, refitted, right
from petl.combining.task_data import Passes, TaskData, task_data
from petl.errors import MethodError, StateError
from petl.wrapping.head import head_option
from petl.wrapping.own_tensors import state_tensors

Weights = Sequence[float] | Literal["auto"] | None
FULL = "full"


@dataclass(frozen=True)
class _Job:
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


@torch.inference_mode(False)
def combine(
    deltas: Any,
    *,
    weights: Weights = None,
    how: str = "mean",
    model: nn.Module | None = None,
    rank: int | Literal["full"] | None = None,
    density: float = 0.2,
    heads: str | None = None,
    data: Any = None,
    images: int = 1000,
    pretrained: bool = True,
    trust_remote: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = True,
) -> Combined:
    """Combines deltas on one backbone into one: what each changes in the base's weights is added with its weight.

    Methods may differ (LoRA beside full or partial fine-tuning, norms, biases ...), as long as they change weights.

    Args:
        deltas: A list of delta files, wrapped models and ``"base"`` (or a model without a delta), which changes nothing; or a
            dict of these by names. Nothing of them is changed.
        weights: A number for each, also below 0; a sum below 1 goes towards the base (WiSE-FT). None: even ones of sum 1 (with
            how="iso", 1 for each). "auto": chosen on images of ``data`` that are held out.
        how: "mean" adds; "ties" keeps the largest numbers of each change (a share ``density``) and adds those that agree in
            sign; "iso" adds and then sets all singular values of a layer's change to their mean.
        model: The base. None: that of a wrapped model among the deltas, else timm builds the recorded one.
        rank: Of the changes of layers' weights. None: as many as the deltas' low-rank changes need, whole tensors for others.
            A number cuts them all to it; what is lost is reported. "full": whole tensors.
        heads: "mean" averages the classifiers (the default where the classes are the same), "apart" puts them side by side, with
            labels ``name/label`` (the default where they differ), the name of a delta keeps that one's, and "refit" computes them
            from images in closed form (the default with ``data``).
        data: Images of the classes: a folder, a table, a Dataset, a pair (train, val); or a dict of these by the deltas' names.
        images: At most so many of each part of ``data``.
        pretrained, trust_remote: As for `petl.load`.

    Deltas that are equal average to the very same one, one with the weight 1 comes out as it is, and ``a - a`` is the base, bit
    for bit; the order makes no difference. Running statistics of norms are averaged as moments. docs/combining.md has figures.

    Raises:
        DeltaError: a delta that is damaged, doesn't fit the base, or isn't a change of weights. StateError: other backbones, other
            classes, no delta. MethodError: a setting that can't be. DataError: images that can't be used.

    >>> import petl, timm, copy
    >>> base = timm.create_model("test_vit")
    >>> one, two = (petl.wrap(copy.deepcopy(base), "lora", num_classes=2) for _ in range(2))
    >>> combined = petl.combine([one, two], weights=[0.7, 0.3])
    >>> petl.trainable(combined.model)["blocks.0.attn.qkv.lora.up"].shape  # the ranks add up
    torch.Size([192, 16])
    """
    contents = opened(deltas)
    summing, passes = Summing(how, density), Passes(images, seed, batch_size, workers, progress)
    given = _weights(weights, contents, summing, data)
    _refuse_rank(rank)
    present = [delta for delta in contents.deltas if delta]
    refuse_other_bases(present)
    way = chosen_way(heads, present, data is not None)
    with torch.random.fork_rng(devices=[]):
        base = base_of(contents, deltas, model, pretrained=pretrained, trust_remote=trust_remote)
        kept = _alone(present, [w for w, d in zip(given, contents.deltas, strict=True) if d]) if data is None else None
        if kept is not None and way in ("mean", "apart", kept.name):
            changes: list[TaskChange] = []
            for delta in {one.mark: one for one in present}.values():
                with_delta(base, delta)  # which refuses what was made on another base
            return _as_it_is(with_delta(base, kept, exact=True), contents, given, how)
        known: dict[str, Any] = {delta.name: change_of(base, delta, 0.0) for delta in present}
        changes = [known[delta.name] for delta in present]
        labels = {delta.name: delta.header.labels for delta in present}
        tasks = [] if data is None else task_data(data, base, labels, choosing=weights == "auto", seed=seed)
        job = _Job(base, changes, summing, rank, way, tasks, passes)
        return _finished(job, contents, given, auto=weights == "auto")


def _weights(weights: Any, contents: Contents, summing: Summing, data: Any) -> list[float]:
    """Returns a weight for each item; with "auto" the even ones, from which the choice starts.

    Raises:
        MethodError: they aren't one finite number for each.
    """
    count = len(contents.deltas)
    deltas = sum(delta is not None for delta in contents.deltas)
    if isinstance(weights, str) and weights == "auto":
        if data is None:
            raise MethodError("weights='auto' chooses on held-out images; pass labelled ones: data=")
        share = 1.0 if summing.how == "iso" else 1 / deltas
        return [0.0 if delta is None else share for delta in contents.deltas]
    if weights is None:
        return [1.0 if summing.how == "iso" else 1 / count] * count
    values = weights.tolist() if hasattr(weights, "tolist") else weights
    fine = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == count
    if not fine or any(isinstance(w, bool) or not isinstance(w, (int, float)) or not abs(w) < 1e6 for w in values):
        raise MethodError(f"weights={weights!r:.60}; expected a number for each of the {count} deltas, or 'auto'")
    return [float(weight) for weight in values]


def _refuse_rank(rank: Any) -> None:
    whole = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if rank is not None and rank != FULL and not whole:
        raise MethodError(f"rank={rank!r:.40}; expected a whole number from 1 on, 'full' for whole tensors, or None")


def _alone(deltas: Sequence[Opened], weights: Sequence[float]) -> Opened | None:
    """Returns the delta that alone has a weight, which is 1; None where several have one, or it isn't 1."""
    totals: dict[str, list[float]] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        totals.setdefault(delta.mark, []).append(weight)
    counted = {mark: total for mark, each in totals.items() if (total := exact_sum(each))}
    if [*counted.values()] != [1.0]:
        return None
    return next(delta for delta in deltas if delta.mark in counted)


def _as_it_is(model: nn.Module, contents: Contents, weights: Sequence[float], how: str) -> Combined:
    from petl.wrapping.lookup import require_record

    record = require_record(model)[1]
    tensors = len(record.owned_keys - {*record.head_tensors})
    said = "as it is: one delta counts, with the weight 1"
    return Combined(
        model, _names(contents), [*weights], how, [], 0.0, tensors, said, record.labels, {}, {}, [], [*weights], 0
    )


def _names(contents: Contents) -> list[str]:
    return [BASE if delta is None else delta.name for delta in contents.deltas]


def _finished(job: _Job, contents: Contents, given: Sequence[float], *, auto: bool) -> Combined:
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
        result.model, _names(contents), all_weights, job.summing.how, result.layers, result.residual, len(wanted), head.how,
        head.labels, head.slices, {one.name: _task_head(one) for one in found}, curve, even, held,
    )  # fmt: skip
    _note(result, head, combined)
    return combined


def _task_head(found: RefittedTask) -> TaskHead:
    return TaskHead(found.labels, found.images, found.accuracy, found.error)


def _head(job: _Job, changes: Sequence[TaskChange]) -> CombinedHead:
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


def _rebuilt(job: _Job, changes: Sequence[TaskChange], wanted: Mapping[str, Tensor], head: CombinedHead) -> Rebuilt:
    def rank_of(key: str, matrix: Tensor) -> int | None:
        if job.rank == FULL:
            return None
        own = total_rank(changes, key)
        return own if job.rank is None else min(int(job.rank), own or int(job.rank))

    base = {key: tensor.detach() for key, _, _, tensor in state_tensors(job.base)}
    ranks = chosen_ranks(job.base, wanted, rank_of, base)
    size = changes[0].delta.header.backbone.get("args", {}).get("img_size")
    return rebuilt(copy.deepcopy(job.base), wanted, ranks, head.head, size)


def _chosen(job: _Job, even: Sequence[float]) -> Chosen:
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
            raise StateError("weights='auto' needs classifiers that answer for the images; leave out heads= to compute them")
        model = rebuilt(copy.deepcopy(job.base), wanted, {}, head.head).model
        reads = [job.passes.read(model, task.held, task.labels, head=False) for task in job.tasks]
        return [right(scores, y) for scores, y in reads]

    return choose_weights(len(job.changes), even, measure, one_task=len(job.tasks) == 1)


def _note(result: Rebuilt, head: CombinedHead, combined: Combined) -> None:
    """Writes into the record what the delta's header is to say."""
    record = result.record
    record.labels = head.labels
    for key, value in head.meaning.items():
        setattr(record, key, value)
    said = combined.to_json()
    kept = ("names", "weights", "how", "residual", "heads", "refitted", "curve", "held_out")
    record.results = {"combined": {key: said[key] for key in kept}}

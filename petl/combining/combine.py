"""`combine` adds, averages and subtracts deltas on one backbone: one delta comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from petl.combining.arithmetic import Summing, exact_sum
from petl.combining.changes import TaskChange, change_of, with_delta
from petl.combining.combine_job import CombineJob, as_it_is, finished
from petl.combining.combined import Combined
from petl.combining.heads import chosen_way
from petl.combining.opened import Contents, NamedDelta, base_of, open_deltas, refuse_other_bases
from petl.combining.rebuilding import FULL
from petl.combining.task_data import Passes, task_data
from petl.errors import MethodError

Weights = Sequence[float] | Literal["auto"] | None


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
        rank: Of the changes of layers' weights. None: the ranks of low-rank changes together, whole tensors for others. With
            how="ties", whose sums have no low rank, that cuts something off, which is reported; "full" doesn't.
            A number cuts them all to it. "full": whole tensors.
        heads: "mean" averages the classifiers (the default where the classes are the same), "apart" puts them side by side, with
            labels ``name/label`` (the default where they differ), the name of a delta keeps that one's, and "refit" computes them
            from images in closed form (the default with ``data``).
        data: Images of the classes: a folder, a table, a Dataset, a pair (train, val); or a dict of these by the deltas' names.
        images: At most so many of each part of ``data``.
        pretrained, trust_remote: As for `petl.load`.

    Deltas that are equal average to the very same one, one with the weight 1 comes out as it is, and ``a - a`` is the base, bit
    for bit; the order makes no difference. Running statistics of norms are averaged as moments. docs/combining.md has figures.

    Raises:
        DeltaError: a delta that is damaged, doesn't fit the base, or isn't a change of weights. StateError: other backbones or
            classes, no delta. MethodError: a setting that can't be. DataError: images that can't be used.

    >>> import petl, timm, copy
    >>> base = timm.create_model("test_vit")
    >>> one, two = (petl.wrap(copy.deepcopy(base), "lora", num_classes=2) for _ in range(2))
    >>> _ = [p.data.normal_() for model in (one, two) for p in model.parameters() if p.requires_grad]  # as if trained
    >>> combined = petl.combine([one, two], weights=[0.7, 0.3])
    >>> petl.trainable(combined.model)["blocks.0.attn.qkv.lora.up"].shape  # the ranks add up
    torch.Size([192, 16])
    """
    contents = open_deltas(deltas)
    summing, passes = Summing(how, density), Passes(images, seed, batch_size, workers, progress)
    auto = isinstance(weights, str) and weights == "auto"
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
            return as_it_is(with_delta(base, kept, exact=True), contents, given, how)
        known: dict[str, Any] = {delta.name: change_of(base, delta, 0.0) for delta in present}
        changes = [known[delta.name] for delta in present]
        labels = {delta.name: delta.header.labels for delta in present}
        tasks = [] if data is None else task_data(data, base, labels, choosing=auto, seed=seed)
        job = CombineJob(base, changes, summing, rank, way, tasks, passes)
        return finished(job, contents, given, auto=auto)


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
    values: Any = weights
    values = values.tolist() if hasattr(values, "tolist") else values
    fine = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == count
    if not fine or any(isinstance(w, bool) or not isinstance(w, (int, float)) or not abs(w) < 1e6 for w in values):
        raise MethodError(f"weights={weights!r:.60}; expected a number for each of the {count} deltas, or 'auto'")
    return [float(weight) for weight in values]


def _refuse_rank(rank: Any) -> None:
    whole = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if rank is not None and rank != FULL and not whole:
        raise MethodError(f"rank={rank!r:.40}; expected a whole number from 1 on, 'full' for whole tensors, or None")


def _alone(deltas: Sequence[NamedDelta], weights: Sequence[float]) -> NamedDelta | None:
    """Returns the delta that alone has a weight, which is 1; None where several have one, or it isn't 1."""
    totals: dict[str, list[float]] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        totals.setdefault(delta.mark, []).append(weight)
    counted = {mark: total for mark, each in totals.items() if (total := exact_sum(each))}
    if [*counted.values()] != [1.0]:
        return None
    return next(delta for delta in deltas if delta.mark in counted)

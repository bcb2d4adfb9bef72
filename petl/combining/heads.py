"""Classifiers of combined deltas: averaged, one of them, or side by side under the names of their deltas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from petl.combining.arithmetic import exact_sum, shares
from petl.combining.changes import TaskChange
from petl.combining.opened import NamedDelta, refuse_unknown
from petl.combining.rebuilding import Head
from petl.delta.header import Header
from petl.errors import MethodError, StateError, listing
from petl.wrapping.head import head_option

WAYS = ("mean", "apart", "refit")
MEANING = (
    "task",
    "units",
    "thresholds",
    "quantiles",
    "temperature",
    "pipeline",
)  # of the header, about outputs and images


@dataclass(frozen=True)
class CombinedHead:
    """The classifier of a result: what to build, in words how it came about, the labels, and what the header says of it.

    ``slices`` has for each delta whose classifier stands beside others the first of its outputs and one past its last.
    """

    head: Head
    how: str
    labels: list[str] | None = None
    meaning: Mapping[str, Any] = field(default_factory=dict)
    slices: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def chosen_way(heads: str | None, deltas: Sequence[NamedDelta], has_data: bool) -> str:
    """Returns ``heads=`` of `petl.combine` with the default put in: "refit" with data, "mean" for equal classes, else "apart".

    Raises:
        MethodError: there is no such way.
    """
    names = [delta.name for delta in deltas]
    if heads is None:
        return "refit" if has_data else "mean" if _same_classes(deltas) else "apart"
    if not isinstance(heads, str) or heads not in (*WAYS, *names):
        known = listing([*map(repr, WAYS), *map(repr, names)], 12)
        raise MethodError(f"heads={heads!r:.60}; expected one of {known}")
    if heads == "refit" and not has_data:
        raise MethodError("heads='refit' computes classifiers from images; pass them: data=")
    if heads == "mean" and not _same_classes(deltas):
        raise StateError(
            f"heads='mean', but classes differ ({_shown_classes(deltas)}); heads='apart' puts them side by side, "
            f"heads={names[0]!r} keeps one, and data= computes a new one"
        )
    return heads


def _same_classes(deltas: Sequence[NamedDelta]) -> bool:
    """Returns whether all deltas that have a classifier have the same outputs: as many, with the same labels, for one task."""
    meanings = [(_class_count(d), d.header.labels, d.header.task, d.header.units) for d in deltas if d.header.head]
    return all(meaning == meanings[0] for meaning in meanings)


def _class_count(delta: NamedDelta) -> Any:
    return delta.header.backbone.get("num_classes")


def _shown_classes(deltas: Sequence[NamedDelta]) -> str:
    return "; ".join(f"{delta.name}: {listing(delta.header.labels or [_class_count(delta)], 3)}" for delta in deltas)


def combined_head(way: str, changes: Sequence[TaskChange]) -> CombinedHead:
    """Returns the classifier of the deltas that count with a weight above 0, averaged, apart, or one of them.

    Raises:
        StateError: they can't be put together in this way.
    """
    order = sorted(changes, key=lambda change: change.delta.mark)
    if way not in WAYS:
        refuse_unknown([way], [change.delta.name for change in changes], "heads")
        return _one(next(change for change in changes if change.delta.name == way))
    kept = [change for change in order if _weight(change, changes) > 0 and change.head]
    if not kept:
        option = any(change.delta.header.head for change in changes)
        return CombinedHead(Head(option), "the base's own")
    if len({change.delta.mark for change in kept}) == 1:
        return _one(kept[0])
    _refuse_other_layers(kept)
    return _mean_head(kept) if way == "mean" else _apart(kept)


def _weight(change: TaskChange, changes: Sequence[TaskChange]) -> float:
    """Returns the weight of a delta, which may stand several times among the others."""
    return exact_sum([other.weight for other in changes if other.delta.mark == change.delta.mark])


def _one(change: TaskChange) -> CombinedHead:
    header = change.delta.header
    head = Head(_option(header), _count(header), change.head)
    return CombinedHead(head, f"that of {change.delta.name}", header.labels, _meaning(header))


def _option(header: Header) -> Any:
    return head_option(header.head)


def _count(header: Header) -> int | None:
    return header.backbone.get("num_classes") if header.head else None


def _meaning(header: Header) -> dict[str, Any]:
    return {key: getattr(header, key) for key in MEANING}


def _refuse_other_layers(kept: Sequence[TaskChange]) -> None:
    first = kept[0]
    for other in kept[1:]:
        if [*other.head] != [*first.head] or head_option(other.delta.header.head) != _option(first.delta.header):
            raise StateError(
                f"the classifiers of {first.delta.name} and {other.delta.name} are different layers ({listing(first.head)} and "
                f"{listing(other.head)}); keep one: heads={first.delta.name!r}"
            )


def _mean_head(kept: Sequence[TaskChange]) -> CombinedHead:
    """Returns the weighted mean; classifiers have no base to add a change to, so the weights are divided by their sum."""
    total = exact_sum([change.weight for change in kept])
    first = kept[0].head
    if any(other.head[key].shape != first[key].shape for other in kept for key in first):
        raise StateError("the classifiers differ in shape and have no mean; heads='apart', or the name of one")
    tensors = {key: _averaged([(change.weight / total, change.head[key]) for change in kept]) for key in first}
    header = kept[0].delta.header
    meaning = {**_meaning(header), "temperature": None}
    return CombinedHead(Head(_option(header), _count(header), tensors), "averaged", header.labels, meaning)


def _averaged(pairs: Sequence[tuple[float, Tensor]]) -> Tensor:
    found = shares(pairs)
    if len(found) == 1 or not pairs[0][1].is_floating_point():
        return found[0].value
    total = sum((share.weight * share.value.double() for share in found), torch.zeros((), dtype=torch.float64))
    return total.to(found[0].value.dtype)


def _apart(kept: Sequence[TaskChange]) -> CombinedHead:
    """Returns the classifiers side by side; labels are ``name/label``.

    Raises:
        StateError: a classifier isn't linear, or its outputs aren't classes.
    """
    kept = sorted(kept, key=lambda change: change.delta.name)
    odd = [change.delta.name for change in kept if change.delta.header.task not in (None, "classification")]
    if odd:
        raise StateError(
            f"the outputs of {listing(odd)} are no classes, and can't stand beside others'; heads={odd[0]!r}"
        )
    counts = [_count(change.delta.header) for change in kept]
    for change, count in zip(kept, counts, strict=True):
        if count is None or any(not tensor.ndim or len(tensor) != count for tensor in change.head.values()):
            raise StateError(
                f"the classifier of {change.delta.name} isn't one linear layer ({listing(change.head)}), so that classifiers "
                f"can't stand side by side; keep one: heads={change.delta.name!r}, or compute one: data="
            )
    tensors = {key: torch.cat([change.head[key] for change in kept]) for key in kept[0].head}
    return side_by_side(kept[0].delta.header, [change.delta.name for change in kept], counts, kept, tensors)


def side_by_side(
    header: Header,
    names: Sequence[str],
    counts: Sequence[Any],
    kept: Sequence[TaskChange],
    tensors: Mapping[str, Tensor],
) -> CombinedHead:
    labels, slices, start = [], {}, 0
    for name, count, change in zip(names, counts, kept, strict=True):
        own = change.delta.header.labels or [str(number) for number in range(count)]
        labels += [f"{name}/{label}" for label in own]
        slices[name] = (start, start + count)
        start += count
    meaning = {"task": "classification", "pipeline": header.pipeline}
    return CombinedHead(Head(_option(header), start, tensors), "side by side", labels, meaning, slices)

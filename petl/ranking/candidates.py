"""What may be ranked: names of timm, ``NAME:FILE``, models, patterns and filters; each becomes a `Candidate`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from petl.errors import ITEM, PetlError, StateError, shortened
from petl.ranking.limits import Limits
from petl.ranking.published import UNPUBLISHED, Published
from petl.ranking.timm_tags import LADDER, Tag, diverse, has_weights, matching_tags, tag_of
from petl.sites.meta import pretrained_cfg
from petl.wrapping.licences import known_licence
from petl.wrapping.lookup import bare, record
from petl.wrapping.named_backbones import create_any_head, existing_file, name_and_file

EXPECTED_CANDIDATES = (
    "a name of timm's, NAME:WEIGHTS_FILE, a pattern such as 'convnext*', a model, a list or dict of these, or None"
)
WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Candidate:
    """A backbone to measure: a model, or how to build it.

    ``results`` are timm's of the same weights, ``side`` the input side that was asked for this one alone.
    """

    name: str
    source: str | nn.Module
    results: Published = UNPUBLISHED
    licence: str | None = None
    side: int | None = None

    def build(self, size: int | None) -> nn.Module:
        """Returns the model, with inputs of ``size`` pixels where it has to be built for a size.

        Raises:
            StateError: timm can't build it, or has no weights.
        """
        if isinstance(self.source, nn.Module):
            return self.source
        if not name_and_file(self.source)[1] and ":" not in self.source and not has_weights(self.source):
            raise StateError(f"timm has no pretrained weights of {self.source}; to use weights from a file: NAME:FILE")
        img_size = fitting_size(name_and_file(self.source)[0], size)
        args = {} if img_size is None else {"img_size": img_size}
        return create_any_head(self.source, args)


@dataclass(frozen=True)
class Selection:
    """The candidates to measure, why others are left out (by name), and how many pretrained tags were looked at."""

    candidates: list[Candidate]
    left_out: dict[str, str]
    considered: int = 0


def fitting_size(name: str, size: int | None) -> int | None:
    """Returns the ``img_size`` that a transformer of fixed input size is built with: the multiple of its patches that is nearest.

    None for networks that take any size, and for those that are kept at their own, since windows fix it as well.

    >>> fitting_size("vit_small_patch14_dinov2", 96), fitting_size("resnet50", 96)
    (98, None)
    """
    patch = re.search(r"patch(\d+)", name)
    if size is None or not patch or "window" in name or ":" in name or not tag_of(name).fixed:
        return None
    return max(1, round(size / int(patch[1]))) * int(patch[1])


def select_candidates(asked: Any, limits: Limits, most: int) -> Selection:
    """Returns the candidates that were asked for and are within the limits.

    Raises:
        PetlError: there is no such name, it isn't of a kind that can be ranked, or nothing is left.
    """
    selection = Selection([], {})
    for given, item in _items(asked):
        if isinstance(item, str) and WILD.search(item):
            selection = _with_tags(selection, item, limits, most)
        else:
            selection = _with_one(selection, _candidate(given, item, selection.candidates), limits)
    if not selection.candidates:
        listed = "; ".join(f"{name}: {why}" for name, why in selection.left_out.items())
        nobody = f"there is no candidate; expected {EXPECTED_CANDIDATES}"
        raise PetlError(f"no candidate is left to rank: {listed}" if listed else nobody)
    return selection


def _with_tags(selection: Selection, pattern: str, limits: Limits, most: int) -> Selection:
    """Returns the selection with a diverse few of a pattern's tags."""
    tags = matching_tags(pattern, limits)
    if not tags:
        raise PetlError(_nothing_fits(pattern, limits))
    there = {candidate.name for candidate in selection.candidates}
    new = [_of_tag(tag.name, tag, LADDER.get(tag.name)) for tag in diverse(tags, most) if tag.name not in there]
    return Selection([*selection.candidates, *new], selection.left_out, selection.considered + len(tags))


def _with_one(selection: Selection, candidate: Candidate | None, limits: Limits) -> Selection:
    """Returns the selection with a candidate, or with the reason why it is left out; as it is for None."""
    if candidate is None:
        return selection
    published = candidate.results
    if why := limits.forbids(candidate.licence) or limits.excess(published.params, published.gmacs, None):
        return replace(selection, left_out={**selection.left_out, candidate.name: why})
    return replace(selection, candidates=[*selection.candidates, candidate])


def _nothing_fits(pattern: str, limits: Limits) -> str:
    whole = (
        "no pretrained weights of timm" if pattern == "*" else f"no pretrained weights of timm are called {pattern!r}"
    )
    return f"{whole}{f' within {limits}' if limits else ''}; allow more, or name candidates"


def _items(asked: Any) -> Iterator[tuple[str | None, Any]]:
    """Yields (a name that the user gave it, or None; the candidate)."""
    if asked is None:
        yield None, "*"
    elif isinstance(asked, (str, nn.Module)):
        yield None, asked
    elif isinstance(asked, Mapping):
        yield from ((str(name), item) for name, item in asked.items())
    elif isinstance(asked, Iterable) and not isinstance(asked, (bytes, set, frozenset)):
        for item in asked:
            yield (str(item[0]), item[1]) if isinstance(item, tuple) and len(item) == 2 else (None, item)
    else:
        raise PetlError(f"got a {type(asked).__name__} of candidates; expected {EXPECTED_CANDIDATES}")


def _candidate(given: str | None, item: Any, others: list[Candidate]) -> Candidate | None:
    """Returns a candidate; None for one that is there already."""
    if isinstance(item, nn.Module):
        if any(other.source is item for other in others):
            return None
        licence = known_licence(_config(item).get("license"))
        return Candidate(_free(given or _model_name(item), others), item, licence=licence)
    if not isinstance(item, str) or not item.strip():
        raise PetlError(f"got {shortened(repr(item), ITEM)} as a candidate; expected {EXPECTED_CANDIDATES}")
    if any(other.source == item for other in others):
        return None
    name, file = name_and_file(item)
    if not name:
        raise PetlError(f"got {item!r}; the name of the network stands before the colon: NAME:WEIGHTS_FILE")
    if file:
        existing_file(file)
    if ":" in name:  # on a hub or in a folder: timm's tables don't know it
        return Candidate(_free(given or item, others), item)
    tag = tag_of(name)
    is_tags = not file or "." in name  # a file beside a name alone may hold any weights
    found = _of_tag(item, tag, None) if is_tags else Candidate(item, item)
    return replace(found, name=_free(given or (found.name if not file else item), others))


def _of_tag(source: str, tag: Tag, side: int | None) -> Candidate:
    return Candidate(source, source, tag.results, tag.licence, side)


def _free(name: str, others: list[Candidate]) -> str:
    """Returns the name, or with a number where another candidate has it."""
    taken, number, free = {other.name for other in others}, 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def _config(model: nn.Module) -> Mapping[str, Any]:
    config = pretrained_cfg(bare(model))
    return config if isinstance(config, Mapping) else vars(config) if hasattr(config, "__dict__") else {}


def _model_name(model: nn.Module) -> str:
    wrapped = record(model)
    named = wrapped.backbone.get("name") if wrapped else _config(model).get("architecture")
    label = str(named or type(bare(model)).__name__)
    return f"{label} + {', '.join(m.name for m in wrapped.methods)}" if wrapped else label

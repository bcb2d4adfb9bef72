"""Says of labels that can't be tensors, texts or None, what they are and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import default_collate

from petl.errors import ITEM, DataError, shortened


def label_fault(labels: Iterable[Any]) -> str:
    """Returns what is wrong with labels of items that are texts or None; "" for others.

    >>> label_fault([0, 1]), label_fault([0, None])
    ('', 'a label is None; give every image a label, or leave such images out: torch.utils.data.Subset(dataset, numbers)')
    """
    for label in labels:
        if label is None:
            return (
                "a label is None; give every image a label, or leave such images out: "
                "torch.utils.data.Subset(dataset, numbers)"
            )
        if isinstance(label, (str, bytes)):
            said = shortened(repr(str(label) if isinstance(label, str) else label), ITEM)
            return (
                f"a label is the text {said}; expected class numbers from 0 on: let the dataset give each text's number, such "
                f"as {{{said}: 0}}[label]"
            )
    return ""


def collated(items: list[Any]) -> Any:
    """Returns a batch of items, as torch puts them together.

    Raises:
        DataError: they can't be put together, with the reason where it is the labels.
    """
    try:
        return default_collate(items)
    except (TypeError, RuntimeError, ValueError) as error:
        if fault := label_fault(_labels(items)):
            raise DataError(f"the dataset's items can't be put into a batch: {fault}") from error
        raise


def _labels(items: Iterable[Any]) -> list[Any]:
    """Returns the second part of each item that is a pair, or what a dict calls its label."""
    pairs = [item for item in items if isinstance(item, (tuple, list)) and len(item) == 2]
    named = [item["label"] for item in items if isinstance(item, Mapping) and "label" in item]
    return [pair[1] for pair in pairs] + named

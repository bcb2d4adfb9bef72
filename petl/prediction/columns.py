"""Answers as columns of a table, for CSV and Parquet, and as rows with names, for Python and JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from petl.prediction.meaning import Meaning
from petl.prediction.passes import Block

SEPARATOR = ";"  # between the labels of one image in a cell of a CSV


@dataclass(frozen=True)
class Layout:
    """Which columns a table of answers has: ``top`` labels of each image, and with ``every``, all its probabilities.

    The columns are, by task: ``image, label, confidence`` (and ``label_2, confidence_2`` ... for more labels); for several
    labels at once ``image, labels, confidences``; for a regression ``image, value``, or a column for each output, and ``units``
    where the delta has them; ``image, 0, 1, 2 ...`` for embeddings. The columns of probabilities have the labels' names; one
    that another column has already gets a number: ``image (2)``.
    """

    meaning: Meaning
    top: int | None = None
    every: bool = True

    @property
    def lists(self) -> bool:
        """Returns whether an image may have several labels."""
        return self.meaning.task == "multilabel"

    @property
    def places(self) -> int:
        """Returns how many labels an image of a classification gets."""
        return min(self.top or 1, len(self.meaning.labels))

    @property
    def fixed(self) -> list[str]:
        """Returns the names of the columns that stand before those of the labels."""
        if self.lists:
            return ["image", "labels", "confidences"]
        if self.meaning.has_probabilities:
            numbered = [
                ("label", "confidence"),
                *((f"label_{n}", f"confidence_{n}") for n in range(2, self.places + 1)),
            ]
            return ["image", *(name for pair in numbered for name in pair)]
        return ["image", *(["units"] if self.meaning.units else []), *(["value"] if self.is_value else [])]

    @property
    def is_value(self) -> bool:
        """Returns whether the answer is a single number."""
        return self.meaning.task == "regression" and len(self.meaning.labels) == 1

    @property
    def labelled(self) -> list[str]:
        """Returns the names of the columns with a number for each label."""
        if self.is_value or (self.meaning.has_probabilities and not self.every):
            return []
        return distinct(self.meaning.labels, self.fixed)

    @property
    def names(self) -> list[str]:
        return [*self.fixed, *self.labelled]

    def columns(self, block: Block) -> list[Any]:
        """Returns the columns of a block, in the order of ``names``: texts, lists of texts, and float32 arrays."""
        images = [as_utf8(name) for name in block.names]
        values = block.values
        labelled = [values[:, k] for k in range(values.shape[1])] if self.labelled else []
        if not self.meaning.has_probabilities:
            units = [[self._units_cell(self.meaning.units)] * len(images)] if self.meaning.units else []
            return [images, *units, *([values[:, 0]] if self.is_value else []), *labelled]
        if self.lists:
            chosen = [self.meaning.chosen(row, self.top) for row in values]
            names = [[self.meaning.labels[k] for k in ks] for ks in chosen]
            return [images, names, [row[ks] for row, ks in zip(values, chosen, strict=True)], *labelled]
        order = self.meaning.ranked(values)[:, : self.places]
        pairs = [
            ([self.meaning.labels[k] for k in order[:, n]], _picked(values, order[:, n])) for n in range(self.places)
        ]
        return [images, *(column for pair in pairs for column in pair), *labelled]

    @staticmethod
    def _units_cell(units: list[str]) -> str:
        """Returns the unit of all values, or one for each, in their order."""
        return units[0] if len({*units}) == 1 else SEPARATOR.join(units)

    def rows(self, block: Block) -> Iterator[dict[str, Any]]:
        """Yields a dict for each image, with plain values; ``probabilities`` are a dict by label."""
        for name, values in zip(block.names, block.values, strict=True):
            yield {"image": name, **self._answer(values)}

    def _answer(self, values: np.ndarray) -> dict[str, Any]:
        described = self.meaning.describe(values, self.top)
        if self.meaning.task == "metric":
            return described[0]
        if self.meaning.task == "regression":
            return self._value_row(described)
        every = {"probabilities": dict(zip(distinct(self.meaning.labels), values.tolist(), strict=True))}
        if self.lists:
            keys = (("labels", "label"), ("confidences", "confidence"))
            return {many: [each[one] for each in described] for many, one in keys} | (every if self.every else {})
        more = {"predictions": described} if self.places > 1 else {}
        return {**described[0], **more, **(every if self.every else {})}

    def _value_row(self, described: list[dict[str, Any]]) -> dict[str, Any]:
        if self.is_value:
            return {key: value for key, value in described[0].items() if key != "label"}
        names = distinct(self.meaning.labels)
        units = {"units": dict(zip(names, self.meaning.units, strict=True))} if self.meaning.units else {}
        return {"values": dict(zip(names, (each["value"] for each in described), strict=True)), **units}


def _picked(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return values[np.arange(len(values)), numbers]


def distinct(labels: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Returns the labels with a number behind those that are taken already, such as the second of two equal ones.

    >>> distinct(["cat", "image", "cat"], ["image"])
    ['cat', 'image (2)', 'cat (2)']
    """
    labels, seen, names = list(labels), {*taken}, []
    own = {*labels}
    for label in labels:
        name, number = label, 2
        while name in seen or (name != label and name in own):
            name, number = f"{label} ({number})", number + 1
        seen.add(name)
        names.append(name)
    return names


def as_utf8(name: str) -> str:
    """Returns a file's name as UTF-8 has it: bytes of another encoding are spelled out, such as ``\\xff``."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

"""Predictions: the answers for images, as rows, as an array, and as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petl.errors import StateError
from petl.prediction.columns import Layout
from petl.prediction.meaning import Meaning
from petl.prediction.passes import Block
from petl.prediction.writers import refuse_output, write_blocks
from petl.tables import html_table, table

SHOWN = 20  # images in a printed table


class Predictions(Sequence[dict[str, Any]]):
    """The answers for images, in their order; each is a row, and all together are an array.

    Attributes:
        files: the name of each image that could be read: a path, or ``image 7`` where there is none.
        skipped: (name, reason) of each image that could not.
        values: the answers float32 [N, K]: probabilities, a regression's values, or embeddings.
        labels: the names of the K numbers.
        task: what the answers are: "classification", "multilabel", "regression", "ordinal" or "metric".
        out: the file that has the answers, if ``out=`` was given; then there are no ``values`` and no rows here.

    A row is a dict: ``image``, ``label``, ``confidence``, ``probabilities`` (by label), and with ``top`` the ``predictions``; for
    several labels at once ``labels`` and ``confidences``; for a regression ``value``, or ``values`` by name, and ``units``; for
    embeddings ``embedding``.
    """

    def __init__(
        self,
        layout: Layout,
        files: list[str],
        values: np.ndarray | None,
        skipped: list[tuple[str, str]],
        out: Path | None = None,
    ):
        self.files, self.skipped, self.out = files, skipped, out
        self._layout, self._values = layout, values

    @property
    def values(self) -> np.ndarray:
        if self._values is None:
            raise StateError(f"the predictions are in {self.out}, and not in memory; without out=, they would be here")
        return self._values

    @property
    def probabilities(self) -> np.ndarray:
        """Returns the probabilities float32 [N, C]; of a softmax, or one sigmoid for each label of a multi-label task.

        Raises:
            StateError: these answers are no probabilities.
        """
        if not self._meaning.has_probabilities:
            raise StateError(f"the answers of a {self.task} are no probabilities; they are in .values")
        return self.values

    @property
    def _meaning(self) -> Meaning:
        return self._layout.meaning

    @property
    def labels(self) -> list[str]:
        return list(self._meaning.labels)

    @property
    def task(self) -> str:
        return self._meaning.task

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self._layout.rows(self._block(index)))
        position = range(len(self))[index]
        return next(self._layout.rows(self._block(slice(position, position + 1))))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._layout.rows(self._block(slice(None)))

    def _block(self, part: slice) -> Block:
        return Block(self.files[part], self.values[part], [])

    def __repr__(self) -> str:
        return "\n".join([*([table(self._cells(), left=(0, 1))] if self._values is not None else []), self._note()])

    def _repr_html_(self) -> str:
        return html_table(self._cells(), [self._note()], left=(0, 1)) if self._values is not None else self._note()

    def _cells(self) -> list[tuple[str, ...]]:
        rows = ((name, row) for name, row in zip(self.files[:SHOWN], self.values[:SHOWN], strict=True))
        return [("image", "answer"), *((name, self._answer(row)) for name, row in rows)]

    def _answer(self, values: np.ndarray) -> str:
        described = self._meaning.describe(values, self._layout.top)
        return ", ".join(answer_text(each) for each in described) or "none of the labels"

    def described(self, top: int | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yields each image's name with its ``top`` labels and their confidences, its values, or its embedding."""
        for name, values in zip(self.files, self.values, strict=True):
            yield name, self._meaning.describe(values, top)

    def _note(self) -> str:
        rest = f", {SHOWN} of them shown" if len(self) > SHOWN and self._values is not None else ""
        where = f", in {self.out}" if self.out else ""
        return f"{len(self)} images{rest}{where}{f'; {len(self.skipped)} skipped' if self.skipped else ''}"

    def to_frame(self) -> Any:
        """Returns a pandas DataFrame with the columns of the files."""
        try:
            import pandas
        except ImportError as error:
            raise StateError('a DataFrame needs pandas: pip install "petl-vision[tables]"') from error
        columns = self._layout.columns(self._block(slice(None)))
        return pandas.DataFrame(dict(zip(self._layout.names, columns, strict=True)))

    def to_csv(self, path: str | Path) -> Path:
        """Writes ``image, label, confidence`` and a column for each probability; returns the path."""
        return self._write(path, ".csv")

    def to_jsonl(self, path: str | Path) -> Path:
        """Writes each row as a line of JSON; returns the path."""
        return self._write(path, ".jsonl")

    def to_parquet(self, path: str | Path) -> Path:
        """Writes the columns of `to_csv` as Parquet, which needs pyarrow; returns the path."""
        return self._write(path, ".parquet")

    def _write(self, path: str | Path, ending: str) -> Path:
        if Path(path).suffix.lower() != ending:
            raise StateError(f"{path}: expected a name that ends with {ending}")
        refuse_output(Path(path))
        write_blocks(Path(path), [(self._layout, self._block(slice(None)))])
        return Path(path)


def answer_text(described: dict[str, Any]) -> str:
    """Returns one label with its confidence, one value with its unit, or an embedding, as text."""
    if "embedding" in described:
        numbers = described["embedding"]
        return f"[{', '.join(f'{number:.3g}' for number in numbers[:3])}, ...] ({len(numbers)} numbers)"
    if "value" in described:
        return f"{described['label']} {described['value']:.6g} {described.get('units', '')}".rstrip()
    return f"{described['label']} {described['confidence']:.1%}"

"""What a model's outputs mean, by the task that the delta was trained for: probabilities, values, or an embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl.data.logits import describe_output, logits
from petl.errors import DeltaError
from petl.format.ordinal_outputs import level_probabilities, median_levels
from petl.format.outputs import label_texts
from petl.wrapping.lookup import bare, record

THRESHOLD = 0.5  # of a label's probability, where a multi-label delta has no thresholds of its own


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(1)


def _as_they_are(scores: Tensor) -> Tensor:
    return scores


# task -> its answer for the outputs [N, K] of a model; whatever isn't here is refused
DECODINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "classification": _softmax,
    "ordinal": level_probabilities,  # over the levels, in their order
    "multilabel": torch.sigmoid,
    "regression": _as_they_are,
    "metric": _as_they_are,
}
HEADER_KEYS = (
    "task",
    "labels",
    "units",
    "thresholds",
    "quantiles",
    "temperature",
)  # of a delta, and of a wrapped model's record
WITH_PROBABILITIES = ("classification", "ordinal", "multilabel")


@dataclass(frozen=True)
class Meaning:
    """What the K numbers of an answer mean: the task, a name for each, and where they have them, units or thresholds."""

    task: str
    labels: list[str]
    units: list[str] | None = None  # of a regression's values
    thresholds: np.ndarray | None = None  # [K], of a multi-label task
    temperature: float | None = None  # that a classification's scores are divided by

    @property
    def has_probabilities(self) -> bool:
        return self.task in WITH_PROBABILITIES

    def answers(self, outputs: Tensor) -> Tensor:
        """Returns the answers float32 [N, K] for the outputs of a model."""
        plain = DECODINGS[self.task](outputs.float())
        return plain if self.temperature is None else tempered(plain, outputs, self.temperature)

    def chosen(self, values: np.ndarray, top: int | None = None) -> list[int]:
        """Returns the numbers of the labels of one answer [K], the likeliest first: ``top`` of them, else the task's own choice.

        That is one label of a classification, each label of a multi-label task that reaches its threshold, and all others.
        """
        if not self.has_probabilities:
            return list(range(len(values)))
        order = self.ranked(values[None])[0]
        if top is None and self.thresholds is not None:
            return order[(values >= self.thresholds)[order]].tolist()
        return order[: top or 1].tolist()

    def ranked(self, values: np.ndarray) -> np.ndarray:
        """Returns the numbers of the labels [N, K] for answers [N, K]: the predicted one first, the others by probability."""
        order = np.argsort(-values, axis=1, kind="stable")
        if self.task != "ordinal":
            return order
        first = median_levels(torch.from_numpy(values)).numpy()[:, None]
        return np.hstack([first, order[order != first].reshape(len(order), -1)])

    def describe(self, values: np.ndarray, top: int | None = None) -> list[dict[str, Any]]:
        """Returns one answer [K] as labels with confidences, the likeliest first, or as values (with units), or an embedding.

        >>> Meaning("classification", ["cat", "dog"]).describe(np.array([0.25, 0.75], dtype=np.float32))
        [{'label': 'dog', 'confidence': 0.75}]
        """
        if self.task == "metric":
            return [{"embedding": values.tolist()}]
        key = "confidence" if self.has_probabilities else "value"
        rows = [{"label": self.labels[k], key: float(values[k])} for k in self.chosen(values, top)]
        units = self.units or ()
        return [{**row, "units": unit} for row, unit in zip(rows, units, strict=True)] if units else rows


def known_task(task: Any) -> str | None:
    """Returns the task of a delta's header, or None where it isn't recorded.

    Raises:
        DeltaError: this petl doesn't know it.
    """
    if task is not None and task not in DECODINGS:
        raise DeltaError(
            f"the delta's task is {task!r}, and this petl knows {', '.join(DECODINGS)}; upgrade petl-vision"
        )
    return task


def description_of(model: nn.Module, *, labels: Sequence[Any] | None = None, task: str | None = None) -> dict[str, Any]:
    """Returns what is known of a model's outputs before it has run, with the keys of a delta's header.

    ``labels`` and ``task`` are the caller's, and come before those of a wrapped model. A model without a classifier
    (``num_classes=0``) gives embeddings.

    Raises:
        DeltaError: labels that can't be, or a task that petl doesn't know.
    """
    wrapped = record(model)
    own = {key: getattr(wrapped, key, None) for key in HEADER_KEYS}
    if wrapped is None and getattr(bare(model), "num_classes", None) == 0:
        own["task"] = "metric"
    given = {"labels": label_texts(labels), "task": task}
    said = {**own, **{key: value for key, value in given.items() if value is not None}}
    known_task(said["task"])
    return said


def meaning_of(description: Mapping[str, Any], outputs: int) -> Meaning:
    """Returns what ``outputs`` numbers mean by a delta's header, or by `description_of`.

    Without a recorded task, several outputs are taken for classes, and one is a value: a softmax over one number would be sure
    of it whatever it is.

    Raises:
        DeltaError: an unknown task; or labels, units or thresholds that aren't as many as the outputs.
    """
    task = known_task(description.get("task")) or ("regression" if outputs == 1 else "classification")
    units, labels = description.get("units"), description.get("labels")
    quantiles = description.get("quantiles") or [] if task == "regression" else []
    units = _one_each(units, outputs, len(quantiles))
    thresholds = description.get("thresholds")
    lists: dict[str, Any] = {"labels": None if task == "metric" else labels}
    lists |= {"units": units} if task == "regression" else {"thresholds": thresholds} if task == "multilabel" else {}
    for name, given in lists.items():
        if given is not None and len(given) != outputs:
            raise DeltaError(
                f"{len(given)} {name} for a model of {outputs} outputs; expected one for each, in {name}= of petl.save"
                + (" or petl.predict" * (name == "labels"))
            )
    return Meaning(
        task,
        list(lists["labels"] or _numbers(outputs, quantiles)),
        units=None if lists.get("units") is None else [str(unit or "") for unit in units or ()],
        thresholds=_thresholds(thresholds, outputs) if task == "multilabel" else None,
        temperature=description.get("temperature") if task == "classification" else None,
    )


def tempered(plain: Tensor, outputs: Tensor, temperature: float) -> Tensor:
    """Returns ``softmax(outputs / temperature)`` float32 [N, K], whose first largest number is where that of ``plain`` is.

    Rounding may make two numbers equal, and no temperature may change a label.

    >>> scores = torch.tensor([[2.0, 0.0]])
    >>> tempered(scores.softmax(1), scores, 2.0).round(decimals=2).tolist()
    [[0.7300000190734863, 0.27000001072883606]]
    """
    found = (outputs.double() / temperature).softmax(1).float()
    label, largest = plain.argmax(1, keepdim=True), found.max(1, keepdim=True).values
    moved = found.argmax(1, keepdim=True) != label
    up = torch.nextafter(largest, torch.full_like(largest, 2.0))
    return torch.where(moved, found.scatter(1, label, up), found)


def _one_each(units: Any, outputs: int, quantiles: int) -> Any:
    """Returns the units as a list with one for each output: one text is for all, and one for each target for its quantiles."""
    if isinstance(units, str):
        return [units] * outputs
    if units is not None and quantiles and len(units) * quantiles == outputs:
        return [unit for unit in units for _ in range(quantiles)]
    return units


def _numbers(outputs: int, quantiles: Sequence[float]) -> list[str]:
    """Returns names for outputs without labels: their numbers, or the quantiles of each target.

    >>> _numbers(2, []), _numbers(2, [0.1, 0.9]), _numbers(4, [0.1, 0.9])
    (['0', '1'], ['q0.1', 'q0.9'], ['0 q0.1', '0 q0.9', '1 q0.1', '1 q0.9'])
    """
    if not quantiles or outputs % len(quantiles):
        return [str(number) for number in range(outputs)]
    targets = [""] if outputs == len(quantiles) else [f"{number} " for number in range(outputs // len(quantiles))]
    return [f"{target}q{quantile:g}" for target in targets for quantile in quantiles]


def _thresholds(given: Any, outputs: int) -> np.ndarray:
    """Returns a threshold for each label; in float64, as text and header have them, and compared with float32 probabilities."""
    return np.full(outputs, THRESHOLD) if given is None else np.asarray(given, dtype=np.float64)


def scores_of(output: Any, images: int) -> Tensor:
    """Returns the outputs [images, K] in what a model returned, as `petl.evaluate` finds them.

    Raises:
        DeltaError: they have another shape.
    """
    scores = logits(output)
    if scores is None or scores.ndim != 2 or len(scores) != images or not scores.shape[1]:
        what = describe_output(output if scores is None else scores)
        raise DeltaError(f"the model answers {images} images with {what}; a prediction takes [{images}, classes]")
    return scores

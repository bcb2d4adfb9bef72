"""Metrics of retrieval: is the image that lies nearest to another one of the same class?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from petl.errors import DataError
from petl.evidence.intervals import accuracy_error, standard_error
from petl.objectives.measured import TaskMetrics, edge_errors, known

RETRIEVAL_NAMES = ("loss", "recall_at_1", "recall_at_5", "mean_average_precision")
AT_A_TIME = 1024  # queries whose similarities to all images are in memory


@dataclass(frozen=True, repr=False)
class RetrievalMetrics(TaskMetrics):
    """How well features find images of the same class, each image being a query among all others; prints as a line.

    recall_at_1 and recall_at_5 are the shares of queries with an image of their class among the 1 or 5 most similar ones (by
    cosine), mean_average_precision the mean over queries of the average precision of the whole ranking, loss 1 -
    mean_average_precision. ``queries`` is how many images have another one of their class; the others are no queries.
    ``baseline`` is what a random order reaches.
    """

    metric_names: ClassVar[tuple[str, ...]] = RETRIEVAL_NAMES
    loss: float
    recall_at_1: float
    recall_at_5: float
    mean_average_precision: float
    queries: int = field(default=0, kw_only=True)


def retrieval_metrics(features: Tensor, targets: Tensor) -> RetrievalMetrics:
    """Returns the metrics for features [N, D] and class numbers [N].

    Raises:
        DataError: no two images are of one class.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    same = torch.bincount(targets)[targets] - 1
    if not bool((same > 0).any()):
        raise DataError("no two images to measure are of one class, so nothing can be retrieved; add images")
    found = torch.cat([_ranked(unit, targets, start) for start in range(0, len(unit), AT_A_TIME)])[same > 0]
    first, five, precision = found.T
    count, others = len(found), len(targets) - 1
    of_means = edge_errors(dict.fromkeys(("loss", "mean_average_precision"), standard_error(precision)), count)
    recalls = {"recall_at_1": float(first.mean()), "recall_at_5": float(five.mean())}
    of_recalls = {name: accuracy_error(value, count) for name, value in recalls.items()}
    share = same[same > 0].double()
    return RetrievalMetrics(
        1 - float(precision.mean()),
        recalls["recall_at_1"],
        recalls["recall_at_5"],
        float(precision.mean()),
        queries=count,
        images=len(targets),
        standard_errors=known(of_means | of_recalls),
        baseline={"recall_at_1": float((share / others).mean()), "recall_at_5": _by_chance(share, others)},
        baseline_rule="a random order",
    ).with_per_image("recall_at_1", first, targets)


def _ranked(unit: Tensor, targets: Tensor, start: int) -> Tensor:
    """Returns, for some queries [Q, 3], whether their class is among the first 1 and 5, and the average precision."""
    rows = torch.arange(start, min(start + AT_A_TIME, len(unit)))
    similar = unit[rows] @ unit.T
    similar[torch.arange(len(rows)), rows] = -math.inf  # the query itself comes last
    order = similar.argsort(dim=1, descending=True, stable=True)[:, :-1]
    hits = (targets[order] == targets[rows][:, None]).double()
    places = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)
    precision = (hits * hits.cumsum(1) / places).sum(1) / hits.sum(1).clamp(min=1)
    return torch.stack([hits[:, 0], hits[:, :5].amax(1), precision], dim=1)


def _by_chance(same: Tensor, others: int) -> float:
    """Returns the mean probability that one of five drawn images is one of the ``same`` among ``others``."""
    missed = torch.ones_like(same)
    for drawn in range(min(5, others)):
        missed = missed * ((others - same - drawn) / (others - drawn)).clamp(min=0)
    return float((1 - missed).mean())

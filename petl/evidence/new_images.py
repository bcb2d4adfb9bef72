"""What the heads of `read_classes` say of images that they were not fitted on."""

from __future__ import annotations

import torch
from torch import Tensor

from petl.evidence.leave_one_out import NEIGHBOURS, TEMPERATURE, ridge


def predict_new(by: str, x: Tensor, y: Tensor, classes: int, new: Tensor) -> Tensor:
    """Returns the classes, int64 [M], of ``new`` images [M, D] by the head "ridge" or "knn", fitted on ``x`` and ``y``.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), torch.tensor([0, 0, 1, 1])
    >>> [predict_new(by, x, y, 2, torch.tensor([[0.2, 0.7], [0.8, 0.1]])).tolist() for by in ("ridge", "knn")]
    [[1, 0], [1, 0]]
    """
    if by == "ridge":
        head = ridge(x, y, classes)
        return (new.double() @ head.weight.T + head.bias).argmax(1)
    unit, unit_new = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (x, new))
    counts, votes = torch.bincount(y, minlength=classes), torch.zeros(len(new), classes, dtype=torch.float64)
    values, places = (unit_new @ unit.T).topk(min(NEIGHBOURS, int(counts[counts > 0].min())), dim=1)
    votes.scatter_add_(1, y.long()[places], torch.softmax(values / TEMPERATURE, dim=1))
    return votes.argmax(1)

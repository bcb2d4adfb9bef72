"""Models that return several scores in training (Inception, GoogLeNet, distilled DeiT): which of them the loss is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from petl.data.logits import describe_output, require_logits
from petl.errors import DataError, PetlError


def aux_weight(aux: Any) -> float:
    """Returns the weight of auxiliary scores: 0 for "first", 1 for "all", or the number that was passed.

    Raises:
        PetlError: it is none of these.
    """
    words = {"first": 0.0, "all": 1.0}
    weight = words.get(aux) if isinstance(aux, str) else aux
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise PetlError(f"aux={aux!r}; expected 'first', 'all', or the weight of the auxiliary outputs, such as 0.4")
    return float(weight)


def loss_of_outputs(output: Any, aux: Any, criterion: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the criterion of the main scores [N, K] plus, weighted by ``aux``, those of the auxiliary scores.

    Raises:
        DataError: the auxiliary scores are asked for, and the model returns none.
    """
    main, weight = require_logits(output), aux_weight(aux)
    loss = criterion(main.float())
    if weight == 0:
        return loss
    others = _other_scores(output, main)
    if not others:
        raise DataError(
            f"aux={aux!r}, and the model returns {describe_output(output)} in training, without auxiliary scores; leave aux= "
            "out, or turn them on (aux_logits of Inception, set_distilled_training of DeiT)"
        )
    for scores in others:
        loss = loss + weight * criterion(scores.float())
    return loss


def _other_scores(output: Any, main: Tensor) -> list[Tensor]:
    """Returns the scores after the main ones, of the same shape, in a tuple, a dict or an object with fields."""
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return [p for p in parts if isinstance(p, Tensor) and p is not main and p.shape == main.shape]

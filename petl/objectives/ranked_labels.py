"""Areas under the precision-recall and the ROC curve, for K labels at once, with weights for each image (float64)."""

from __future__ import annotations

import torch
from torch import Tensor


class RankedLabels:
    """Scores [N, K] in falling order for each label, so that curves for other weights of the images cost no more sorting.

    ``truth`` [N, K] is 1 or 0, NaN where it isn't known: such an image counts nowhere for that label. Equal scores are one
    point of the curve, as scikit-learn has it.
    """

    def __init__(self, scores: Tensor, truth: Tensor) -> None:
        ordered, self.order = scores.double().sort(dim=0, descending=True, stable=True)
        sorted_truth = truth.double().gather(0, self.order)
        self.known = (~sorted_truth.isnan()).double()
        self.truth = sorted_truth.nan_to_num(0)
        place = torch.arange(len(scores))[:, None].expand_as(ordered)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.start = torch.where(new, place, 0).cummax(0).values
        last = torch.ones_like(new)
        last[:-1] = new[1:]
        self.end = torch.where(last, place, len(scores)).flip(0).cummin(0).values.flip(0)

    def curves(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (average precision [K], area under the ROC curve [K]); nan where a label is never, or always, positive.

        ``weights`` is how often each image counts, float64 [N].
        """
        counted = weights[self.order] * self.known
        hits = counted * self.truth
        true, all_ = hits.cumsum(0), counted.cumsum(0)
        at_end = true.gather(0, self.end)
        precision = at_end / all_.gather(0, self.end).clamp(min=1e-300)
        positive, negative = true[-1], all_[-1] - true[-1]
        before = true.gather(0, self.start) - hits.gather(0, self.start)
        area = ((counted - hits) * (before + at_end) / 2).sum(0) / (positive * negative)
        average = (hits * precision).sum(0) / positive
        return average, torch.where(area.isfinite(), area, torch.nan)


def best_thresholds(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Returns for each label the threshold on its probability with the highest F1, float64 [K]; 0.5 without a known positive.

    The threshold is half-way between the lowest probability that is still called positive and the next one below.
    """
    ranked = RankedLabels(probabilities, truth)
    ordered = probabilities.double().gather(0, ranked.order)
    true, called = (ranked.truth * ranked.known).cumsum(0), ranked.known.cumsum(0)
    f1 = 2 * true / (called + true[-1]).clamp(min=1)
    ends = ranked.end == torch.arange(len(ordered))[:, None]
    best = torch.where(ends, f1, -1.0).argmax(0)
    below = torch.cat([ordered[1:], torch.zeros_like(ordered[:1])])
    chosen = (ordered.gather(0, best[None]) + below.gather(0, best[None]))[0] / 2
    return torch.where(true[-1] > 0, chosen, 0.5)

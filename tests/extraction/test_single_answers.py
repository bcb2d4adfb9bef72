"""Models that answer with a map or with tokens are refused before anything is measured, and stay as they were."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import petl
from petl.extraction.single_answers import refuse_maps


class Scored(nn.Module):
    """A classifier of each place, with or without a mean over the places."""

    def __init__(self, pooled: bool):
        super().__init__()
        self.body, self.fc, self.pooled = nn.Conv2d(3, 4, 3, stride=8), nn.Conv2d(4, 2, 1), pooled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.fc(self.body(images))
        return scores.mean((2, 3)) if self.pooled else scores


def test_maps_are_refused_and_rows_of_scores_are_not() -> None:
    refuse_maps("rank", Scored(pooled=True), "fc")
    refuse_maps("rank", Scored(pooled=False), False)  # its output is the features, which the pass itself looks at
    model = Scored(pooled=False).train()
    before = torch.get_rng_state()
    with pytest.raises(petl.SiteError, match=r"rank can't use this Scored.*\[1, classes\].*give it a pooling"):
        refuse_maps("rank", model, "fc")
    assert model.training and torch.equal(before, torch.get_rng_state())


def test_a_model_of_timm_without_pooling_is_named_as_such_where_it_cannot_run() -> None:
    model = timm.create_model("test_resnet", global_pool="")
    with pytest.raises(
        petl.SiteError, match=r"reduction dim.*[^.]; it has no pooling \(global_pool=''\); build it again"
    ):
        petl.features(model, torch.randn(4, 3, 64, 64), blocks=True)

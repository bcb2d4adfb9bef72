"""The recorders of a survey: what they answer themselves is what torch answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from petl.sites import dataflow

IMAGES = torch.empty(2, 6, 5, 5, device="meta")


@pytest.mark.parametrize(
    ("layer", "images"),
    [
        (nn.BatchNorm2d(6), IMAGES),
        (nn.BatchNorm2d(6, affine=False), IMAGES.to(memory_format=torch.channels_last)),
        (nn.BatchNorm2d(6, track_running_stats=False), IMAGES),
        (nn.BatchNorm2d(7), IMAGES),
        (nn.LayerNorm(5), IMAGES),
        (nn.LayerNorm((6, 5, 5)), IMAGES.transpose(2, 3)),
        (nn.LayerNorm(5, elementwise_affine=False), IMAGES.half()),
        (nn.LayerNorm((7, 5, 5)), IMAGES),
        (nn.LayerNorm(6), IMAGES),
    ],
    ids=str,
)
def test_norms_return_the_shapes_that_torch_works_out(
    layer: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> Any:
        reads = dataflow.ParameterReads(layer.named_parameters())
        try:
            with torch.no_grad(), torch.device("meta"), reads:
                out = layer(images)
        except RuntimeError as error:
            return str(error)
        return out.shape, out.stride(), out.dtype, reads.read

    layer.to("meta").eval()
    quick = seen()
    monkeypatch.setattr(dataflow, "_normed", lambda *_: None)
    assert quick == seen()

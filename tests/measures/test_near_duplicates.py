"""Pictures that were saved again are found; pictures that are only alike are not."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from petl.measures.near_duplicates import groups_of, near_duplicates

SAME_DIRECTION = torch.ones(40, 4)  # features of a model that can't tell any two images apart


def smooth_pictures(count: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    few = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(few, size=(64, 64), mode="bicubic").clamp(0, 1)


def saved_again(picture: torch.Tensor, quality: int, side: int = 64) -> torch.Tensor:
    pixels = (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG", quality=quality)
    again = np.asarray(Image.open(file).resize((64, 64))).astype(np.float32) / 255
    return torch.from_numpy(again).permute(2, 0, 1)


def small(pictures: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool2d(pictures, 32)


def test_jpegs_and_other_sizes_of_a_picture_are_found() -> None:
    pictures = smooth_pictures(20)
    copies = torch.stack([saved_again(pictures[3], 60), saved_again(pictures[7], 90, side=40)])
    whole = small(torch.cat([pictures, copies]))
    noise = torch.randn(22, 8, generator=torch.Generator().manual_seed(1))
    assert [(pair.first, pair.second) for pair in near_duplicates(noise, whole)] == [(3, 20), (7, 21)]
    across = near_duplicates(noise[:20], whole[:20], (noise[20:], whole[20:]))
    assert [(pair.first, pair.second) for pair in across] == [(3, 0), (7, 1)]


def test_distinct_gray_pictures_are_no_duplicates_whatever_the_features_say() -> None:
    gray = smooth_pictures(40, 1).expand(-1, 3, -1, -1)
    assert near_duplicates(SAME_DIRECTION, small(gray)) == []
    faint = 0.5 + 0.02 * (gray - 0.5)  # hardly any contrast
    assert near_duplicates(SAME_DIRECTION, small(faint)) == []
    noise = torch.rand(40, 3, 32, 32)
    noise[20:] += 3  # as bright and dark ones
    assert near_duplicates(SAME_DIRECTION, noise) == []


def test_flat_pictures_are_equal_only_where_their_levels_are() -> None:
    levels = torch.tensor([0.1, 0.5, 0.5, 0.9]).view(4, 1, 1, 1).expand(4, 3, 32, 32)
    assert [(pair.first, pair.second) for pair in near_duplicates(SAME_DIRECTION[:4], levels)] == [(1, 2)]
    assert len(near_duplicates(SAME_DIRECTION[:2], levels[1:3])) == 1  # all pictures are one


def test_groups_connect_pairs() -> None:
    assert groups_of([(5, 1), (2, 3), (3, 5)]) == [[1, 2, 3, 5]]
    assert groups_of([]) == []

"""Which axis of a feature map holds the channels."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def channel_axis(shape: tuple[int, ...], module: nn.Module, ratio: float) -> int:
    """Returns the axis of the channels in what ``module`` returns: 1 or 3 for maps, -1 for tokens and vectors.

    ``ratio`` is width over height of the model's input. A map keeps the ratio, up to rounding at each stride, so mostly one of
    the two axes is possible; where both or none are, the layers inside the module vote with their numbers of features.
    """
    if len(shape) != 4:
        return -1
    first, last = _keeps(shape[2], shape[3], ratio), _keeps(shape[1], shape[2], ratio)
    if first != last:
        return 3 if last else 1
    votes = [(width == shape[3]) - (width == shape[1]) for width in _widths(module)]
    return 3 if sum(votes) > 0 else 1


def _keeps(height: int, width: int, ratio: float) -> bool:
    """Returns whether height and width can come from an image of this ratio; rounding moves each by less than one."""
    return (height - 1) * ratio < width < (height + 1) * ratio if ratio != 1.0 else height == width


def _widths(module: nn.Module) -> Iterator[int]:
    """Numbers of output features of the layers inside, each a hint at the number of channels."""
    for layer in module.modules():
        for name in ("out_channels", "out_features", "num_features"):
            if isinstance(width := getattr(layer, name, None), int):
                yield width
        if isinstance(layer, nn.LayerNorm):
            yield layer.normalized_shape[-1]

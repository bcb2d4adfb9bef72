"""Models to try petl on: shapes only, or small enough to run and with every layer alive."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.support.lively import calibrate, enliven

SIZES = (64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 320, 384)  # sides of images, in the order of trial
Arguments = tuple[tuple[str, Any], ...]


@functools.lru_cache(maxsize=1)
def on_meta(architecture: str, arguments: Arguments = ()) -> nn.Module:
    """The architecture without memory, in evaluation mode."""
    with torch.device("meta"):
        return timm.create_model(architecture, **dict(arguments)).eval()


def default_size(model: nn.Module) -> tuple[int, int]:
    """Height and width that timm's own config names."""
    cfg: Any = model.pretrained_cfg
    height, width = cfg["input_size"][-2:]
    return height, width


@functools.lru_cache(maxsize=8)
def sizes(architecture: str, arguments: Arguments = ()) -> list[tuple[int, Arguments]]:
    """Sides that the architecture takes, with what ``create_model`` must be told for them: the smallest, and the default."""
    usual = max(default_size(on_meta(architecture, arguments)))
    least = _least(on_meta(architecture, arguments))
    for side in sorted({s for s in (*SIZES, usual // 4, usual // 2) if least <= s < usual}):
        for extra in ((("img_size", side),), ()):
            if not {name for name, _ in extra} & {name for name, _ in arguments} and _takes(
                architecture, (*arguments, *extra), side
            ):
                return [(side, (*arguments, *extra)), (usual, arguments)]
    return [(usual, arguments)]


def _least(model: nn.Module) -> int:
    """Twice the largest reduction: on a last map of one pixel attention has one token, and its queries no gradient."""
    info = getattr(model, "feature_info", None) or []
    steps = [entry["reduction"] for entry in info if isinstance(entry, dict) and "reduction" in entry]
    return max(64, 2 * max(steps, default=32))


def _takes(architecture: str, arguments: Arguments, side: int) -> bool:
    """Whether the architecture can be built so, and runs on images of that side."""
    try:
        with torch.device("meta"), torch.no_grad():
            timm.create_model(architecture, **dict(arguments)).eval()(torch.empty(2, 3, side, side))
    except Exception:  # a model may raise anything at all at a size that it can't take
        return False
    return True


@functools.lru_cache(maxsize=1)
def lively(
    architecture: str, arguments: Arguments, side: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """The architecture with random weights, all of its layers alive, and BatchNorm statistics of random images."""
    torch.manual_seed(seed)
    model = timm.create_model(architecture, **dict(arguments)).to(dtype)
    enliven(model, torch.Generator().manual_seed(seed))
    with warnings.catch_warnings(), torch.no_grad():
        calibrate(model, images(side, 3, batch=8 if side < 160 else 4).to(dtype))
    return model.eval()


def images(side: int, channels: int, *, batch: int = 3) -> Tensor:
    """[batch, channels, side, side] random numbers, always the same."""
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(1))


def create_args(arguments: Any) -> dict[str, Any]:
    """What `petl.wrap` must be told of a model that was built with these arguments."""
    return {"create_args": dict(arguments)} if arguments else {}

"""One vector for each image: feature maps and tokens averaged over their positions, images shrunk to a few pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.data.first_image import UNPOOLED, is_unpooled
from petl.errors import SiteError
from petl.sites.blocks import block_names
from petl.sites.channel_axis import channel_axis
from petl.sites.meta import live_outputs
from petl.sites.survey import Survey, survey_model


def pooled(tensor: Tensor, module: nn.Module, ratio: float) -> Tensor:
    """Returns [N, channels] in float32: the mean over all positions of a map [N, C, H, W] or [N, H, W, C], or tokens [N, T, C].

    ``ratio`` is width over height of the model's input; it and ``module``, which returned the tensor, tell where channels are.
    """
    axis = channel_axis(tuple(tensor.shape), module, ratio) % tensor.ndim
    positions = [dim for dim in range(1, tensor.ndim) if dim != axis]
    return tensor.float().mean(positions) if positions else tensor.float()


def small_pictures(images: Tensor, pipeline: Mapping[str, Any] | None, side: int) -> Tensor:
    """Returns the images [N, C, H, W] as float32 [N, C, side, side], each pixel the mean of an area, before normalisation.

    ``pipeline`` holds the mean and deviation that the images were normalised with; None leaves the values as they are.
    """
    values = images.detach().float()
    if pipeline is not None and len(pipeline["mean"]) == values.shape[1]:
        mean, std = (torch.tensor(pipeline[key], device=values.device)[:, None, None] for key in ("mean", "std"))
        values = values * std + mean
    return F.adaptive_avg_pool2d(values, side)


def pooled_block_modules(model: nn.Module) -> dict[str, list[bool]]:
    """Returns the model's blocks in depth order, and for each which of the tensors that it returns are used.

    Raises:
        SiteError: the model can't be looked at, has no blocks, or blocks whose outputs have no row for each image.
    """
    survey = survey_model(model)
    if survey.failed:
        cause = f"{survey.failed.rstrip('.')}; {UNPOOLED}" if is_unpooled(model) else survey.failed
        raise SiteError(f"can't look at this {type(model).__name__}, which does not run on shapes: {cause}")
    names = block_names(survey)
    if not names:
        raise SiteError(f"{type(model).__name__} has no blocks that petl can see; leave out blocks=True")
    live = _live(model, names, survey)
    used = {name: _with_rows(survey.calls[name].outputs, live[name]) for name in names}
    for name in names:
        if not any(used[name]):
            raise SiteError(
                f"block {name} returns tensors of shapes {survey.calls[name].outputs} for 2 images, none with a row for "
                "each image, so it can't be pooled; leave out blocks=True"
            )
    return used


def _with_rows(shapes: Sequence[tuple[int, ...]], live: Sequence[bool]) -> list[bool]:
    """Returns which of a block's tensors are used and have a row for each image: two, in the survey; tnt returns others too."""
    return [is_live and len(shape) > 1 and shape[0] == 2 for shape, is_live in zip(shapes, live, strict=False)]


def _live(model: nn.Module, names: Sequence[str], survey: Survey) -> dict[str, list[bool]]:
    """Returns which outputs of the blocks matter; all where a backward on shapes can't tell."""
    found: dict[str, list[bool]] = {}
    with contextlib.suppress(Exception):  # any model's own code may run here
        found = live_outputs(model, names, survey.image)
    every = {name: [True] * len(survey.calls[name].outputs) for name in names}
    return {name: found[name] if any(found.get(name, [])) else every[name] for name in names}


@contextlib.contextmanager
def captured_blocks(model: nn.Module, used: Mapping[str, Sequence[bool]], ratio: float) -> Iterator[dict[str, Tensor]]:
    """Inside, collects the pooled outputs [N, d] of the blocks; several tensors of a block lie side by side.

    ``ratio`` is width over height of the images that run.
    """
    outputs: dict[str, Tensor] = {}

    def keeping(name: str, live: Sequence[bool]) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            kept = [tensor for tensor, is_used in zip(tensors, live, strict=False) if is_used]
            outputs[name] = torch.cat([pooled(tensor.detach(), module, ratio) for tensor in kept], 1)

        return keep

    with contextlib.ExitStack() as stack:
        for name, live in used.items():
            hook = model.get_submodule(name).register_forward_hook(keeping(name, live))
            stack.callback(hook.remove)
        yield outputs

"""Where the model looks, for a few images: gradient times activation on a late map or token grid, before and after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.data.logits import logits
from petl.errors import PetlError
from petl.measures.class_activation import layer_cam, token_grid, unit_range
from petl.report.model_passes import ReportModel
from petl.sites.blocks import block_names
from petl.sites.channel_axis import channel_axis
from petl.sites.survey import survey_model

FINE = 6  # positions a side, from which on a map is fine enough to draw
PixelScore = Callable[
    [Tensor | None, Tensor | None], Tensor
]  # of the classifier's input [N, D] and the output [N, K]: [N]


class NoMap(Exception):
    """No map could be drawn; the text says why."""


def looks(model: ReportModel, pictures: Tensor, score: PixelScore) -> tuple[str, list[list[list[float]]]]:
    """Returns the block, and for each image a map of numbers from 0 to 1: which positions of the block's output raise the score.

    The block is the last one whose map has six positions a side or more and through which the score depends on them (in a
    transformer that reads one token, the last block's other tokens do nothing); where none is so fine, the finest.

    Raises:
        NoMap: the model has no blocks with maps, or no gradient reaches them.
    """
    found: tuple[str, Tensor] | None = None
    for name, cam in _cams(model, pictures, score):
        side = min(cam.shape[1:])
        if side >= FINE:
            found = (name, cam)
            break
        if side > 1 and (found is None or side > min(found[1].shape[1:])):
            found = (name, cam)
    if found is None:
        raise NoMap("no block's output is a map or a grid of tokens through which the answer depends on places")
    grids = unit_range(found[1]).tolist()
    return found[0], [[[round(value, 3) for value in row] for row in grid] for grid in grids]


def _cams(model: ReportModel, pictures: Tensor, score: PixelScore) -> Iterator[tuple[str, Tensor]]:
    """Yields the blocks with maps, the last first, and their maps [N, h, w]."""
    try:
        survey = survey_model(model.model)
        names = [] if survey.failed else block_names(survey)
    except PetlError as error:
        raise NoMap(str(error)) from error
    ratio = pictures.shape[3] / pictures.shape[2]
    with torch.enable_grad(), _kept(model, names) as (outputs, inputs):
        leaf = pictures.to(model.device).detach().clone()
        leaf.requires_grad_(True)  # a frozen model has a gradient to its blocks through the image
        output = logits(model.model(leaf * 1))  # a copy: some models write into their input
        vector = next((tensor for tensor in inputs if tensor.ndim == 2), None)
        total = score(vector, output if isinstance(output, Tensor) and output.ndim == 2 else None).sum()
        kept = [(name, outputs[name]) for name in names if name in outputs and outputs[name].requires_grad]
        tensors = [tensor for _, tensor in kept]
        gradients = torch.autograd.grad(total, tensors, allow_unused=True) if tensors and total.requires_grad else []
    for (name, tensor), gradient in reversed([*zip(kept, gradients, strict=False)]):
        if gradient is None:
            continue
        module = model.model.get_submodule(name)
        maps = [_as_map(part.detach().float().cpu(), module, model.model, ratio) for part in (tensor, gradient)]
        if maps[0] is not None and maps[1] is not None and bool(maps[1].abs().sum() > 0):
            cam = layer_cam(maps[0], maps[1])
            if bool((cam.flatten(1).amax(1) > 0).any()):
                yield name, cam


@contextlib.contextmanager
def _kept(model: ReportModel, names: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], list[Tensor]]]:
    """Inside, keeps the blocks' first outputs and what the classifier's modules take, with their graph."""
    outputs: dict[str, Tensor] = {}
    inputs: list[Tensor] = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
            if tensor is not None:
                outputs[name] = tensor

        return hook

    def note(module: nn.Module, args: Any) -> None:
        inputs.extend(leaf.flatten(1) for leaf in tree_leaves(args) if isinstance(leaf, Tensor))

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.callback(model.model.get_submodule(name).register_forward_hook(keep(name)).remove)
        for name in model.head:
            stack.callback(model.model.get_submodule(name).register_forward_pre_hook(note).remove)
        yield outputs, inputs


def _as_map(tensor: Tensor, module: nn.Module, model: nn.Module, ratio: float) -> Tensor | None:
    """Returns maps [N, C, h, w] for [N, C, h, w], [N, h, w, C], or tokens [N, T, C]; None for anything else."""
    if tensor.ndim == 4:
        axis = channel_axis(tuple(tensor.shape), module, ratio) % 4
        return tensor.movedim(axis, 1)
    if tensor.ndim != 3:
        return None
    axis = channel_axis(tuple(tensor.shape), module, ratio) % 3
    tokens = tensor if axis == 2 else tensor.transpose(1, 2)
    known = getattr(model, "num_prefix_tokens", None)
    grid = token_grid(tokens.shape[1], ratio, known if isinstance(known, int) else None) or token_grid(
        tokens.shape[1], ratio
    )
    if grid is None:
        return None
    prefix, height, width = grid
    return tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, height, width)

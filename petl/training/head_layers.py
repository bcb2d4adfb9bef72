"""The linear layers of a classifier whose mean is the model's class scores, and what they receive.

Most models have one such layer. Distilled transformers have two, CrossViT one per branch, each on features of its own. Whether
the scores really are that mean, without a scale, a norm or a nonlinearity behind the layers, is tried on an image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.logits import logits
from petl.graft.kinds import grafts
from petl.methods.block_features import BlockReader
from petl.wrapping.eval_mode import in_eval


@dataclass(frozen=True)
class ClassLayers:
    """Linear layers (nn.Linear, or 1x1 convolutions) that return class scores [N, C], of which the model returns the mean."""

    layers: tuple[nn.Module, ...]

    @contextlib.contextmanager
    def inputs(self) -> Iterator[list[list[Tensor]]]:
        """Inside, collects what each layer receives, averaged over positions: [layer][call], each [N, D]."""
        received: list[list[Tensor]] = [[] for _ in self.layers]
        handles = []
        for layer, calls in zip(self.layers, received, strict=True):

            def capture(module: nn.Module, args: tuple[Any, ...], calls: list[Tensor] = calls) -> None:
                calls.append(_features(module, args[0].detach()) if args else torch.empty(0))

            handles.append(layer.register_forward_pre_hook(capture))
        try:
            yield received
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def write(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        """Writes a weight [C, D] and a bias [C] into each layer; the columns for the blocks go to the layer's reader."""
        for layer, weight, bias in zip(self.layers, weights, biases, strict=True):
            own, reader = layer._parameters, reader_of(layer)
            beyond = sum(reader.widths) if reader else 0
            own["weight"].copy_(weight[:, : weight.shape[1] - beyond].reshape(own["weight"].shape))  # type: ignore[union-attr]
            own["bias"].copy_(bias)  # type: ignore[union-attr]  # both are there: see `class_layers`
            if reader:
                reader.weight.copy_(weight[:, -beyond:])

    def widths(self, number: int, size: int) -> list[int]:
        """Returns how the features of a layer, ``size`` in all, divide into its own input and the outputs of blocks."""
        reader = reader_of(self.layers[number])
        return [size - sum(reader.widths), *reader.widths] if reader else [size]

    @contextlib.contextmanager
    def at_random(self) -> Iterator[None]:
        """Inside, the layers have random values: those of a new classifier may be zeros, which would hide what comes after."""
        before = [(p, p.detach().clone()) for layer in self.layers for p in layer.parameters()]
        generator = torch.Generator().manual_seed(0)
        try:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(torch.randn(value.shape, generator=generator))
            yield
        finally:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)


def class_layers(accelerator: Any, model: nn.Module, images: Tensor, classes: int) -> ClassLayers | str:
    """Returns the layers whose mean is the model's class scores, or the reason why there are none."""
    outputs = [(name, m) for name, m in model.named_modules() if _outputs(m) == classes and _trains(m)]
    if not outputs:
        return f"the model has no linear layer with {classes} outputs that trains"
    odd = next((name for name, module in outputs if not _is_plain(module)), None)
    if odd is not None:
        return f"{odd} is no plain linear layer with a weight and a bias"
    found = ClassLayers(tuple(module for _, module in outputs))
    names = " and ".join(name for name, _ in outputs)
    if not _give_the_scores(accelerator, model, found, images):
        return f"the class scores are not what {names} returns: something is computed behind, or it is called otherwise"
    return found


def moving_statistics(model: nn.Module, layers: ClassLayers) -> str:
    """Returns the name of a norm beside the layers, inside a classifier, whose running statistics a training moves, or ""."""
    heads = {name.rpartition(".")[0] for name, module in model.named_modules() if module in layers.layers} - {""}
    norms = (name for name, m in model.named_modules() if m.training and m._buffers.get("running_mean") is not None)
    return next((name for name in norms if name.rpartition(".")[0] in heads), "")


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) else None


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _is_plain(module: nn.Module) -> bool:
    own = [module._parameters.get(name) for name in ("weight", "bias")]
    if any(p is None or not p.requires_grad for p in own) or getattr(module, "groups", 1) != 1:
        return False
    return all(isinstance(graft, BlockReader) for _, graft in grafts(module))


@torch.no_grad()
def _give_the_scores(accelerator: Any, model: nn.Module, found: ClassLayers, images: Tensor) -> bool:
    """Returns whether, with random values in the layers, the model's scores are the mean of the layers' own."""
    images = torch.cat([images, images.flip(-1)])
    with in_eval(model), found.at_random(), found.inputs() as received, accelerator.autocast():
        scores = logits(model(images))
        if scores is None or any(len(calls) != 1 or len(calls[0]) != len(images) for calls in received):
            return False
        own = [_linear(layer, calls[0]) for layer, calls in zip(found.layers, received, strict=True)]
    mean = torch.stack(own).mean(0)
    exact = scores.dtype == torch.float32 and accelerator.mixed_precision == "no"
    limit = (1e-4 if exact else 3e-2) * float(mean.abs().max())
    return scores.shape == mean.shape and float((scores.double() - mean).abs().max()) <= limit


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Returns what the layer computes from features [N, D], in float64."""
    weight, bias = (layer._parameters[name].double() for name in ("weight", "bias"))  # type: ignore[union-attr]  # plain
    reader, weight = reader_of(layer), weight.flatten(1)
    weight = torch.cat([weight, reader.weight.double()], 1) if reader else weight
    return x.double() @ weight.T + bias


def reader_of(layer: nn.Module) -> BlockReader | None:
    """Returns what lets the layer read the outputs of all blocks (``petl.Probe(layers="all")``), or None."""
    return next((graft for _, graft in grafts(layer) if isinstance(graft, BlockReader)), None)


def _features(layer: nn.Module, x: Tensor) -> Tensor:
    """Returns all that the layer's scores are linear in [N, D]: what it receives, and the outputs of blocks that it reads."""
    own, reader = _per_image(layer, x), reader_of(layer)
    return torch.cat([own, reader.features().detach().to(own.dtype)], 1) if reader else own


def _per_image(layer: nn.Module, x: Tensor) -> Tensor:
    """Returns the features of each image [N, D]: the mean over the positions of a map or of tokens, if there are several."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if isinstance(layer, nn.Conv2d):
        return x.flatten(2).mean(2) if x.ndim == 4 else torch.empty(0)
    return x.flatten(1, -2).mean(1) if x.ndim > 2 else x

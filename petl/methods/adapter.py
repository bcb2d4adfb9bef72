"""Adapters: a residual bottleneck on what a module returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from petl.errors import MethodError, SiteError
from petl.graft.graft import grow
from petl.graft.kinds import OutputGraft
from petl.graft.values import input_dtype
from petl.kernels.matmul_convs import GroupedConv2d, PointwiseConv2d
from petl.methods.method import Method
from petl.methods.rates import TrainedTensor, rate_for
from petl.methods.registry import register
from petl.sites.roles import returning_site
from petl.sites.sites import Site, Sites, Where
from petl.sites.survey import Survey


@register("adapter")
@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """A residual bottleneck at block outputs or inside blocks; starts at zero, so the model starts unchanged.

    Options:
        where: ``"block"`` (after each block), ``"branch"`` (after attention and after MLP: Houlsby et al. 2019,
            arXiv:1902.00751), ``"mlp"``, or names.
        bottleneck: width of the bottleneck.
        parallel: read the module's input instead of its output; with ``where="mlp", scale=0.1`` this is AdaptFormer
            (Chen et al. 2022, arXiv:2205.13535).
        scale: factor on the bottleneck's output.
        kernel: of the depthwise convolution on feature maps (Conv-Adapter, Chen et al. 2022, arXiv:2208.07463).

    Tokens [batch, n, channels] and vectors get down, GELU, up. Feature maps, channels first or last, get a depthwise
    convolution down to the bottleneck (the largest divisor of the channels up to ``bottleneck``), GELU, and a pointwise one
    up. Blocks that return several tensors get one bottleneck for each. Adds layers, so it can't be merged.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "adapter", bottleneck=8, num_classes=5)
    >>> model.blocks[0].adapter.parts["0"].down.weight.shape
    torch.Size([8, 64])
    """

    where: Where = "block"
    bottleneck: int = 16
    parallel: bool = False
    scale: float = 1.0
    kernel: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bottleneck < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise MethodError(
                f"adapter: bottleneck={self.bottleneck}, kernel={self.kernel}; at least 1, and an odd kernel"
            )

    def hint(self) -> str:
        return "; name modules by where=, or try 'lora'"

    def plan(self, survey: Survey) -> Sites:
        sites = super().plan(survey)
        if survey.failed:
            raise SiteError(f"adapter: needs the shapes that blocks return, but the model did not run: {survey.failed}")
        sites = Sites(dict.fromkeys(returning_site(survey, site) for site in sites))
        for site in sites:
            self._refuse(survey, site)
        return sites

    def _refuse(self, survey: Survey, site: Site) -> None:
        if not any(len(shape) > 1 for shape in site.outputs):
            raise SiteError(f"adapter: {site.name} ({site.kind}) returns no features; name blocks by where=")
        received = survey.calls[site.name].inputs[:1]
        if self.parallel and received != list(site.outputs[:1]):
            raise SiteError(
                f"adapter: parallel=True adds to {site.name}'s output {site.outputs[:1]} what is made of its input {received}; "
                f"they must have one shape: choose other modules by where=, or parallel=False"
            )

    def rate(self, tensor: TrainedTensor) -> float:
        return rate_for("adapter", tensor)

    def apply(self, model: nn.Module, sites: Sequence[Site]) -> None:
        device = next(model.parameters()).device  # an activation at the end of a block has no parameter of its own
        dtype = torch.promote_types(input_dtype(model), torch.float32)
        for site in sites:
            maps = enumerate(zip(site.outputs, site.axes, strict=True))
            parts = {str(i): self._part(shape, axis) for i, (shape, axis) in maps if len(shape) > 1}
            graft = Residual(parts, self.scale, self.parallel).to(device, dtype)
            grow(model.get_submodule(site.name), "adapter", graft)

    def _part(self, shape: tuple[int, ...], axis: int) -> nn.Module:
        if axis == -1:
            return TokenBottleneck(shape[-1], self.bottleneck)
        return MapBottleneck(shape[axis], self.bottleneck, self.kernel, last=axis == 3)


class Residual(OutputGraft):
    """Adds ``scale * part(x)`` to each tensor that the parent returns, ``x`` being that tensor or the parent's input."""

    def __init__(self, parts: dict[str, nn.Module], scale: float, parallel: bool):
        super().__init__()
        self.why_stuck = "the bottleneck is nonlinear"
        self.parts, self.scale, self.parallel = nn.ModuleDict(parts), scale, parallel

    def forward(self, output: Any, *inputs: Any) -> Any:
        if isinstance(output, Tensor):
            return self._add("0", output, inputs)
        leaves, tree = tree_flatten(output)
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for number, i in enumerate(tensors):
            leaves[i] = self._add(str(number), leaves[i], inputs)
        return tree_unflatten(leaves, tree)

    def _add(self, key: str, x: Tensor, inputs: tuple[Any, ...]) -> Tensor:
        if key not in self.parts:
            return x
        change = self.parts[key](inputs[0] if self.parallel else x)
        return torch.add(x, change.to(x.dtype), alpha=self.scale)


class TokenBottleneck(nn.Module):
    """[..., channels] to [..., channels] through ``bottleneck`` features; zero at the start."""

    def __init__(self, channels: int, bottleneck: int):
        super().__init__()
        self.down = nn.Linear(channels, bottleneck)
        self.act = nn.GELU()
        self.up = _zeroed(nn.Linear(bottleneck, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.act(self.down(_in_dtype(x, self.down))))


class MapBottleneck(nn.Module):
    """[batch, channels, h, w] (or channels last) through a depthwise and a pointwise convolution; zero at the start."""

    def __init__(self, channels: int, bottleneck: int, kernel: int, *, last: bool):
        super().__init__()
        width = max(d for d in range(1, min(bottleneck, channels) + 1) if channels % d == 0)
        self.last = last
        self.down = GroupedConv2d(channels, width, kernel)
        self.act = nn.GELU()
        self.up = _zeroed(PointwiseConv2d(width, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b h w c -> b c h w") if self.last else x
        x = self.up(self.act(self.down(_in_dtype(x, self.down))))
        return rearrange(x, "b c h w -> b h w c") if self.last else x


def _in_dtype(x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
    """Casts features of a half-precision base to the adapter's own precision; autocast casts by itself."""
    return x.to(layer.weight.dtype)


def _zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer

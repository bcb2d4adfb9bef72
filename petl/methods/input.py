"""Input-channel adapter: images of any number of channels into a backbone made for three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import einsum
from torch import Tensor, nn

from petl.errors import MethodError
from petl.graft.classes import base_class
from petl.graft.graft import grow
from petl.graft.kinds import InputGraft, WeightGraft
from petl.graft.values import input_dtype, own_value
from petl.methods.method import Method
from petl.methods.rates import TrainedTensor, rate_for
from petl.methods.registry import register
from petl.sites.names import topmost, within
from petl.sites.selection import select
from petl.sites.sites import Site, Sites, Where
from petl.sites.survey import Survey


@register("input")
@dataclass(frozen=True, kw_only=True)
class Input(Method):
    """A 1x1 convolution from ``in_chans`` channels to what the stem expects, in front of every stem.

    Options:
        in_chans: channels of the images, at least 1.
        bias: give the 1x1 convolution a bias.
        where: the stems; the default is timm's own ``first_conv``, all of them.

    It starts as the plain thing to do: one channel is replicated; the first three of more channels are RGB and the rest
    start at zero; two channels feed their mean. Without a bias it lives inside the stem's weight (mixing channels and
    convolving are one linear map), costs no layer at run time and folds exactly; ``reset_classifier`` aside, the merged
    model is what ``timm.create_model(..., in_chans=k)`` builds. With a bias that holds only for stems that don't pad; a
    stem that pads, standardises its weight or is no convolution gets a real 1x1 layer in front, which can't be folded.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_resnet"), "input", in_chans=1, num_classes=5)
    >>> model(torch.randn(2, 1, 96, 96)).shape
    torch.Size([2, 5])
    """

    in_chans: int = 1
    bias: bool = False
    where: Where = "stem"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_chans < 1:
            raise MethodError(f"input: in_chans={self.in_chans}; images have at least one channel")

    def plan(self, survey: Survey) -> Sites:
        channels = survey.image[0]
        stems = select(survey, self.where)
        if stems and all(self._fits(survey.modules[site.name], channels) for site in stems):
            return stems
        return select(survey, [_image_module(survey)])

    def _fits(self, module: nn.Module, channels: int) -> bool:
        return _mixes_exactly(module, channels) and (not self.bias or _shifts_exactly(module))

    def rate(self, tensor: TrainedTensor) -> float:
        return rate_for("input", tensor)

    def apply(self, model: nn.Module, sites: Sequence[Site]) -> None:
        for site in sites:
            module = model.get_submodule(site.name)
            self._grow(module, _like_parameters(model if next(module.parameters(), None) is None else module))

    def _grow(self, module: nn.Module, like: Tensor) -> None:
        channels = self._expected(module)
        if not self._fits(module, channels):
            layer = ChannelMixer(self.in_chans, channels, self.bias, like)
            layer.why_stuck = self._why_not(module, channels)
            return grow(module, "input", layer)
        grow(module, "input", StemMix(_initial_mix(self.in_chans, channels), like))
        if self.bias:
            grow(module, "input_shift", StemShift(channels, like))

    def _why_not(self, module: nn.Module, channels: int) -> str:
        if _mixes_exactly(module, channels):
            return "its bias can't go through a stem that pads with zeros or has no bias; bias=False folds"
        return f"{base_class(module).__name__} does not apply one weight to the image's own channels"

    def _expected(self, module: nn.Module) -> int:
        """Returns how many channels the stem takes; three, timm's default, for a module that isn't a plain convolution."""
        return module.in_channels if _mixes_exactly(module, getattr(module, "in_channels", 0)) else 3  # type: ignore[return-value]


def _image_module(survey: Survey) -> str:
    """Returns the innermost module that takes every image unchanged; the model itself if its code changes the image first."""
    takers = [name for name, call in survey.calls.items() if call.takes_image]
    place = ""
    while True:
        inside = [n for n in takers if n != place and within(n, [place])] if place else [n for n in takers if n]
        nearest = topmost(inside)
        if len(nearest) != 1:
            return place
        place = nearest[0]


class StemMix(WeightGraft):
    """Multiplies the 1x1 convolution into the stem's weight: [out, c, h, w] becomes [out, in_chans, h, w]."""

    def __init__(self, mix: Tensor, like: Tensor):
        super().__init__()
        self.mix = nn.Parameter(mix.to(like))
        self.in_chans: int = mix.shape[1]

    def change(self, weight: Tensor) -> Tensor:
        return einsum(weight, self.mix, "out c h w, c k -> out k h w")

    def folded(self, parent: nn.Module) -> None:
        cast(nn.Conv2d, parent).in_channels = self.in_chans


class StemShift(WeightGraft):
    """Adds the 1x1 convolution's bias, carried through a stem that doesn't pad, to the stem's own bias."""

    param = "bias"

    def __init__(self, channels: int, like: Tensor):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels).to(like))

    def forward(self, value: Tensor, parent: nn.Module) -> Tensor:
        return value + (self.before_mix(parent) * self.shift.view(-1, 1, 1)).sum((1, 2, 3)).to(value.dtype)

    def before_mix(self, parent: nn.Module) -> Tensor:
        """Returns the stem's weight after the grafts that come before the ``StemMix``."""
        weight = own_value(parent, "weight")
        for child in parent.children():
            if isinstance(child, StemMix):
                break
            weight = child(weight, parent) if isinstance(child, WeightGraft) and child.param == "weight" else weight
        return weight


class ChannelMixer(InputGraft):
    """A real 1x1 convolution in front of a module: [batch, in_chans, h, w] to [batch, channels, h, w]."""

    def __init__(self, in_chans: int, channels: int, bias: bool, like: Tensor):
        super().__init__()
        self.in_chans = in_chans
        self.mix = nn.Conv2d(in_chans, channels, 1, bias=bias, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            self.mix.weight.copy_(_initial_mix(in_chans, channels)[:, :, None, None])
            if self.mix.bias is not None:
                self.mix.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


def _initial_mix(in_chans: int, channels: int) -> Tensor:
    """Returns the mix at the start, [channels, in_chans]: the first channels if there are enough, else the mean for each."""
    if in_chans >= channels:
        return torch.eye(channels, in_chans)
    return torch.full((channels, in_chans), 1 / in_chans)


def _mixes_exactly(module: nn.Module, channels: int) -> bool:
    """Returns whether the module is a convolution that applies its weight as it is to the image's own channels."""
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or module.in_channels != channels:
        return False
    from timm.layers import Conv2dSame

    return base_class(module) in (nn.Conv2d, Conv2dSame)


def _shifts_exactly(module: nn.Module) -> bool:
    """Returns whether constant input channels give constant output channels: no padding with zeros, and a bias."""
    return isinstance(module, nn.Conv2d) and module.padding in ((0, 0), 0, "valid") and module.bias is not None and (
        base_class(module) is nn.Conv2d
    )  # fmt: skip


def _like_parameters(module: nn.Module) -> Tensor:
    """Returns an empty tensor on the module's device, of the module's dtype but at least float32."""
    own = next(module.parameters(), torch.empty(0))
    return torch.empty(0, device=own.device, dtype=torch.promote_types(input_dtype(module), torch.float32))

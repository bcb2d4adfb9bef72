"""LoRA: a low-rank change of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.errors import MethodError, SiteError
from petl.graft import WeightGraft, grow
from petl.kernels import Change
from petl.method import Method, register
from petl.sites import Site, Sites, Where, is_cond_conv, matrices
from petl.survey import Survey


@register("lora")
@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Low-rank change of linear and convolution weights (Hu et al. 2021, arXiv:2106.09685).

    The weight, seen as a matrix of output channels by everything else, becomes ``W + scale * up @ down``; ``up`` starts at
    zero. Convolutions of every class work alike, also grouped, depthwise, SAME-padded, dilated and weight-standardised
    ones, and weights that the model reads without calling the layer. Folds into the weights.

    Options:
        where: layers; add ``"depthwise"`` to reach depthwise convolutions too.
        rank: of the change; capped at the rank that the weight can have.
        alpha: scale is ``alpha / rank``.
        rslora: scale is ``alpha / sqrt(rank)`` instead (Kalajdzievski 2023, arXiv:2312.03732).
        dora: train the norm of each output row apart from its direction (Liu et al. 2024, arXiv:2402.09353).
        slices: letters out of ``"qkv"``: only the attention projections, and of fused ones only these rows.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", rank=4, slices="qv", num_classes=5)
    >>> model.blocks[0].attn.qkv.lora.up.shape  # two slices of 64 rows
    torch.Size([2, 64, 4])
    """

    where: Where = ("linear", "conv")
    rank: int = 8
    alpha: float = 8.0
    rslora: bool = False
    dora: bool = False
    slices: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise MethodError(f"lora: rank={self.rank}; a rank is at least 1")
        letters = isinstance(self.slices, str) and self.slices and not set(self.slices) - set("qkv")
        if self.slices is not None and not letters:
            raise MethodError(f"lora: slices={self.slices!r}; give letters out of 'qkv', such as 'qv'")
        if self.slices is not None and self.dora:
            raise MethodError("lora: dora=True needs whole rows; leave out slices or dora")

    def fits(self, module: nn.Module) -> bool:
        return bool(matrices(module))

    def plan(self, found: Survey) -> Sites:
        sites = super().plan(found)
        if self.slices is None:
            return sites
        kept = Sites(site for site in sites if _letters(site) and set(_letters(site)) & set(self.slices))
        if not kept:
            raise SiteError(
                f"lora: slices={self.slices!r}, but {type(found.model).__name__} has no attention projections named qkv, "
                f"kv, q, k or v at where={self.where!r}; leave out slices, or name the layers by where="
            )
        return kept

    def adapt(self, module: nn.Module, site: Site) -> None:
        scale = self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
        letters = _letters(site) if self.slices else ""
        if letters and not set(letters) <= set(self.slices or ""):
            rows = tuple(i for i, letter in enumerate(letters) if letter in (self.slices or ""))
            return grow(module, "lora", SlicedLowRank(module.weight, self.rank, scale, (len(letters), *rows)))  # type: ignore[arg-type]
        for param in matrices(module):
            grow(module, "lora" if param == "weight" else f"lora_{param}", self._graft(module, param, scale))

    def _graft(self, module: nn.Module, param: str, scale: float) -> LowRank:
        weight = cast(Tensor, getattr(module, param))
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return Transposed(weight, self.rank, scale, dora=self.dora, groups=module.groups)
        if is_cond_conv(module):
            return Experts(weight, self.rank, scale, dora=self.dora, rows=cast(Any, module).out_channels)
        return LowRank(weight, self.rank, scale, dora=self.dora, param=param)


class LowRank(WeightGraft):
    """``W + scale * up @ down``, with ``up`` [rows, r] and ``down`` [r, columns] over the weight seen as a matrix."""

    def __init__(self, weight: Tensor, rank: int, scale: float, *, dora: bool = False, param: str = "weight"):
        super().__init__()
        matrix = self.matrix(weight.detach())
        *batch, rows, columns = matrix.shape
        rank, self.scale, self.param = min(rank, rows, columns), scale, param
        self.down = _start(matrix, *batch, rank, columns)
        self.up = nn.Parameter(torch.zeros(*batch, rows, rank, dtype=self.down.dtype, device=weight.device))
        self.magnitude = nn.Parameter(_row_norm(matrix.to(self.down.dtype))) if dora else None

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as [rows, columns]: output channels by everything else."""
        return weight.flatten(1)

    def shaped(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """What ``matrix`` made a matrix of, in the shape of ``weight`` again."""
        return matrix.view(weight.shape)

    def low_rank(self) -> Change | None:
        plain = type(self) is LowRank and self.magnitude is None
        return Change(self.up, self.down, self.scale) if plain else None

    def change(self, weight: Tensor) -> Tensor:
        add = torch.addmm if self.up.ndim == 2 else torch.baddbmm
        matrix = add(self.matrix(weight), self.up, self.down, alpha=self.scale)
        if self.magnitude is not None:
            matrix = matrix * (self.magnitude / _row_norm(matrix.detach()))
        return self.shaped(matrix, weight)


class Experts(LowRank):
    """A low-rank change for each expert of timm's CondConv2d, whose weight is [experts, flat kernel]."""

    def __init__(self, weight: Tensor, rank: int, scale: float, *, rows: int, dora: bool = False):
        self.rows = rows
        super().__init__(weight, rank, scale, dora=dora)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.view(weight.shape[0], self.rows, -1)


class Transposed(LowRank):
    """A low-rank change of a transposed convolution, whose weight is [in, out / groups, h, w]."""

    def __init__(self, weight: Tensor, rank: int, scale: float, *, groups: int, dora: bool = False):
        self.groups = groups
        super().__init__(weight, rank, scale, dora=dora)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)

    def shaped(self, matrix: Tensor, weight: Tensor) -> Tensor:
        grouped = matrix.view(self.groups, weight.shape[1], -1, *weight.shape[2:])
        return grouped.transpose(1, 2).flatten(0, 1)


class SlicedLowRank(WeightGraft):
    """A low-rank change of some of the equal row slices of a fused projection; the other rows stay as they are.

    ``split`` is (number of slices, index of each changed one ...); ``up`` is [changed, rows, r], ``down`` [changed, r, columns].
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, split: tuple[int, ...]):
        super().__init__()
        self.count, *self.changed = split
        rows, columns = weight.shape[0] // self.count, weight[0].numel()
        rank, self.scale = min(rank, rows, columns), scale
        self.down = nn.Parameter(torch.stack([_start(weight, rank, columns).detach() for _ in self.changed]))
        self.up = nn.Parameter(self.down.new_zeros(len(self.changed), rows, rank))

    def change(self, weight: Tensor) -> Tensor:
        parts = list(weight.flatten(1).chunk(self.count))
        for i, index in enumerate(self.changed):
            parts[index] = torch.addmm(parts[index], self.up[i], self.down[i], alpha=self.scale)
        return torch.cat(parts).view(weight.shape)


def _start(weight: Tensor, *shape: int) -> nn.Parameter:
    """LoRA's random half [..., columns], as in a fresh linear layer; at least float32 also on a half-precision weight."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    bound = 1 / math.sqrt(shape[-1])
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=weight.device).uniform_(-bound, bound))


def _row_norm(matrix: Tensor) -> Tensor:
    """Norm of each row, [..., rows, 1], never zero."""
    return matrix.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)


def _letters(site: Site) -> str:
    """What the rows of an attention projection are, by its name in the field's words: ``qkv`` is three equal slices."""
    leaf = site.name.rpartition(".")[2].removesuffix("_proj")
    fits = leaf in ("qkv", "kv", "q", "k", "v") and site.shape[:1] and site.shape[0] % len(leaf) == 0
    return leaf if fits else ""

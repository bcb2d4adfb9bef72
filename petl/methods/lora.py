"""LoRA: a low-rank change of weights."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.errors import MethodError, SiteError, listing
from petl.graft.graft import WeightGraft, grow
from petl.kernels.buffers import reusable_buffer
from petl.kernels.low_rank import LowRankChange
from petl.methods.method import Method, register
from petl.sites.attention_rows import Rows, fused_rows, letters
from petl.sites.sites import Site, Sites, Where, is_cond_conv, matrices
from petl.sites.survey import Survey


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
        freeze_down: train ``up`` alone (LoRA-FA, Zhang et al. 2023, arXiv:2308.03303): the backward needs ``rank`` numbers a
            position instead of a layer's input, so training steps keep far less.
        slices: letters out of ``"qkv"``: only the attention projections, and of fused ones only these rows, in whichever order
            the model has them.

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
    freeze_down: bool = False
    slices: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise MethodError(f"lora: rank={self.rank}; a rank is at least 1")
        fits = isinstance(self.slices, str) and self.slices and not set(self.slices) - set("qkv")
        if self.slices is not None and not fits:
            raise MethodError(f"lora: slices={self.slices!r}; give letters out of 'qkv', such as 'qv'")
        if self.slices is not None and self.dora:
            raise MethodError("lora: dora=True needs whole rows; leave out slices or dora")

    def fits(self, module: nn.Module) -> bool:
        return bool(matrices(module))

    def plan(self, found: Survey) -> Sites:
        sites = self.recalled(found, super().plan(found))
        if self.slices is None:
            return sites
        kept = Sites(site for site in sites if {*_made(found, site)} & {*self.slices})
        vague = [site.name for site in kept if self._cuts(_letters(found, site)) and not site.rows]
        if vague:
            raise SiteError(
                f"lora: slices={self.slices!r}, but {type(found.model).__name__} takes the output of {listing(vague)} apart in "
                f"a way that doesn't show which rows are q, k and v; leave out slices, or these layers by where="
            )
        if not kept:
            raise SiteError(
                f"lora: slices={self.slices!r}, but {type(found.model).__name__} has no attention projections named qkv, "
                f"kv, q, k or v at where={self.where!r}; leave out slices, or name the layers by where="
            )
        return kept

    def recalled(self, found: Survey, sites: Sites) -> Sites:
        """With ``slices``, the sites with the layout of their rows."""
        if self.slices is None:
            return sites
        fused = [site.name for site in sites if site.shape and self._cuts(_letters(found, site))]
        rows = fused_rows(found, fused) if fused else {}
        known = [dataclasses.replace(s, rows=rows.get(s.name, _torchs_own(found.modules[s.name]))) for s in sites]
        return Sites(s for s in known if s.rows or "m" not in _letters(found, s))

    def _cuts(self, letters: str) -> bool:
        """Whether some rows of a projection that makes ``letters`` stay as they are."""
        return bool({*letters} & {*(self.slices or "")}) and not {*letters} <= {*(self.slices or "")}

    def adapt(self, module: nn.Module, site: Site) -> None:
        scale = self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
        for param in matrices(module):
            made, name = _made_by(param, site), "lora" if param == "weight" else f"lora_{param}"
            if self.slices is None or not made or {*made} <= {*self.slices}:
                self._grow(module, name, self._graft(module, param, scale))
            elif {*made} & {*self.slices}:
                weight, rows = cast(Tensor, getattr(module, param)), site.rows
                graft = SlicedLowRank(weight, self.rank, scale, rows=rows, slices=self.slices, param=param)
                self._grow(module, name, graft)

    def _grow(self, module: nn.Module, name: str, graft: LowRank | SlicedLowRank) -> None:
        graft.down.requires_grad_(not self.freeze_down)
        grow(module, name, graft)

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

    def low_rank(self) -> LowRankChange | None:
        plain = type(self) is LowRank and self.magnitude is None
        return LowRankChange(self.up, self.down, self.scale) if plain else None

    def change(self, weight: Tensor) -> Tensor:
        add, matrix = torch.addmm if self.up.ndim == 2 else torch.baddbmm, self.matrix(weight)
        matrix = add(matrix, self.up, self.down, alpha=self.scale, out=reusable_buffer(matrix))
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
    """A low-rank change of some letters' rows of a fused projection; the other rows stay as they are.

    ``rows`` are the letters with their numbers of rows, in order, for all heads at once or for each head in turn. ``down`` is
    [changed, r, columns]; ``up`` is [changed, rows, r], or where the letters differ in size, [rows of all changed, r].
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, *, rows: Rows, slices: str, param: str = "weight"):
        super().__init__()
        self.scale, self.param, self.sizes = scale, param, [size for _, size in rows]
        self.changed = [i for i, (letter, _) in enumerate(rows) if letter in slices]
        heads, columns = weight.shape[0] // sum(self.sizes), weight[0].numel()
        self.counts = [heads * self.sizes[i] for i in self.changed]
        rank = min(rank, columns, *self.counts)
        self.down = nn.Parameter(torch.stack([_start(weight, rank, columns).detach() for _ in self.changed]))
        even = len({*self.counts}) == 1
        shape = (len(self.counts), self.counts[0], rank) if even else (sum(self.counts), rank)
        self.up = nn.Parameter(self.down.new_zeros(shape))

    def change(self, weight: Tensor) -> Tensor:
        heads = weight.flatten(1).unflatten(0, (-1, sum(self.sizes)))
        parts = list(heads.split(self.sizes, 1))  # of each letter [heads, rows, columns]
        ups = self.up.flatten(0, -2).split(self.counts)
        for i, up, down in zip(self.changed, ups, self.down, strict=True):
            parts[i] = torch.addmm(parts[i].flatten(0, 1), up, down, alpha=self.scale).view(parts[i].shape)
        return torch.cat(parts, 1).view(weight.shape)


def _start(weight: Tensor, *shape: int) -> nn.Parameter:
    """LoRA's random half [..., columns], as in a fresh linear layer; at least float32 also on a half-precision weight."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    bound = 1 / math.sqrt(shape[-1])
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=weight.device).uniform_(-bound, bound))


def _row_norm(matrix: Tensor) -> Tensor:
    """Norm of each row, [..., rows, 1], never zero."""
    return matrix.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)


def _letters(found: Survey, site: Site) -> str:
    """What the layer makes for attention, out of ``qkv``: by its name in the field's words, or torch's own attention."""
    if isinstance(found.modules[site.name], nn.MultiheadAttention):
        return "qkv"
    layer = {"linear", "conv", "depthwise"} & {*site.roles}
    return letters(site.name) if layer and not isinstance(_parent(found, site.name), nn.MultiheadAttention) else ""


def _made(found: Survey, site: Site) -> str:
    """The same, by the layout of its rows where that is known: some families call a ``qkv`` what makes k and v alone."""
    return "".join(letter for letter, _ in site.rows) or _letters(found, site)


def _parent(found: Survey, name: str) -> nn.Module:
    return found.modules[name.rpartition(".")[0]]


def _torchs_own(module: nn.Module) -> Rows:
    """nn.MultiheadAttention's ``in_proj_weight`` is [q | k | v] by torch's word."""
    if not isinstance(module, nn.MultiheadAttention):
        return ()
    return tuple((letter, module.embed_dim) for letter in "qkv")


def _made_by(param: str, site: Site) -> str:
    """What the site's parameter makes."""
    if param in ("weight", "in_proj_weight"):
        return "".join(letter for letter, _ in site.rows)
    return letters(param.removesuffix("_weight"))

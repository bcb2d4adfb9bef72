"""LoRA: a low-rank change of weights."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from petl.errors import MethodError, SiteError, listing
from petl.graft.graft import grow
from petl.methods.lora_slices import (
    SlicedLowRank,
    letters_by_name,
    letters_by_rows,
    letters_of_parameter,
    rows_of_torch_attention,
)
from petl.methods.lora_weights import ExpertLowRank, LowRank, TransposedLowRank
from petl.methods.method import Method
from petl.methods.rates import TrainedTensor, low_rank_rate, rate_for
from petl.methods.registry import register
from petl.sites.attention_rows import fused_rows
from petl.sites.layers import is_cond_conv, layer_roles, weight_names
from petl.sites.sites import Site, Sites, Where
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
        return bool(weight_names(module))

    def plan(self, survey: Survey) -> Sites:
        sites = self.restore_sites(survey, super().plan(survey))
        if self.slices is None:
            return sites
        kept = Sites(site for site in sites if {*letters_by_rows(survey, site)} & {*self.slices})
        unclear = [site.name for site in kept if self._cuts(letters_by_name(survey, site)) and not site.rows]
        if unclear:
            raise SiteError(
                f"lora: slices={self.slices!r}, but {type(survey.model).__name__} takes the output of {listing(unclear)} apart "
                f"in a way that doesn't show which rows are q, k and v; leave out slices, or these layers by where="
            )
        if not kept:
            raise SiteError(
                f"lora: slices={self.slices!r}, but {type(survey.model).__name__} has no attention projections named qkv, "
                f"kv, q, k or v at where={self.where!r}; leave out slices, or name the layers by where="
            )
        return kept

    def restore_sites(self, survey: Survey, sites: Sites) -> Sites:
        """Returns the sites, with ``slices`` together with the layout of their rows."""
        if self.slices is None:
            return sites
        fused = [site.name for site in sites if site.shape and self._cuts(letters_by_name(survey, site))]
        rows = fused_rows(survey, fused) if fused else {}
        own = {site.name: rows_of_torch_attention(survey.modules[site.name]) for site in sites}
        with_rows = [dataclasses.replace(site, rows=rows.get(site.name, own[site.name])) for site in sites]
        return Sites(s for s in with_rows if s.rows or "m" not in letters_by_name(survey, s))

    def _cuts(self, letters: str) -> bool:
        """Returns whether some rows of a projection that computes ``letters`` change and others don't."""
        return bool({*letters} & {*(self.slices or "")}) and not {*letters} <= {*(self.slices or "")}

    @property
    def _scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def rate(self, tensor: TrainedTensor) -> float:
        """Lower where ``scale * rank`` is above that of the default, and on depthwise convolutions, whose kernels are small."""
        if tensor.key.endswith(".magnitude"):
            return rate_for("norm", tensor)  # of DoRA: a length for each row
        kind = "lora depthwise" if "depthwise" in layer_roles(tensor.parent) else "lora"
        return low_rank_rate(kind, tensor, rank=self.rank, scale=self._scale)

    def adapt(self, module: nn.Module, site: Site) -> None:
        scale = self._scale
        for param in weight_names(module):
            letters, name = letters_of_parameter(param, site), "lora" if param == "weight" else f"lora_{param}"
            if self.slices is None or not letters or {*letters} <= {*self.slices}:
                self._grow(module, name, self.graft_of(module, param, scale))
            elif {*letters} & {*self.slices}:
                weight, rows = cast(Tensor, getattr(module, param)), site.rows
                graft = SlicedLowRank(weight, self.rank, scale, rows=rows, slices=self.slices, param=param)
                self._grow(module, name, graft)

    def _grow(self, module: nn.Module, name: str, graft: LowRank | SlicedLowRank) -> None:
        graft.down.requires_grad_(not self.freeze_down)
        grow(module, name, graft)

    def graft_of(self, module: nn.Module, param: str, scale: float) -> LowRank:
        """Returns the change of a whole weight of the layer, which knows the weight as a matrix; the layer is not changed."""
        weight = cast(Tensor, getattr(module, param))
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return TransposedLowRank(weight, self.rank, scale, dora=self.dora, groups=module.groups)
        if is_cond_conv(module):
            return ExpertLowRank(weight, self.rank, scale, dora=self.dora, rows=cast(Any, module).out_channels)
        return LowRank(weight, self.rank, scale, dora=self.dora, param=param)

"""LoRA on some of the attention projections: the letters of a site, and the change of their rows alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petl.graft.kinds import WeightGraft
from petl.methods.lora_weights import random_down
from petl.sites.attention_rows import Rows, projection_letters
from petl.sites.sites import Site
from petl.sites.survey import Survey


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
        self.down = nn.Parameter(torch.stack([random_down(weight, rank, columns).detach() for _ in self.changed]))
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


def letters_by_name(survey: Survey, site: Site) -> str:
    """Returns the letters of what the layer computes for attention, by its name; all three for torch's own attention."""
    if isinstance(survey.modules[site.name], nn.MultiheadAttention):
        return "qkv"
    is_layer = bool({"linear", "conv", "depthwise"} & {*site.roles})
    parent = survey.modules[site.name.rpartition(".")[0]]
    return projection_letters(site.name) if is_layer and not isinstance(parent, nn.MultiheadAttention) else ""


def letters_by_rows(survey: Survey, site: Site) -> str:
    """Returns the letters by the layout of the site's rows if known, else by name: some families name a k/v layer ``qkv``."""
    return "".join(letter for letter, _ in site.rows) or letters_by_name(survey, site)


def rows_of_torch_attention(module: nn.Module) -> Rows:
    """Returns the rows of nn.MultiheadAttention's ``in_proj_weight``: [q | k | v], as torch documents; () for other modules."""
    if not isinstance(module, nn.MultiheadAttention):
        return ()
    return tuple((letter, module.embed_dim) for letter in "qkv")


def letters_of_parameter(param: str, site: Site) -> str:
    """Returns the letters of what the site's parameter computes; "" where that is unknown."""
    if param in ("weight", "in_proj_weight"):
        return "".join(letter for letter, _ in site.rows)
    return projection_letters(param.removesuffix("_weight"))

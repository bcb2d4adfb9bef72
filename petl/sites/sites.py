"""Places in a model where a method can go: Site, the roles they play, and ``find``."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from petl.errors import SiteError, near
from petl.graft.graft import CONTAINERS, Graft, base_class, grafts
from petl.sites.channel_axis import channel_axis
from petl.sites.survey import Survey, config, live_outputs, survey, topmost
from petl.tables import html_table, table

Where = str | Sequence[str]

SEVERAL = (nn.RNNBase, nn.MultiheadAttention)  # layers that own several matrices and multiply by them themselves

ROLES = {
    "all": "every place below",
    "linear": "nn.Linear and its subclasses, and the matrices of nn.LSTM and nn.MultiheadAttention, but the head",
    "conv": "convolutions of every class, dense, grouped or of experts, but depthwise ones and the head",
    "depthwise": "convolutions with as many groups as input channels",
    "norm": "normalisation layers of every kind, but the head's",
    "batchnorm": "normalisation layers with running statistics, but the head's",
    "block": "timm's own blocks, in the order of execution; in a plain stack of layers (VGG), each layer",
    "branch": "a block's children that return as many channels as it does: attention and MLP of a transformer block",
    "mlp": "the last branch of each block",
    "stem": "the first layers, which see the image",
    "head": "the classifier and its layers",
}


@dataclass(frozen=True)
class Site:
    """A place in a model, as plain data.

    ``shape`` is the weight's shape (empty where there is none), ``outputs`` the shapes of the tensors that the module
    returns for a batch of two images (of a block's several tensors, () for one that has no influence on the model's
    output), ``axes`` the axis of the channels in each of them (-1 for tokens and vectors, 1 or 3 for maps), ``order`` its
    number in the order of execution, ``rows`` what the rows of a fused attention projection are, where a method has asked.
    """

    name: str
    roles: tuple[str, ...]
    kind: str
    shape: tuple[int, ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    axes: tuple[int, ...] = ()
    order: float = 0
    rows: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Left:
    """A parameter that belongs to no site with a role, and why."""

    name: str
    shape: tuple[int, ...]
    why: str


class Sites(list[Site]):
    """Sites in the order of execution; prints as a table.

    ``left`` lists the parameters that no role reaches, with the reason, after ``find(model, "all")``; else it is empty.
    """

    def __init__(self, sites: Iterable[Site] = (), left: Iterable[Left] = ()):
        super().__init__(sites)
        self.left = list(left)

    def __repr__(self) -> str:
        return "\n\n".join(table(rows, left=range(len(rows[0]))) for rows in self._tables())

    def _repr_html_(self) -> str:
        return "".join(html_table(rows, left=range(len(rows[0]))) for rows in self._tables())

    def _tables(self) -> list[list[tuple[str, ...]]]:
        rows = [("name", "kind", "weight", "roles")]
        rows += [(s.name or "(the model)", s.kind, "x".join(map(str, s.shape)), " ".join(s.roles)) for s in self]
        left = [("not reached", "shape", "why"), *((p.name, "x".join(map(str, p.shape)), p.why) for p in self.left)]
        return [rows, left] if self.left else [rows]


def find(model: nn.Module, where: Where = "all") -> Sites:
    """The sites of ``model`` that ``where`` names: roles, full names, or full-name patterns such as ``blocks.*.attn.qkv``.

    Nothing is changed. Layers that the model's forward neither calls nor reads are left out. ``find(model, "all")`` also
    lists, in ``.left``, every parameter that no role reaches, and why: tokens, position tables, spare layers.

    Raises:
        SiteError: a name in ``where`` is neither a role nor matches any module.

    >>> import petl, timm
    >>> model = timm.create_model("test_vit")
    >>> [site.name for site in petl.find(model, "blocks.*.attn.qkv")]
    ['blocks.0.attn.qkv', 'blocks.1.attn.qkv', 'blocks.2.attn.qkv', 'blocks.3.attn.qkv', 'blocks.4.attn.qkv', 'blocks.5.attn.qkv']
    """
    found = survey(model)
    sites = select(found, where)
    return Sites(sites, left_out(found)) if where == "all" else sites


def left_out(found: Survey) -> list[Left]:
    """The parameters that belong to no site with a role, in the order in which the model names them."""
    roles = {site.name: site.roles for site in all_sites(found)}
    grown = [name for name, module in found.modules.items() if isinstance(module, Graft)]
    left = []
    for name, parameter in found.model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if not within(owner, grown) and (why := _why_left(found, owner, leaf, roles.get(owner, ()))):
            left.append(Left(name, tuple(parameter.shape), why))
    return left


def _why_left(found: Survey, owner: str, leaf: str, roles: tuple[str, ...]) -> str:
    """Why no role reaches this parameter; empty where one does."""
    module = found.modules[owner]
    if "head" in roles:
        return ""
    if not found.failed and f"{owner}.{leaf}".lstrip(".") not in found.used:
        return "not read in the forward"
    if "norm" in roles or (layer_roles(module) and leaf in {*matrices(module), *own_biases(module)}):
        return ""
    if leaf in own_biases(module):
        return "a bias of no layer with a role: 'bias' trains it"
    return f"{base_class(module).__name__}'s own, neither matrix nor bias of a layer: 'full' or 'partial' train it"


def own_biases(module: nn.Module) -> list[str]:
    """Names of the module's own bias vectors: ``bias``, ``q_bias``, ``in_proj_bias``, an LSTM's ``bias_ih_l0``."""
    own = {name: p for name, p in module._parameters.items() if p is not None}
    vectors = [name for name, p in own.items() if p.ndim == 1 and (name.endswith("_bias") or name.startswith("bias_"))]
    return [name for name in own if name == "bias" or name in vectors]


def last_inside(found: Survey, site: Site) -> Site:
    """For an nn.Sequential, the last module in it, which returns what it returns; any other site as it is."""
    name = site.name
    while isinstance(module := found.modules[name], nn.Sequential) and len(module):
        name = f"{name}.{list(module._modules)[-1]}".lstrip(".")
    return site if name == site.name else next(s for s in all_sites(found) if s.name == name)


def select(found: Survey, where: Where) -> Sites:
    """``find`` on a survey that has been made already; an empty list is an answer, an unknown name is not."""
    everything = all_sites(found)
    names = [where] if isinstance(where, str) else list(where)
    chosen = [site for word in names for site in _matching(everything, word)]
    return Sites(sorted(dict.fromkeys(chosen), key=lambda site: site.order))


def _matching(everything: Sites, word: str) -> list[Site]:
    if word == "all":
        return [site for site in everything if site.roles]
    if word in ROLES:
        return [site for site in everything if word in site.roles]
    matched = [site for site in everything if fnmatch.fnmatchcase(site.name, word)]
    if not matched:
        raise SiteError(
            f"where={word!r} is no role ({', '.join(ROLES)}) and matches no module that runs{_hint(everything, word)}; "
            f"print(petl.find(model)) lists the places"
        )
    return matched


def _hint(everything: Sites, word: str) -> str:
    """Near names; for the last part of names, the pattern that takes them all."""
    if any(site.name.endswith(f".{word}") for site in everything):
        return f"; near names: '*.{word}' (names are full ones)"
    return near(word, [*ROLES, *(site.name for site in everything)])


def all_sites(found: Survey) -> Sites:
    """Every module that runs, with the roles that it plays, in the order of execution."""
    roles = _Roles(found)
    grown = [name for name, module in found.modules.items() if isinstance(module, Graft)]
    names = [name for name in found.modules if found.runs(name) and not within(name, grown)]
    return Sites(sorted((roles.site(name) for name in names), key=lambda site: site.order))


class _Roles:
    """Who plays which role in one surveyed model."""

    def __init__(self, found: Survey):
        self.found = found
        self.head = head_names(found)
        self.stems = set(stem_names(found))
        self.blocks = set(block_names(found))
        self.branches = {b: _branches(found, b) for b in self.blocks}
        self.live = self._live_outputs()

    def site(self, name: str) -> Site:
        module = self.found.modules[name]
        call = self.found.calls.get(name)
        weight = module._parameters.get("weight")
        shape = tuple(weight.shape) if weight is not None else ()
        live = self.live.get(name)
        outputs = tuple(s if live is None or live[i] else () for i, s in enumerate(call.outputs)) if call else ()
        ratio = self.found.image[2] / self.found.image[1]
        axes = tuple(channel_axis(shape, module, ratio) for shape in outputs)
        return Site(name, self.of(name), base_class(module).__name__, shape, outputs, axes, self.found.order(name))

    def _live_outputs(self) -> dict[str, list[bool]]:
        """Which tensors matter of blocks that return several; all, where the model has no gradient to tell by."""
        places = [*self.blocks, *(name for branch in self.branches.values() for name in branch)]
        several = {name for name in places if len(self.found.calls[name].outputs) > 1}
        try:
            return live_outputs(self.found.model, several, self.found.image) if several else {}
        except Exception:  # any model code may run here, and may raise anything at all
            return {}

    def of(self, name: str) -> tuple[str, ...]:
        module = self.found.modules[name]
        if within(name, self.head):
            return ("head",)
        last = [b[-1] for b in self.branches.values() if b]
        tests = {
            **dict.fromkeys(layer_roles(module), True),
            "block": name in self.blocks,
            "branch": any(name in b for b in self.branches.values()),
            "mlp": name in last,
            "stem": name in self.stems,
        }
        return tuple(role for role, holds in tests.items() if holds)


def layer_roles(module: nn.Module) -> list[str]:
    """The roles that a layer plays by its class alone."""
    if isinstance(module, (nn.Linear, *SEVERAL)):
        return ["linear"]
    if isinstance(module, nn.modules.conv._ConvNd) or is_cond_conv(module):
        return ["depthwise" if 1 < cast(Any, module).groups == module.in_channels else "conv"]
    if has_statistics(module):
        return ["norm", "batchnorm"]
    return ["norm"] if _is_norm(module) else []


def is_layer(module: nn.Module) -> bool:
    """Whether the module multiplies by weights: a linear layer or a convolution of any kind."""
    return bool({"linear", "conv", "depthwise"} & {*layer_roles(module)})


def matrices(module: nn.Module) -> list[str]:
    """Names of the module's own parameters that are matrices or kernels of a layer; of most layers, ``weight``."""
    if isinstance(module, SEVERAL):
        own = module._parameters.items()
        return [name for name, p in own if p is not None and p.ndim == 2 and "weight" in name]
    weight = module._parameters.get("weight")
    if weight is None:
        weight = getattr(module, "weight", None)  # may be computed: torch.nn.utils.parametrize
    return ["weight"] if isinstance(weight, Tensor) and weight.ndim > 1 else []


def is_cond_conv(module: nn.Module) -> bool:
    """Whether the module is timm's CondConv2d: a convolution with several experts, but no nn.Conv2d."""
    from timm.layers import CondConv2d

    return isinstance(module, CondConv2d)


def has_statistics(module: nn.Module) -> bool:
    """Whether the module keeps running statistics: any BatchNorm, also timm's and other libraries' own."""
    return any(module._buffers.get(name) is not None for name in ("running_mean", "running_var"))


def _is_norm(module: nn.Module) -> bool:
    """A layer with affine parameters of its own that is a norm by class, or by name where a library wrote its own."""
    own = [p for p in module._parameters.values() if p is not None]
    known = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    named = "norm" in base_class(module).__name__.lower() or "GlobalResponseNorm" in base_class(module).__name__
    return bool(own) and (
        isinstance(module, known) or (named and all(p.ndim > 0 and p.numel() == max(p.shape) for p in own))
    )


def within(name: str, tops: Iterable[str]) -> bool:
    """Whether ``name`` is one of ``tops`` or lies below one."""
    return any(name == top or name.startswith(f"{top}.") for top in tops)


def head_names(found: Survey) -> list[str]:
    """The classifier's modules; for models without ``reset_classifier``, none."""
    return list(found.head or [])


def stem_names(found: Survey) -> list[str]:
    """The layers that see the image first: timm's ``first_conv``, else the first convolution or linear layer that runs."""
    first = config(found.model).get("first_conv") or ()
    names = [n for n in ([first] if isinstance(first, str) else first) if n in found.modules and found.runs(n)]
    if names:
        return names
    layers = [n for n, m in found.modules.items() if is_layer(m) and found.runs(n)]
    return sorted(layers, key=found.order)[:1]


def block_names(found: Survey) -> list[str]:
    """The model's blocks in the order of execution: timm's own groups where it names them, else by structure."""
    names = _grouped_blocks(found)
    names = names if len(names) > 1 else _structural_blocks(found) or _stacked_layers(found)
    return sorted(names, key=found.order)


def _grouped_blocks(found: Survey) -> list[str]:
    """For each of timm's parameter groups, the largest modules that run, hold layers, and lie wholly inside the group."""
    groups = _timm_groups(found.model)
    stems = {groups.get(f"{name}.weight") for name in stem_names(found)}

    def in_one_group(name: str, module: nn.Module) -> bool:
        ids = {groups[key] for key in (f"{name}.{p}" for p, _ in module.named_parameters()) if key in groups}
        return len(ids) == 1 and not ids & stems

    composite = {n: m for n, m in found.modules.items() if n in found.calls and _is_composite(m)}
    whole = [n for n, m in composite.items() if n and in_one_group(n, m) and not _touches_head(found, n)]
    return topmost(whole)


def _timm_groups(model: nn.Module) -> dict[str, int]:
    """Parameter name -> number of its group in timm's own depth order; empty where the model has no such order."""
    from timm.models import group_parameters

    try:
        return group_parameters(model, cast(Any, model).group_matcher(coarse=False), reverse=True)  # type: ignore[return-value]
    except (AttributeError, TypeError, KeyError, ValueError, AssertionError):  # none, or one that doesn't fit the model
        return {}


def _touches_head(found: Survey, name: str) -> bool:
    return any(within(name, [top]) or within(top, [name]) for top in head_names(found))


def _structural_blocks(found: Survey) -> list[str]:
    """Composite modules inside containers (nn.Sequential, nn.ModuleList ...), the innermost that hold no such container."""
    stems = stem_names(found)
    inside = [
        n for n, m in found.modules.items() if n and _is_composite(m) and n in found.calls and _in_container(found, n)
    ]
    inner = [n for n in inside if not any(other.startswith(f"{n}.") for other in inside)]
    return [n for n in inner if not _touches_head(found, n) and not any(within(stem, [n]) for stem in stems)]


def _stacked_layers(found: Survey) -> list[str]:
    """For a plain stack of layers (VGG), each layer with a weight behind the stem."""
    layers = [n for n in found.calls if is_layer(found.modules[n])]
    stems = stem_names(found)
    return [n for n in layers if n and _in_container(found, n) and n not in stems and not _touches_head(found, n)]


def _in_container(found: Survey, name: str) -> bool:
    return isinstance(found.modules[name.rpartition(".")[0]], CONTAINERS)


def _is_composite(module: nn.Module) -> bool:
    """Whether the module is more than one layer: it holds weights of at least two dimensions below it."""
    grown = {id(part) for _, graft in grafts(module) for part in graft.modules()}
    below = [child for child in module.modules() if child is not module and id(child) not in grown]
    return any(p is not None and p.ndim > 1 for child in below for p in child._parameters.values())


def _branches(found: Survey, block: str) -> list[str]:
    """The block's children that hold layers and return as many channels as the block does, in the order of execution."""
    if isinstance(found.modules[block], nn.Sequential):
        return []
    children = [f"{block}.{name}" for name, child in found.modules[block].named_children() if _is_composite(child)]
    fits = [n for n in children if n in found.calls and _width(found, n) == _width(found, block)]
    return sorted(fits, key=found.order)


def _width(found: Survey, name: str) -> int:
    """Channels of the first tensor that the module returns."""
    shape = next(iter(found.calls[name].outputs), (0,))
    return shape[channel_axis(shape, found.modules[name], found.image[2] / found.image[1])]

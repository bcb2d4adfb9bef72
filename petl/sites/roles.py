"""The roles that a module plays: every site of a surveyed model with its roles."""

from __future__ import annotations

from torch import nn

from petl.graft.classes import base_class
from petl.graft.kinds import Graft
from petl.sites.blocks import block_names, branch_names, head_names, stem_names
from petl.sites.channel_axis import channel_axis
from petl.sites.layers import layer_roles
from petl.sites.meta import live_outputs
from petl.sites.names import joined, within
from petl.sites.sites import Site, Sites
from petl.sites.survey import Survey

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


def returning_site(survey: Survey, site: Site) -> Site:
    """Returns the site whose output this site returns: the last module of an nn.Sequential, else the site itself."""
    name = site.name
    while isinstance(module := survey.modules[name], nn.Sequential) and len(module):
        name = joined(name, list(module._modules)[-1])
    return site if name == site.name else next(s for s in all_sites(survey) if s.name == name)


def all_sites(survey: Survey) -> Sites:
    """Returns every module that runs, with the roles that it plays, in the order of execution."""
    roles = _Roles(survey)
    grown = [name for name, module in survey.modules.items() if isinstance(module, Graft)]
    names = [name for name in survey.modules if survey.runs(name) and not within(name, grown)]
    return Sites(sorted((roles.site(name) for name in names), key=lambda site: site.order))


class _Roles:
    """The roles of the modules in one surveyed model."""

    def __init__(self, survey: Survey):
        self.survey = survey
        self.head = head_names(survey)
        self.stems = set(stem_names(survey))
        self.blocks = set(block_names(survey))
        self.branches = {block: branch_names(survey, block) for block in self.blocks}
        self.live = self._live_outputs()

    def site(self, name: str) -> Site:
        module = self.survey.modules[name]
        call = self.survey.calls.get(name)
        weight = module._parameters.get("weight")
        shape = tuple(weight.shape) if weight is not None else ()
        live = self.live.get(name)
        outputs = tuple(s if live is None or live[i] else () for i, s in enumerate(call.outputs)) if call else ()
        ratio = self.survey.image[2] / self.survey.image[1]
        axes = tuple(channel_axis(shape, module, ratio) for shape in outputs)
        return Site(name, self.of(name), base_class(module).__name__, shape, outputs, axes, self.survey.order(name))

    def _live_outputs(self) -> dict[str, list[bool]]:
        """Returns which outputs matter of blocks that return several; of other modules, and where no gradient tells, all do."""
        places = [*self.blocks, *(name for branch in self.branches.values() for name in branch)]
        several = {name for name in places if len(self.survey.calls[name].outputs) > 1}
        try:
            return live_outputs(self.survey.model, several, self.survey.image) if several else {}
        except Exception:  # any model code may run here, and may raise anything at all
            return {}

    def of(self, name: str) -> tuple[str, ...]:
        module = self.survey.modules[name]
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

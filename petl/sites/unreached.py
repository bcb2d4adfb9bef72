"""Lists the parameters that no role reaches, and says why."""

from __future__ import annotations

from petl.graft.classes import base_class
from petl.graft.kinds import Graft
from petl.sites.layers import bias_names, layer_roles, weight_names
from petl.sites.names import within
from petl.sites.roles import all_sites
from petl.sites.sites import Unreached
from petl.sites.survey import Survey


def unreached(survey: Survey) -> list[Unreached]:
    """Returns the parameters that belong to no site with a role, in the order in which the model names them."""
    roles = {site.name: site.roles for site in all_sites(survey)}
    grown = [name for name, module in survey.modules.items() if isinstance(module, Graft)]
    parameters = []
    for name, parameter in survey.model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if not within(owner, grown) and (why := _why_unreached(survey, owner, leaf, roles.get(owner, ()))):
            parameters.append(Unreached(name, tuple(parameter.shape), why))
    return parameters


def _why_unreached(survey: Survey, owner: str, leaf: str, roles: tuple[str, ...]) -> str:
    """Returns why no role reaches this parameter; empty where one does."""
    module = survey.modules[owner]
    if "head" in roles:
        return ""
    if not survey.reads(owner, leaf):
        return "not read in the forward"
    if "norm" in roles or (layer_roles(module) and leaf in {*weight_names(module), *bias_names(module)}):
        return ""
    if leaf in bias_names(module):
        return "a bias of no layer with a role: 'bias' trains it"
    return f"{base_class(module).__name__}'s own, neither matrix nor bias of a layer: 'full' or 'partial' train it"

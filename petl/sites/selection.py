"""Finds the sites that a user or a method names: by role, full name or pattern."""

from __future__ import annotations

import fnmatch

from torch import nn

from petl.errors import SiteError, near
from petl.sites.roles import ROLES, all_sites
from petl.sites.sites import Site, Sites, Where
from petl.sites.survey import Survey, survey_model
from petl.sites.unreached import unreached


def find(model: nn.Module, where: Where = "all") -> Sites:
    """Returns the sites of ``model`` that ``where`` names: roles, full names, or patterns such as ``blocks.*.attn.qkv``.

    Nothing is changed. Layers that the model's forward neither calls nor reads are left out. ``find(model, "all")`` also
    lists, in ``.left``, every parameter that no role reaches, and why: tokens, position tables, spare layers.

    Raises:
        SiteError: a name in ``where`` is neither a role nor matches any module.

    >>> import petl, timm
    >>> model = timm.create_model("test_vit")
    >>> [site.name for site in petl.find(model, "blocks.*.attn.qkv")]
    ['blocks.0.attn.qkv', 'blocks.1.attn.qkv', 'blocks.2.attn.qkv', 'blocks.3.attn.qkv', 'blocks.4.attn.qkv', 'blocks.5.attn.qkv']
    """
    survey = survey_model(model)
    sites = select(survey, where)
    return Sites(sites, unreached(survey)) if where == "all" else sites


def select(survey: Survey, where: Where) -> Sites:
    """Does what ``find`` does, on a survey; a role without sites gives an empty list, an unknown name a SiteError."""
    everything = all_sites(survey)
    names = [where] if isinstance(where, str) else list(where)
    chosen = [site for name in names for site in _matching(everything, name)]
    return Sites(sorted(dict.fromkeys(chosen), key=lambda site: site.order))


def _matching(everything: Sites, name: str) -> list[Site]:
    if name == "all":
        return [site for site in everything if site.roles]
    if name in ROLES:
        return [site for site in everything if name in site.roles]
    matched = [site for site in everything if fnmatch.fnmatchcase(site.name, name)]
    if not matched:
        raise SiteError(
            f"where={name!r} is no role ({', '.join(ROLES)}) and matches no module that runs{_hint(everything, name)}; "
            f"print(petl.find(model)) lists the places"
        )
    return matched


def _hint(everything: Sites, name: str) -> str:
    """Near names; for the last part of names, the pattern that takes them all."""
    if any(site.name.endswith(f".{name}") for site in everything):
        return f"; near names: '*.{name}' (names are full ones)"
    return near(name, [*ROLES, *(site.name for site in everything)])

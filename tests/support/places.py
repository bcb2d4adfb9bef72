"""The names of places in models of the zoo, as petl.find tells them."""

from __future__ import annotations

import functools

from torch import nn

import petl
from tests.support.zoo import make


def names(model: nn.Module, where: petl.Where) -> list[str]:
    return [site.name for site in petl.find(model, where)]


@functools.cache
def everything(name: str) -> petl.Sites:
    return petl.find(make(name), "all")


def playing(name: str, role: str) -> set[str]:
    """Names of the zoo model's sites that play this role, out of one survey for all tests."""
    return {site.name for site in everything(name) if role in site.roles}

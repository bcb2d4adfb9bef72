"""Builds what words on a command line name: methods with their options, backbones, and deltas on their backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petl.cli.key_values import parse_pairs
from petl.errors import DeltaError, MethodError, PetlError, StateError, near
from petl.wrapping import named_backbones
from petl.wrapping.named_backbones import DEMO, existing_file, name_and_file

if TYPE_CHECKING:
    from torch import nn

    from petl.methods.method import Method


def build_methods(
    names: Sequence[str] | None, settings: Sequence[str] | None, model: nn.Module | None = None, **common: Any
) -> list[Method]:
    """Returns the methods of these names, each with those of the options that it has; without names the best ones for a model.

    >>> build_methods(["input", "lora"], ["lora.alpha=16"], rank=4, in_chans=1)
    [Input(where='stem', in_chans=1, bias=False), LoRA(where=('linear', 'conv'), rank=4, alpha=16, ...)]
    """
    options = _named_options(names or ["best"], model)
    for key, value in {**{k: v for k, v in common.items() if v is not None}, **parse_pairs(settings)}.items():
        for name in _methods_with_option(key, list(options)):
            options[name][key.rpartition(".")[2]] = value
    return [_build_method(name, values) for name, values in options.items()]


def _named_options(names: Sequence[str], model: nn.Module | None) -> dict[str, dict[str, Any]]:
    """Returns the options of methods by name before the user's: of "best" those of its methods, of others none."""
    from petl.methods.default import best_methods, option_values

    options: dict[str, dict[str, Any]] = {}
    for name in names:
        recipe = best_methods(model) if name == "best" and model is not None else ()
        options |= {one.name: option_values(one) for one in recipe if one.name not in (*names, *options)}
        options |= {name: {}} if not recipe else {}
    return options


def _methods_with_option(key: str, names: list[str]) -> list[str]:
    """Returns the names of the methods that have the option."""
    from petl.methods.registry import method_class

    owner, _, option = key.rpartition(".")
    asked = [name for name in names if owner in ("", name.partition(":")[0])]
    known = {name: [f.name for f in dataclasses.fields(method_class(name.partition(":")[0]))] for name in asked}
    matching = [name for name in asked if option in known[name] or ":" in name]  # peft:LoHa knows its own options
    if not matching:
        fields = [field for each in known.values() for field in each]
        raise MethodError(f"no option {key!r} in {', '.join(names)}{near(option, fields)}; petl methods lists them")
    return matching


def _build_method(name: str, options: Mapping[str, Any]) -> Method:
    from petl.methods.registry import resolve

    try:
        return resolve(name, options)[0]
    except TypeError as error:  # such as text where a number belongs
        raise MethodError(f"{name} can't have {dict(options)}: {error}") from error


def named_backbone(text: str, args: Mapping[str, Any], *, pretrained: bool = True) -> nn.Module:
    """Returns the timm model ``NAME`` with the weights that timm fetches, ``NAME:FILE`` with those of a file, or ``demo``.

    A file without a classifier gives a model without one.
    """
    if text == DEMO:
        from petl.demo import lite0

        if args:
            raise MethodError(
                f"--model {DEMO} is ready-made, and can't have {', '.join(args)}; name the network: NAME:FILE"
            )
        return lite0()
    if pretrained or name_and_file(text)[1]:
        return named_backbones.create_any_head(text, args)
    return named_backbones.create_backbone(text, args, pretrained=False)


def weights_file(model: str | None) -> list[str]:
    """Returns the weights file in ``NAME:FILE`` or ``:FILE`` as a list, which is empty where there is none."""
    return [file] if model and (file := name_and_file(model)[1]) else []


def load_delta(delta: str | Path, model: str | None, trust_remote: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the delta on its backbone, in evaluation mode, and its header.

    ``model`` replaces the header's backbone. ``trust_remote``: the header's may be one that only the hub or a folder has.
    """
    from petl.delta.load import load, read

    header = read(existing_file(delta))
    base = _asked_base(model, delta, header["backbone"], trust_remote) if model else None
    try:
        return load(delta, base, trust_remote=trust_remote).eval(), header
    except PetlError as error:
        raise type(error)(f"{error}" if model else f"{error}; or give the weights: --model NAME:FILE") from error


def _refuse_untrusted(delta: str | Path, recorded: Mapping[str, Any], trust_remote: bool) -> None:
    """Raises a DeltaError where timm would look for the recorded backbone's configuration outside timm, unasked."""
    from petl.format.backbone_values import is_remote

    if is_remote(recorded) and not trust_remote:
        raise DeltaError(
            f"{delta} names the backbone {recorded['name']!r}, which is outside timm; pass --trust-remote if you trust whoever "
            f"wrote the file, or name the backbone: --model NAME:FILE"
        )


def named_base(model: str | None, deltas: Sequence[str | Path], trust_remote: bool = False) -> nn.Module | None:
    """Returns the backbone that a ``--model`` of a command on deltas names; None where the deltas say it themselves."""
    from petl.delta.load import read

    if not model:
        return None
    if not deltas:
        return _base_for_delta(model, {})
    return _asked_base(model, deltas[0], read(existing_file(deltas[0]))["backbone"], trust_remote)


def _asked_base(model: str, delta: str | Path, recorded: Mapping[str, Any], trust_remote: bool) -> nn.Module:
    """Returns the backbone that a ``--model`` names, with the arguments in the delta's header; ``:FILE`` takes its name too."""
    if model.startswith(":"):
        _refuse_untrusted(delta, recorded, trust_remote)
        model = f"{recorded['name']}{model}"
    return _base_for_delta(model, recorded.get("args", {}))


def _base_for_delta(model: str, args: Mapping[str, Any]) -> nn.Module:
    """Returns the backbone of this name for a delta, whose own classifier stands in for one that a weights file hasn't."""
    from petl.wrapping.backbone_size import refuse_huge

    if model == DEMO:
        return named_backbone(model, {})
    name, _ = name_and_file(model)
    try:  # the arguments come from the file, whoever wrote it; of a name outside timm nothing is known
        refuse_huge(name, args, 0)
    except Exception as error:
        if ":" not in name:
            raise StateError(f"timm can't build {name} with the delta's arguments: {str(error)[:300]}") from error
    return named_backbones.create_any_head(model, args)

"""What the words on a command line stand for: methods with their options, backbones, files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from petl.errors import ITEM, MethodError, PetlError, StateError, near, printable, shortened

if TYPE_CHECKING:  # torch and timm take seconds, which `petl --help` needn't: functions bring what they need
    from torch import nn

    from petl.methods.method import Method

Delta = Annotated[Path, typer.Argument(metavar="DELTA", help="A delta file.")]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="A folder of class folders, or of train and val; a tar; torch/cifar10 ...")
]
Methods = Annotated[list[str] | None, typer.Option("--method", "-m", help="A method; give it again to combine. [lora]")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A method's option: KEY=VALUE or METHOD.KEY=VALUE.")]
Rank = Annotated[int | None, typer.Option(help="The same as --set rank=N.")]
Last = Annotated[int | None, typer.Option(help="The same as --set last=N (blocks).")]
Channels = Annotated[int | None, typer.Option("--in-chans", help="The same as --set in_chans=N.")]
Create = Annotated[list[str] | None, typer.Option("--arg", help="KEY=VALUE for timm.create_model: img_size=98 ...")]
Base = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Backbone NAME, NAME:WEIGHTS_FILE or :WEIGHTS_FILE. [the delta's, with weights that timm fetches]",
    ),
]
Count = Annotated[int, typer.Option(min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reading = Annotated[
    list[str] | None,
    typer.Option("--data", help="KEY=VALUE for how images are read: crop_pct=1, augment=false, class_from=path ..."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at an image that can't be read, instead of leaving it out.")
]

SAID = 400  # characters of what timm says: of wrong weights it names every tensor
SOURCES = ("hf-hub", "hf_hub", "local-dir")  # timm's prefixes of names, which have a colon of their own


def existing(path: str | Path) -> Path:
    """The path of a file that is there, or an error."""
    if not Path(path).is_file():
        raise StateError(f"no such file: {path}")
    return Path(path)


def pairs(words: Sequence[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` words as a dict; values are JSON where they can be, lists at commas, else text.

    >>> pairs(["rank=8", "where=linear,conv", "dora=true", "slices=qv"])
    {'rank': 8, 'where': ['linear', 'conv'], 'dora': True, 'slices': 'qv'}
    """
    split = [word.partition("=") for word in words or ()]
    for key, equals, _ in split:
        if not key or not equals:
            raise MethodError(f"got {shortened(key, ITEM)!r}; expected KEY=VALUE, such as rank=8")
    return {key: _value(text) for key, _, text in split}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return [_value(part) for part in text.split(",")] if "," in text else text


def keywords(function: Callable[..., Any], words: Sequence[str] | None, but: Sequence[str] = ()) -> dict[str, Any]:
    """``KEY=VALUE`` words as keyword arguments of ``function``, without those of ``but``, which have words of their own."""
    hints = {key: hint for key, hint in get_type_hints(function).items() if key not in (*but, "return")}
    return typed(function.__name__, hints, pairs(words))


def typed(name: str, hints: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values, if they are options of ``name`` and of their types."""
    for key, value in values.items():
        if key not in hints:
            raise MethodError(f"{name} has no option {key!r}{near(key, hints)}; it has {', '.join(hints)}")
        if not _fits(value, hints[key]):
            said = shortened(printable(_written(value)), ITEM)
            raise MethodError(f"{key}={said} can't be; expected {_spelt(hints[key])}")
    return values


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value is of the type; what a command line can't spell is left to the function."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    if hint is Mapping:
        return isinstance(value, dict)
    inner = [one for one in get_args(hint) if one in (int, float)]  # of a sequence of numbers
    good = isinstance(value, list) and all(_fits(part, inner[0]) for part in (value if inner else ()))
    return hint is Any or ((get_origin(hint) or hint) is Sequence and good)


def _spelt(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_spelt(one) for one in get_args(hint) if one is not type(None)))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    if hint is Mapping:
        return "options such as augment.hflip=0"
    numbers = any(one in (int, float) for one in get_args(hint))
    return plain.get(hint, f"{'numbers' if numbers else 'values'} with commas between them")


def chosen(names: Sequence[str] | None, settings: Sequence[str] | None, **common: Any) -> list[Method]:
    """The methods of these names, each with those of the options that it has.

    >>> chosen(["input", "lora"], ["lora.alpha=16"], rank=4, in_chans=1)
    [Input(where='stem', in_chans=1, bias=False), LoRA(where=('linear', 'conv'), rank=4, alpha=16, ...)]
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in names or ["lora"]}
    for key, value in {**{k: v for k, v in common.items() if v is not None}, **pairs(settings)}.items():
        for name in _takers(key, list(options)):
            options[name][key.rpartition(".")[2]] = value
    return [_made(name, values) for name, values in options.items()]


def _takers(key: str, names: list[str]) -> list[str]:
    """Which of the methods the option is for."""
    from petl.methods.registry import method_class

    owner, _, option = key.rpartition(".")
    mine = [name for name in names if owner in ("", name.partition(":")[0])]
    known = {name: [f.name for f in dataclasses.fields(method_class(name.partition(":")[0]))] for name in mine}
    takers = [name for name in mine if option in known[name] or ":" in name]  # peft:LoHa knows its own options
    if not takers:
        fields = [field for each in known.values() for field in each]
        raise MethodError(f"no option {key!r} in {', '.join(names)}{near(option, fields)}; petl methods lists them")
    return takers


def _made(name: str, options: Mapping[str, Any]) -> Method:
    from petl.methods.registry import resolve

    try:
        return resolve(name, options)[0]
    except TypeError as error:  # such as text where a number belongs
        raise MethodError(f"{name} can't have {dict(options)}: {error}") from error


def backbone(text: str, args: Mapping[str, Any], *, pretrained: bool = True) -> nn.Module:
    """The timm model ``NAME`` with the weights that timm fetches, or ``NAME:FILE`` with those of a checkpoint file."""
    import timm

    name, file = name_and_file(text)
    overlay = (
        {"file": str(existing(file))} if file else None
    )  # timm's road for pretrained weights also resizes positions
    try:
        return timm.create_model(name, pretrained=bool(pretrained or file), pretrained_cfg_overlay=overlay, **args)
    except Exception as error:  # timm raises whatever the hub's client, the network or the file raise
        hint = "" if name in timm.list_models() else near(name, timm.list_models())
        where = "; to use weights from a file: NAME:FILE" if pretrained and not file else ""
        said = shortened(" ".join(str(error).split()), SAID)
        raise StateError(f"timm can't build {shortened(text, ITEM)}: {said}{hint}{where}") from error


def name_and_file(text: str) -> tuple[str, str]:
    """Name and file; names such as ``hf-hub:owner/name`` keep their own colon."""
    name, _, rest = text.partition(":")
    if name not in SOURCES:
        return name, rest
    inner, _, file = rest.partition(":")
    return f"{name}:{inner}", file


def weights_file(model: str | None) -> list[str]:
    """The weights file in ``NAME:FILE`` or ``:FILE``, as a list of one, or of none."""
    return [file] if model and (file := name_and_file(model)[1]) else []


def loaded(delta: str | Path, model: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """The delta on its backbone, ready to use, and the delta's header; ``model`` replaces the header's backbone."""
    from petl.delta.delta import load, read

    header = read(existing(delta))
    recorded = header["backbone"]
    if model and model.startswith(":"):
        model = f"{recorded['name']}{model}"
    base = backbone(model, recorded.get("args", {})) if model else None
    try:
        return load(delta, base).eval(), header
    except PetlError as error:
        raise type(error)(f"{error}" if model else f"{error}; or give the weights: --model NAME:FILE") from error

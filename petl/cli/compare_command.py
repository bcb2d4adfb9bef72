"""``petl compare``: which method, with which learning rates, suits a backbone and some images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petl.cli.arguments import (
    CreateOption,
    DataArgument,
    DataOption,
    JsonOption,
    OverwriteOption,
    PositiveInt,
    SetOption,
)
from petl.cli.data_options import DATASET, PIPELINE, TRAINING, DataKeywords, data_keywords, refuse_two_sizes
from petl.cli.key_values import parse_pairs
from petl.cli.models import build_methods, named_backbone, weights_file
from petl.cli.phrases import findings_text
from petl.cli.terminal import say
from petl.errors import MethodError

if TYPE_CHECKING:
    from torch import nn

    from petl.methods.method import Method

COMBINED = "+"  # between methods that train together


def compare_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Backbone NAME or NAME:WEIGHTS_FILE.")],
    data: DataArgument,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="One to compare; again for more; norm+lora combines. [a short list]"),
    ] = None,
    settings: SetOption = None,
    seconds: Annotated[float, typer.Option(help="About how long it may take; 0 for no limit.")] = 600,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the last rung. [as many as suit the images]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the finalists.")] = 3,
    images: Annotated[int | None, typer.Option(min=1, help="At most so many images to choose by. [all]")] = None,
    objective: Annotated[
        str | None, typer.Option(help="What the targets mean: multilabel, regression. [what DATA has, else classes]")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="How far behind the best the winner may be: 0.01. [one standard error]")
    ] = None,
    batch_size: PositiveInt = 32,
    args: CreateOption = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images. [the backbone's]")] = None,
    reading: DataOption = None,
    folder: Annotated[str | None, typer.Option(help="Keeps deltas and progress: again, it goes on from there.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that train, each with its share of the cores.")] = 1,
    seed: int = 0,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write the comparison to a .json file.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods and learning rates by short trainings of all and longer ones of the best."""
    import petl
    from petl.cli.outputs import new_file, write_text
    from petl.findings import as_text

    said = data_keywords(reading, known=PIPELINE | DATASET | TRAINING)
    path = new_file(out, inputs=[data, *weights_file(model)], overwrite=overwrite) if out else None
    net = named_backbone(model, parse_pairs(args))
    options: dict[str, Any] = {"epochs": epochs, "seeds": seeds, "images": images, "objective": objective, "seed": seed}
    options |= {"margin": margin, "batch_size": batch_size, "folder": folder}
    images_of = _images(data, net, said, size)
    methods = compared_methods(method, settings, net)
    with _processes(jobs) as executor:
        found = petl.compare(net, images_of, methods, seconds or None, executor=executor, **options)
    if path is not None:
        write_text(path, as_text(found))
    say(findings_text(found, as_json))


def _images(data: str, net: nn.Module, said: DataKeywords, size: int | None) -> Any:
    """Returns the dataset, or the pair of datasets where DATA has its own validation or test images."""
    import petl
    from petl.data.own_parts import own_parts

    refuse_two_sizes(size, said)
    pipeline = petl.data.pipeline(net, **{"size": size, **said.pipeline})
    train, rest = own_parts(data, pipeline, **said.dataset, **said.training)
    return train if rest is None else (train, rest)


def compared_methods(
    names: Sequence[str] | None, settings: Sequence[str] | None, model: nn.Module
) -> Mapping[str, list[Method]] | None:
    """Returns the methods to compare by name, each with those of the options that it has; None for petl's short list.

    Raises:
        MethodError: an unknown method, or an option that none of them has.
    """
    if not names:
        if settings:
            raise MethodError(f"--set {settings[0]} needs --method, which says what to compare")
        return None
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MethodError(f"--method {twice} twice; to combine methods write norm{COMBINED}lora")
    taken = {name: [pair for pair in settings or () if _takes(name, pair, model)] for name in names}
    if unused := next((pair for pair in settings or () if not any(pair in pairs for pairs in taken.values())), None):
        build_methods(names[0].split(COMBINED), [unused], model)  # it raises the error that says what there is
    return {name: build_methods(name.split(COMBINED), pairs, model) for name, pairs in taken.items()}


def _takes(name: str, pair: str, model: nn.Module) -> bool:
    """Returns whether one of the methods in a name has the option."""
    build_methods(name.split(COMBINED), None, model)  # an unknown method is refused as such
    try:
        build_methods(name.split(COMBINED), [pair], model)
    except MethodError:
        return False
    return True


@contextlib.contextmanager
def _processes(jobs: int) -> Iterator[Any]:
    """Yields a pool of processes that share the cores, or None for one job."""
    if jobs == 1:
        yield None
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool

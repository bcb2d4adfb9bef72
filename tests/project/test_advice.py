"""Every line of code that a message of petl's advises is a line that works: all are collected from the source and run.

A new message with code in it needs a row in `LINES`, which says in which state the line is run.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.optim  # as it is where a message speaks of it
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn
from torch.utils.data import TensorDataset

import petl
from petl.cli import app
from petl.data.readers import FOLDER_OPTIONS
from petl.data.table_columns import OPTIONS
from petl.errors import PetlError
from petl.methods.peft_fields import KNOWN_FIELDS

ROOT = Path(petl.__file__).parent
START = re.compile(r"(?:print\()?(?:petl|timm|torch)(?:\.\w+)+\(")
HOLE = "{}"  # what a message fills in


def strings(path: Path) -> Iterator[str]:
    """The texts in a file, f-strings with `HOLE` for what they fill in, but no docstrings."""
    tree = ast.parse(path.read_text())
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, scopes) and isinstance(n.body[0], ast.Expr)}
    inner = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(p.value if isinstance(p, ast.Constant) else HOLE for p in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inner:
            yield node.value


def lines_in(text: str) -> Iterator[str]:
    """The calls in a text, each up to the bracket that closes it."""
    place = 0
    while start := START.search(text, place):
        depth, place = 0, start.end()
        for end in range(start.start(), len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if not depth and text[end] == ")":
                yield text[start.start() : end + 1]
                place = end
                break


FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.name not in ("app.py", "arguments.py", "delta_commands.py", "__init__.py", "cost_facts.py", "card_text.py")
]
# lines that wait for a network, for a person or for half a minute; the tests of their rooms run them with other values
RUN_ELSEWHERE = {
    "petl.export(model, 'model.onnx')",  # tests/exchange/test_export.py
    "petl.extend(model, data)",  # tests/combining/test_extend.py
    "petl.read(address)",  # tests/addresses/test_local_file.py
    "petl.serve({}, model)",  # tests/serving/test_serve.py
    "petl.serve(folder, \\1)",  # what the server makes of petl.load(path, model)
    "petl.serve(folder, model)",
    "petl.start((train, val))",  # tests/start/test_start.py
    "timm.create_model('NAME', pretrained=True)",
    "petl.to_peft(petl.load('delta.safetensors'), folder)",  # tests/exchange/test_to_peft.py
    "petl.to_peft(petl.load('delta.safetensors', base_dtype=None), folder)",
    "timm.create_model({}, pretrained=True{})",  # the beginning of an example that PeftAdapter prints
}
FOUND = sorted({line for path in FILES for text in strings(path) for line in lines_in(text)} - RUN_ELSEWHERE)


# ------------------------------------------------------------------------------------------------ the states


def base() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=2)


@pytest.fixture
def state(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Names that the advised lines use, "model" among them: "plain" or "wrapped", or such a model "inside" another."""

    def make(kind: str) -> dict[str, Any]:
        pairs = TensorDataset(torch.randn(4, 3, 64, 64), torch.arange(4) % 2)
        folder = tree(tmp_path / "pets", *(f"{s}/{c}/1.png" for s in ("train", "test") for c in ("cat", "dog")))
        wrapped = petl.wrap(base(), "lora")
        petl.record(wrapped).labels = ["cat", "dog"]
        names = {
            "petl": petl,
            "timm": timm,
            "torch": torch,
            "train": pairs,
            "val": pairs,
            "data": pairs,
            "name": "test_resnet",
            "batch": pairs.tensors[0],
            "dataset": pairs,
            "numbers": [0, 1],
        }
        names |= {"path": petl.save(wrapped, tmp_path / "delta.safetensors"), "folder": folder, "names": ["cat", "dog"]}
        names |= {"transform": lambda image: image, "updates": 4}
        names["groups"] = [{"params": [nn.Parameter(torch.zeros(1))]}]
        names["optimizer"] = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        names |= {"data": folder, "paths": [f"{folder}/train/{name}/1.png" for name in names["names"]]}
        names["table"] = [{"path": path, "label": "cat", "split": "train"} for path in names["paths"]]
        model = wrapped if "wrapped" in kind else base()
        model = nn.ModuleDict({"part": model, "own": nn.Linear(2, 2)}) if "inside" in kind else model
        correction = {"source": [0.5, 0.5], "target": [0.2, 0.8], "bias": [0.0, 0.0], "scale": 1.0}
        names["shift"] = {"verdict": "classes", "classes": names["names"], "correction": correction}
        if "corrected" in kind:
            petl.correct(wrapped, names["shift"])
        names |= {"copy": copy, "device": torch.device("cpu"), "a": wrapped, "b": copy.deepcopy(wrapped)}
        return {**names, "model": model, "base": base()}

    return make


# line -> (state in which it is run, values for its holes)
LINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "petl.BN(stats='adapt')": ("plain", ()),
    "petl.LoRA(rank=16)": ("plain", ()),
    "petl.Multilabel(absent='keep')": ("plain", ()),
    "petl.Multilabel(pos_weight='balanced')": ("plain", ()),
    "petl.Probe(layers='all')": ("plain", ()),
    "petl.Probe(solver='ridge')": ("plain", ()),
    "petl.Probe(solver='sgd')": ("plain", ()),
    "petl.Probe(solver={})": ("plain", ("'lda'",)),
    "petl.Regression()": ("plain", ()),
    "petl.Regression(loss='quantile', quantiles=(0.1, 0.5, 0.9))": ("plain", ()),
    "petl.Input(in_chans={})": ("plain", ("4",)),
    "petl.Tasks(model)": ("plain", ()),
    "petl.combine([a, b])": ("plain", ()),
    "torch.nn.Parameter(torch.zeros({}))": ("plain", ("2",)),
    "petl.check(model, batch, 'lora')": ("plain", ()),
    "petl.correct(model, None)": ("wrapped, corrected", ()),
    "petl.correct(model, shift)": ("wrapped", ()),
    "petl.data.dataset(data, petl.data.pipeline(model), training=True)": ("plain", ()),
    "petl.data.dataset(folder, petl.data.pipeline(model))": ("plain", ()),
    "petl.data.dataset(folder, petl.data.pipeline(model), classes=names)": ("plain", ()),
    "petl.data.dataset(folder, petl.data.pipeline(model), classes=petl.record(model).labels)": ("wrapped", ()),
    "petl.data.dataset({}, petl.data.pipeline(model){})": ("plain", ("folder", ", split='test'")),
    "petl.data.dataset(paths, petl.data.pipeline(model), labels=names)": ("plain", ()),
    "petl.data.dataset(table, petl.data.pipeline(model), split='train')": ("plain", ()),
    "petl.data.dataset(folder, petl.data.pipeline(model), transform=transform)": ("plain", ()),
    "petl.data.dataset({}, petl.data.pipeline(model), split='.')": ("plain", ("f'{folder}/train'",)),
    "petl.data.pipeline(model)": ("plain", ()),
    "petl.data.pipeline(model, frame='middle')": ("plain", ()),
    "petl.data.pipeline(model, window=(40, 400))": ("plain", ()),
    "petl.evaluate(model, data)": ("plain", ()),
    "petl.find(model, 'block')": ("plain", ()),
    "petl.fit(model, train, val, patience=3)": ("wrapped", ()),
    "petl.fit(model, train)": ("wrapped", ()),
    "petl.fit(model, train, lr={}, epochs={}, cycles={}, batch_size={})": ("wrapped", ("'x1'", "1", "(1,)", "4")),
    "petl.load(path, model)": ("plain", ()),
    "petl.load(path, model.{})": ("plain, inside", ("part",)),
    "petl.merge(model)": ("wrapped", ()),
    "petl.methods()": ("plain", ()),
    "petl.param_groups(model, lr=1e-3, layer_decay=0.75)": ("wrapped", ()),
    "petl.rebase(model)": ("wrapped", ()),
    "petl.rebase(model, base)": ("wrapped", ()),
    "petl.save(model, path, labels=names)": ("wrapped", ()),
    "petl.save(model.{}, path)": ("wrapped, inside", ("part",)),
    "petl.trainable(model)": ("wrapped", ()),
    "petl.wrap(model)": ("plain", ()),
    "petl.wrap(model, 'lora')": ("plain", ()),
    "petl.wrap(timm.create_model(name, num_classes=0), 'lora')": ("plain", ()),
    "petl.wrap(model, ['lora', 'peft:LoHa'])": ("plain", ()),
    "petl.wrap(model, [petl.Input(in_chans={}), 'lora'])": ("plain", ("4",)),
    "petl.unwrap(copy.deepcopy(model))": ("wrapped", ()),
    "petl.unwrap(model)": ("wrapped", ()),
    "print(petl.find(model))": ("plain", ()),
    "timm.create_model(name)": ("plain", ()),
    "timm.create_model(name, num_classes=0)": ("plain", ()),
    "timm.layers.convert_sync_batchnorm(model)": ("plain", ()),
    "timm.optim.list_optimizers()": ("plain", ()),
    "torch.optim.AdamW(groups)": ("plain", ()),
    "torch.save(model.state_dict(), path)": ("plain", ()),
    "torch.utils.data.Subset(dataset, numbers)": ("plain", ()),
    "torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=updates)": ("plain", ()),
}


def test_every_line_of_code_in_a_message_is_known_here() -> None:
    assert FOUND, "the collector finds nothing"
    missing = [line for line in FOUND if line not in LINES]
    assert not missing, f"give each of these a row in LINES, so that it is run: {missing}"


@pytest.mark.sweep(5)
@pytest.mark.parametrize("line", LINES)
def test_the_line_works(line: str, state: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    kind, values = LINES[line]
    names = state(kind)
    if "check" in line:  # slow on anything larger
        names |= {"model": timm.create_model("test_vit", img_size=32, depth=1), "batch": torch.randn(2, 3, 32, 32)}
    if "fit" in line:
        line = line.replace("patience=3", "patience=3, epochs=1")  # the same line, sooner
    for value in values:
        line = line.replace(HOLE, value, 1)
    exec(compile(line, "advice", "exec"), names)


# ------------------------------------------------------------------------------------------------ real messages


def tree(root: Path, *files: str) -> str:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 50).save(root / file)
    return str(root)


PICTURES = {
    "two readings": ("church/outdoor/1.png", "flat/outdoor/2.png"),
    "a class or a split": ("car/1.png", "train/2.png"),
    "several splits of a kind": ("Train1/cat/1.png", "Train1/dog/1.png", "Train2/cat/1.png"),
    "splits below classes": ("cat/train/1.png", "cat/test/1.png", "dog/train/1.png"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_folders_that_can_be_read_in_two_ways(case: str, tmp_path: Path) -> None:
    root, model = tree(tmp_path / "data", *PICTURES[case]), timm.create_model("test_resnet")
    with pytest.raises(PetlError) as error:
        petl.data.dataset(root, petl.data.pipeline(model))
    lines = list(lines_in(str(error.value)))
    assert lines, error.value
    for line in lines:
        assert len(eval(line, {"petl": petl, "model": model})) >= 1


@pytest.mark.sweep(1)
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_images_of_other_channels(channels: int, tmp_path: Path) -> None:
    """The advice of `petl.fit` for a model of three channels makes it take the images."""
    model = petl.wrap(timm.create_model("test_resnet"), "lora", num_classes=2)
    pairs = TensorDataset(torch.randn(4, channels, 64, 64), torch.arange(4) % 2)  # as images of that many bands
    with pytest.raises(PetlError, match=f"have {channels} channel") as error:
        petl.fit(model, pairs, epochs=1, lr=1e-3, progress=False)
    (line,) = lines_in(str(error.value))
    fresh = timm.create_model("test_resnet", num_classes=2)
    exec(line, {"petl": petl, "model": fresh})
    assert len(petl.fit(fresh, pairs, epochs=1, lr=1e-3, progress=False)) == 1


# ------------------------------------------------------------------------------------------------ words in messages


def known_words() -> set[str]:
    """The arguments of everything public, of the methods and of timm's functions that petl hands arguments to."""
    public = [getattr(petl, name) for name in petl.__all__] + [getattr(petl.data, name) for name in petl.data.__all__]
    calls = [c for c in public if inspect.isfunction(c) or dataclasses.is_dataclass(c)]
    calls += [petl.data.Images.part, petl.Tasks.add, timm.create_model, create_transform]
    words = {name for call in calls for name in inspect.signature(call).parameters}
    return (
        words
        | {field.name for cls in petl.methods().values() for field in dataclasses.fields(cls)}
        | {"modules_to_save", "path_initial_model_for_weight_conversion"}  # peft's
        | {"image"}  # the field of a form that petl serve takes
        | {"img_size", "frame", "window", "t_in_epochs", *FOLDER_OPTIONS, *OPTIONS, *KNOWN_FIELDS}
    )


def raised(path: Path) -> Iterator[str]:
    """The texts in ``raise`` statements."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_arguments_in_messages_exist() -> None:
    """``pass cache=False`` is no advice where there is no ``cache``."""
    words = known_words()
    pattern = re.compile(r"(?<![\w.\[{])([a-z_]{3,})=(?![=>])")
    odd = {
        (path.name, word)
        for path in FILES
        for text in raised(path)
        for word in pattern.findall(text)
        if word not in words
    }
    assert not odd


@pytest.mark.deep
def test_extras_in_messages_exist() -> None:
    text = (ROOT.parent / "pyproject.toml").read_text()
    extras = {e for path in FILES for string in strings(path) for e in re.findall(r"petl-vision\[(\w+)\]", string)}
    assert extras >= {"demo", "tiff"}
    assert all(re.search(rf"^{extra} = \[", text, re.MULTILINE) for extra in extras)


def test_options_in_messages_exist() -> None:
    import typer

    command: Any = typer.main.get_command(app.app)
    options = {opt for sub in command.commands.values() for p in sub.params for opt in (*p.opts, *p.secondary_opts)}
    asked = {o for path in sorted(ROOT.rglob("*.py")) for t in raised(path) for o in re.findall(r"(?<!\w)--[a-z-]+", t)}
    launch = {"--use", "--fsdp"}  # the beginnings of accelerate launch's
    assert asked - {"--help"} - launch <= options

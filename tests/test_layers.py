"""Imports go one way, and every method brings everything that a method has to bring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import petl.methods  # registers petl's own methods
from petl import method

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "petl"


def chain(base: set[str], *names: str) -> dict[str, set[str]]:
    """Each name may import what is in ``base`` and the names before it."""
    return {name: base | {*names[:i]} for i, name in enumerate(names)}


# module -> the modules of petl that it may import. A new file has to be given its place here.
GROUND = chain(set(), "errors", "tables", "version", "sharded")
SURGERY = GROUND | chain(
    {*GROUND},
    "kernels",
    "scratch",
    "adapted",
    "computed",
    "interrupts",
    "graft",
    "layout",
    "flow",
    "survey",
    "projections",
    "sites",
    "classifier",
    "remake",
    "rerun",
    "segment",
    "deferred",
    "mlp",
    "precision",
    "lean",
)
METHODS = chain({*SURGERY}, "method", "products", "methods")
WRAPPED = chain(
    {*SURGERY, "method"},
    "structure",
    "digest",
    "record",
    "groups",
    "frozen",
    "follow",
    "create_args",
    "header",
    "backbone",
    "install",
    "wrap",
    "inside",
    "fitting",
    "tensorfile",
    "deltafile",
    "delta",
    "summary",
    "check",
)
IMAGES = chain(
    {*GROUND, "record", "wrap"},
    "splits",
    "bands",
    "images",
    "tree",
    "readers",
    "datasets",
    "origins",
    "damage",
    "channel_statistics",
    "pipelines",
    "batches",
    "data",
)
LOOP = ("metrics", "runs", "checkpoint", "rehearsal", "settings", "launch", "logits", "loaders", "feed", "targets")
LOOP += ("entry", "steady", "cache", "depth", "upper", "features", "provenance", "road", "loop", "prepare", "train")
BELOW = {"graft", "structure", "digest", "record", "groups", "frozen", "header", "wrap", "tensorfile", "delta"}
TRAINING = chain({*GROUND, *IMAGES, *BELOW}, *LOOP)
LIBRARY = SURGERY | METHODS | WRAPPED | IMAGES | TRAINING
SPOKEN = ("terminal", "phrases", "arguments", "data_words", "answers", "outputs", "cli", "__main__")
TOP = chain({*LIBRARY}, "__init__", "demo", *SPOKEN)
LAYERS = LIBRARY | TOP
FILES = sorted(PACKAGE.rglob("*.py"))
BRIDGE = {"peft"}  # the way to another library's methods, none of its own: documented, without a recipe
OURS = sorted(
    n for n, cls in method.methods().items() if cls.__module__.startswith("petl.methods.") and n not in BRIDGE
)


def layer(path: Path) -> str:
    """The first part of the module's name below petl: all of ``methods/`` is one layer."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(layer, line) of everything that the file imports from petl, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = ["petl", *path.relative_to(PACKAGE).parent.parts]
            above = ".".join(here[: len(here) - node.level + 1]) + "." if node.level else ""
            names = [f"{above}{node.module or ''}".rstrip(".") + f".{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        yield from ((_module(p), node.lineno) for p in parts if p[0] == "petl")


def _module(parts: list[str]) -> str:
    """``petl.wrap.x`` is the module wrap; ``petl`` and ``petl.LoRA``, a public name, are ``__init__``."""
    here = PACKAGE / parts[1] if len(parts) > 1 else PACKAGE
    return parts[1] if here.with_suffix(".py").exists() or (here.is_dir() and len(parts) > 1) else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert layer(path) in LAYERS, f"{path.name} has no place in LAYERS: say what it may import"
    allowed = LAYERS[layer(path)] | ({"methods"} if layer(path) == "methods" else set())  # they share pieces
    wrong = [f"line {line} imports petl.{name}" for name, line in imports(path) if name not in allowed]
    assert not wrong, f"{path.relative_to(ROOT)} may import only {sorted(allowed)}: {'; '.join(wrong)}"


def test_the_house_page_names_every_file_in_this_order() -> None:
    rows = [
        line.split("|")[1] for line in (ROOT / "docs" / "house.md").read_text().splitlines() if line.startswith("| `")
    ]
    named = [name for row in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", row)]
    assert not {layer(path) for path in FILES} - {*named}, "give each new file its row in docs/house.md"
    assert named == list(LAYERS), "docs/house.md has another order than LAYERS, or names what is gone"


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    found = [path for path in FILES if path.stem in drawers]
    assert not found, f"{found}: give each function to the file whose idea it belongs to"


def test_the_methods_of_the_house_are_there() -> None:
    assert {"probe", "bn", "norm", "lora", "adapter", "input", "bias", "partial", "full"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_method_brings_its_file_recipe_and_docs(name: str) -> None:
    cls = method.methods()[name]
    wanted = {
        f"a first line in the docstring of {cls.__name__}": bool((cls.__doc__ or "").strip().split("\n")[0]),
        f"petl.{cls.__name__}": getattr(petl, cls.__name__, None) is cls,
        f"recipes/{name}.py": (ROOT / "recipes" / f"{name}.py").is_file(),
        f"a row `{name}` in README.md's table": f"| `{name}` |" in (ROOT / "README.md").read_text(),
    }
    missing = [what for what, there in wanted.items() if not there]
    assert not missing, f"method {name!r} lacks {', '.join(missing)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_a_method_file_is_imported_and_registers(path: Path) -> None:
    line = f"petl.methods.{path.stem}"
    registered = {cls.__module__ for cls in method.methods().values()}
    assert line in registered, f"{path.name} registers no method: is its import line missing in methods/__init__.py?"

"""Imports go one way, and every method brings everything that a method has to bring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import petl.methods  # noqa: F401  # registers petl's own methods
from petl import method

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "petl"

GROUND = {"errors", "version"}
SURGERY = GROUND | {"graft", "kernels", "survey", "sites"}
MODEL = SURGERY | {"method", "wrap"}
# module -> the modules of petl that it may import. A new file has to be given its place here.
LAYERS = {
    "errors": set(),
    "version": set(),
    "graft": GROUND,
    "kernels": GROUND | {"graft"},
    "survey": GROUND | {"graft", "kernels"},
    "sites": SURGERY - {"sites"},
    "method": SURGERY,
    "methods": SURGERY | {"method", "methods"},
    "wrap": SURGERY | {"method"},
    "delta": MODEL,
    "check": MODEL | {"delta"},
    "data": GROUND | {"wrap"},
    "train": GROUND | {"wrap", "delta", "data"},
    "demo": MODEL | {"delta", "check", "data", "train"},
    "cli": MODEL | {"methods", "delta", "check", "data", "train", "demo"},
    "__init__": MODEL | {"methods", "delta", "check", "data", "train"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
OURS = sorted(name for name, cls in method.registry().items() if cls.__module__.startswith("petl.methods."))


def layer(path: Path) -> str:
    """The first part of the module's name below petl: all of ``methods/`` is one layer."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(layer, line) of everything that the file imports from petl, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        yield from ((p[1] if len(p) > 1 else "__init__", node.lineno) for p in parts if p[0] == "petl")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert layer(path) in LAYERS, f"{path.name} has no place in LAYERS: say what it may import"
    allowed = LAYERS[layer(path)]
    wrong = [f"line {line} imports petl.{name}" for name, line in imports(path) if name not in allowed]
    assert not wrong, f"{path.relative_to(ROOT)} may import only {sorted(allowed)}: {'; '.join(wrong)}"


def test_the_layers_have_no_cycle() -> None:
    """What LAYERS allows is itself one-way, so that the test above means something."""
    rest = {name: allowed - {name} for name, allowed in LAYERS.items()}
    while rest:
        bottom = {name for name, allowed in rest.items() if not allowed}
        assert bottom, f"LAYERS allows a cycle among {sorted(rest)}"
        rest = {name: allowed - bottom for name, allowed in rest.items() if name not in bottom}


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    found = [path for path in FILES if path.stem in drawers]
    assert not found, f"{found}: give each function to the file whose idea it belongs to"


def test_the_methods_of_the_house_are_there() -> None:
    assert {"probe", "bn", "norm", "lora", "adapter", "input", "bias", "partial", "full"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_method_brings_its_file_recipe_and_docs(name: str) -> None:
    cls = method.registry()[name]
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
    registered = {cls.__module__ for cls in method.registry().values()}
    assert line in registered, f"{path.name} registers no method: is its import line missing in methods/__init__.py?"

"""Imports go one way, and every method brings everything that a method has to bring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import petl.methods  # registers petl's own methods
from petl.methods import registry

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "petl"

# room or top-level file -> what it may import of petl besides itself. Rooms further down in this table are never imported.
GROUND = {"errors", "version", "tables"}
ROOMS = {
    "errors": set(),
    "version": set(),
    "tables": {"errors"},
    "evidence": GROUND,
    "heads": GROUND | {"evidence"},
    "kernels": GROUND,
    "graft": GROUND | {"kernels"},
    "sites": GROUND | {"kernels", "graft"},
    "memory": GROUND | {"kernels", "graft", "sites"},
    "methods": GROUND | {"kernels", "graft", "sites"},
    "format": GROUND,
    "wrapping": GROUND | {"graft", "sites", "memory", "methods", "format"},
    "delta": GROUND | {"graft", "sites", "memory", "methods", "format", "wrapping"},
    "data": GROUND | {"graft", "wrapping"},
    "extraction": GROUND | {"graft", "sites", "wrapping", "data"},
    "inspection": GROUND | {"graft", "sites", "memory", "methods", "wrapping", "delta"},
    "training": GROUND | {"format", "wrapping", "delta", "data", "extraction"},
}
ROOMS |= {top: {*ROOMS, "demo", "cli", "__init__"} for top in ("__init__", "demo", "cli", "__main__")}
FILES = sorted(PACKAGE.rglob("*.py"))
# files of petl/methods that hold no method of their own
NO_METHODS = {"method", "foreign", "registry", "statistics", "lora_weights", "lora_slices", "peft_fields"}
NO_METHODS |= {"peft_copies", "peft_merging"}
BRIDGE = {"peft"}  # the way to another library's methods, none of its own: documented, without a recipe
OURS = sorted(
    n for n, cls in registry.methods().items() if cls.__module__.startswith("petl.methods.") and n not in BRIDGE
)


def room(path: Path) -> str:
    """The first part of the module's name below petl."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """(room, module, line) of everything that the file imports from petl, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: imports say the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        yield from ((*_module(p), node.lineno) for p in parts if p[0] == "petl")


def _module(parts: list[str]) -> tuple[str, str]:
    """``petl.wrapping.wrap.x`` is of the room wrapping and the file wrap; ``petl.LoRA``, a public name, of ``__init__``."""
    here = PACKAGE / parts[1] if len(parts) > 1 else PACKAGE
    if here.is_dir() and len(parts) > 1:
        return parts[1], parts[2] if len(parts) > 2 and (here / f"{parts[2]}.py").exists() else "__init__"
    return (parts[1], "") if here.with_suffix(".py").exists() else ("__init__", "")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert room(path) in ROOMS, f"{path.name} has no place in ROOMS: say what its room may import"
    allowed = ROOMS[room(path)] | {room(path)}
    wrong = [f"line {line} imports petl.{name}" for name, _, line in imports(path) if name not in allowed]
    assert not wrong, f"{path.relative_to(ROOT)} may import only {sorted(allowed)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("name", [name for name in ROOMS if (PACKAGE / name).is_dir()])
def test_the_files_of_a_room_import_each_other_without_a_circle(name: str) -> None:
    files = {path.stem: path for path in (PACKAGE / name).glob("*.py") if path.stem != "__init__"}
    graph = {stem: {file for where, file, _ in imports(path) if where == name} for stem, path in files.items()}
    left = {stem: needs & {*files} for stem, needs in graph.items()}
    while ready := [stem for stem, needs in left.items() if not needs & {*left}]:
        for stem in ready:
            del left[stem]
    assert not left, f"these import each other in a circle: {left}"


@pytest.mark.parametrize("name", [name for name in ROOMS if (PACKAGE / name).is_dir()])
def test_a_room_has_a_sign_and_tests(name: str) -> None:
    sign = ast.parse((PACKAGE / name / "__init__.py").read_text())
    assert ast.get_docstring(sign), f"petl/{name}/__init__.py says in a paragraph what is in the room"
    assert len(sign.body) == 1 or name in {"data", "methods"}, (
        "a sign imports nothing: only data and methods are public"
    )
    assert (ROOT / "tests" / name).is_dir(), f"tests/{name} mirrors petl/{name}"


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    found = [path for path in FILES if path.stem in drawers]
    assert not found, f"{found}: give each function to the file whose idea it belongs to"


def test_the_methods_of_the_house_are_there() -> None:
    assert {"probe", "bn", "norm", "lora", "adapter", "input", "bias", "partial", "full"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_method_brings_its_file_recipe_and_docs(name: str) -> None:
    cls = registry.methods()[name]
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
    if path.stem in NO_METHODS:
        return
    line = f"petl.methods.{path.stem}"
    registered = {cls.__module__ for cls in registry.methods().values()}
    assert line in registered, f"{path.name} registers no method: is its import line missing in methods/__init__.py?"

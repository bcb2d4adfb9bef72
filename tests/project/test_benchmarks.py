"""benchmarks/: imports without a circle, in one direction; short files; signs; command lines that exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(benchmarks.__file__).parent.parent
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
ROOMS = sorted(path.parent for path in FILES if path.name == "__init__.py" and path.parent.parent != ROOT)
SUPPORT = sorted((ROOT / "tests" / "support").glob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *sorted((ROOT / "docs").glob("*.md"))]
LINES, FUNCTION = 210, 25  # the longest file and function there are, but for these functions, which may only shrink
LONG_FUNCTIONS = {
    "benchmarks.fuzz.accidents": {"_one_accident"},
    "benchmarks.fuzz.watch": {"watching"},
    "benchmarks.guidance.combine": {"tasks", "extend"},
    "benchmarks.guidance.compare": {"main", "grid"},
}


def module(path: Path) -> str:
    """`benchmarks/speed/report.py` is `benchmarks.speed.report`, and an `__init__.py` its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what a file imports, also inside functions: a module, or a name in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute, so that a file can be searched for by its name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(files: dict[str, str]) -> dict[str, set[str]]:
    """For each module (name -> source) the others that it imports."""

    def owner(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    names = {one: {owner(name) for name in imported(ast.parse(text))} for one, text in files.items()}
    return {one: (found & files.keys()) - {one} for one, found in names.items()}


def in_circles(arrows: dict[str, set[str]]) -> set[str]:
    """The modules that are left when all that import nothing of what is left are taken away, again and again."""
    left = dict(arrows)
    while free := [one for one, found in left.items() if not found & left.keys()]:
        for one in free:
            del left[one]
    return {*left}


def test_a_circle_is_seen() -> None:
    files = {"a": "def f():\n    from b import g", "b": "import c", "c": "import a.x", "d": "import a"}
    assert in_circles(graph(files)) >= {"a", "b", "c"}
    assert not in_circles(graph({**files, "c": ""}))


def test_imports_have_no_circle() -> None:
    # a script beside a room of the same name (benchmarks/speed.py) only starts the room
    files = {module(path): path.read_text() for path in FILES if not path.with_suffix("").is_dir()}
    arrows = graph(files)
    assert arrows["benchmarks.coverage.worker"] >= {"benchmarks.coverage.trials"}
    assert not in_circles(arrows)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("petl", ("tests", "benchmarks", "recipes")), ("tests/support", ("benchmarks", "recipes"))],
)
def test_nothing_is_imported_the_other_way_round(folder: str, forbidden: tuple[str, ...]) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        wrong = [name for name in imported(ast.parse(path.read_text())) if name.split(".")[0] in forbidden]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_benchmarks_import_of_the_tests_their_support_alone() -> None:
    for path in FILES:
        names = [name for name in imported(ast.parse(path.read_text())) if name.split(".")[0] == "tests"]
        assert all(name.startswith("tests.support.") for name in names), f"{path.relative_to(ROOT)} imports {names}"


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_has_a_sign(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text())
    assert ast.get_docstring(tree) and len(tree.body) == 1, f"{room.name}/__init__.py says what is in it, and no more"


@pytest.mark.parametrize("path", [*FILES, *SUPPORT], ids=module)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES, f"{path.relative_to(ROOT)}: two files, for two subjects"
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= FUNCTION]
    long = sorted({*long} - LONG_FUNCTIONS.get(module(path), set()))
    assert not long, f"{path.relative_to(ROOT)}: {long} are over {FUNCTION} lines"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_in_documents_exist(page: Path) -> None:
    for name in re.findall(r"\bpython -m (benchmarks[\w.]*\w)", page.read_text()):
        found = importlib.util.find_spec(name)
        assert found, f"{page.name}: no {name}"
        assert not found.submodule_search_locations or importlib.util.find_spec(f"{name}.__main__"), (
            f"{name} can't be run"
        )

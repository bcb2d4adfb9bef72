"""What documents, comments, docstrings and tests name is there: files, modules, and names in modules.

The changelog may name what is gone.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("petl", "tests", "benchmarks", "recipes", "docs")
TEXTS = sorted(
    path
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", ".ci/run", "pyproject.toml")),
        *(path for folder in FOLDERS for end in ("py", "md") for path in (ROOT / folder).rglob(f"*.{end}")),
    )
    if path != Path(__file__)
)
FILE = re.compile(r"(?<![\w/.*<>-])(?:(?:petl|tests|benchmarks|recipes|docs)/[\w./]*\w|[\w/]*\w\.py)(?![\w*<>{-])")
DOTTED = re.compile(r"(?<![\w/.*<>-])(?:petl|benchmarks)(?:\.[A-Za-z_]\w*)+(?!\w)")
# words that stand for names: examples of what doesn't exist, files of the reader's, files that tests and docs write
EXAMPLES = {"utils.py", "script.py", "petl.wrapping.wrap.x"}
ENDS = {"safetensors", "py", "md", "json", "pth"}  # petl.safetensors is a file of the reader's


@cache
def names_of_files() -> frozenset[str]:
    files = [path.relative_to(ROOT) for folder in (*FOLDERS, ".ci") for path in (ROOT / folder).rglob("*")]
    parts = [path.parts for path in (*files, *(path.relative_to(ROOT) for path in ROOT.glob("*")))]
    return frozenset("/".join(part[start:]) for part in parts for start in range(len(part)))


@cache
def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one, or a field of a class."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if part in getattr(found, "__annotations__", ()):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def missing(text: str) -> list[str]:
    files = {match[0].removeprefix("/") for match in FILE.finditer(text)} - EXAMPLES
    dotted = {match[0] for match in DOTTED.finditer(text)} - EXAMPLES
    wrong = [name for name in files if name not in names_of_files()]
    return sorted([*wrong, *(name for name in dotted if name.rpartition(".")[2] not in ENDS and not is_there(name))])


def test_a_stale_name_is_seen() -> None:
    stale = "see petl/nowhere.py, nowhere.py, tests/nowhere, `petl.wrapping.nowhere` and benchmarks.nowhere"
    assert missing(stale) == sorted(
        ["petl/nowhere.py", "nowhere.py", "tests/nowhere", "petl.wrapping.nowhere", "benchmarks.nowhere"]
    )
    right = "see petl/graft/graft.py, graft/kinds.py, `petl.LoRA(rank=8)`, petl.Record.sites and benchmarks.speed"
    assert missing(right) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_there(path: Path) -> None:
    assert not (wrong := missing(path.read_text())), f"{path.relative_to(ROOT)} names what isn't there: {wrong}"

"""What installing and importing petl means."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import petl
from petl.methods.registry import method_class

ROOT = Path(__file__).parents[2]
DATA = ("petl/py.typed", "petl/ranking/published.csv.gz", "petl/report/page.css", "petl/report/page.js")
HEAVY = {"peft", "transformers", "sklearn", "scipy", "matplotlib", "accelerate", "torchmetrics", "typer"}


def run(code: str, *, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The code in a fresh interpreter that finds petl in ``path``."""
    return subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True)


@pytest.mark.deep
def test_import_is_cheap() -> None:
    """Beyond what timm loads itself, nothing heavy comes with ``import petl``."""
    every = "[getattr(petl, name) for name in petl.__all__]"
    done = run(f"import sys, timm; before = set(sys.modules); import petl; {every}; print(*set(sys.modules) - before)")
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "petl" in loaded
    assert not loaded & HEAVY


@pytest.mark.deep
def test_names_come_when_they_are_asked_for_and_are_all_there() -> None:
    """A function stays what its name says, though a module has the same one, and whatever was imported first."""
    code = """
import sys, petl
assert "torch" not in sys.modules
assert set(petl.__all__) <= set(dir(petl))
import petl.wrapping.wrap, petl.wrapping.record, petl.inspection.check, petl.inspection.summary, petl.training.fit
from petl import methods, save, wrap
assert callable(petl.wrap) and callable(petl.record) and callable(petl.check) and callable(methods)
assert wrap is sys.modules["petl.wrapping.wrap"].wrap and petl.training.fit.fit is petl.fit and petl.data.dataset
assert set(vars(sys.modules["petl.methods"])) > {"LoRA"}
names = {}
exec("from petl import *", names)
assert set(petl.__all__) <= set(names)
assert not hasattr(petl, "nothing") and not hasattr(petl, "_nothing")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.deep
def test_whoever_reads_a_delta_knows_the_methods() -> None:
    """Also without a public name of petl's having been used."""
    done = run(f"from {method_class.__module__} import {method_class.__name__} as of; print(of('lora').__name__)")
    assert done.stdout == "LoRA\n", done.stderr


def test_type_checkers_see_the_names_that_are_there() -> None:
    """The imports for type checkers, the list of public names and the table that finds them say the same."""
    tree = ast.parse((ROOT / "petl" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(seen) == set(petl.__all__)
    assert {name: f"petl.{home}" for name, home in petl._HOME.items()} | {"data": "petl"} == seen


def test_the_etl_package_in_the_same_folder_is_one_clear_error(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "petl", tmp_path / "petl", ignore=shutil.ignore_patterns("__pycache__"))
    assert run("import petl.errors", path=tmp_path).returncode == 0
    (tmp_path / "petl" / "transform").mkdir()
    done = run("import petl", path=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "petl-vision" in last and "ETL" in last and str(tmp_path) in last


@pytest.mark.deep
def test_a_wheel_has_every_file_and_finds_its_data(tmp_path: Path) -> None:
    """Also what isn't Python: the table of published results, the report's style and script, the mark of types."""
    pytest.importorskip("hatchling", reason="builds the wheel; it is in the extra `test`")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("petl/")}
        archive.extractall(tmp_path / "installed")
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "petl").rglob("*") if path.is_file()}
    assert names == {name for name in here if "__pycache__" not in name}
    assert {*DATA} == {name for name in names if not name.endswith(".py")}
    code = """
import sys
from petl.report.page import draw_page
from petl.ranking.published import published, published_source
print(sys.modules[draw_page.__module__].__file__, len(published()) > 1000, published_source()["date"])
"""
    done = run(code, path=tmp_path / "installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path)) and " True " in done.stdout


def test_data_files_are_there_and_hold_something() -> None:
    assert all((ROOT / name).stat().st_size > 1000 for name in DATA if name != "petl/py.typed")


def test_version_is_written_once() -> None:
    assert importlib.metadata.version("petl-vision") == petl.__version__
    assert f"## [{petl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(set(petl.__all__)) == sorted(petl.__all__)
    bare = [name for name in petl.__all__ if name != "Where" and not (getattr(petl, name).__doc__ or "").strip()]
    assert not bare, f"no docstring: {bare}"


def test_the_api_page_has_every_verb() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    named = {name for line in re.findall(r"<!-- api: (.*) -->", page) for name in line.split()}
    verbs = {name for name in petl.__all__ if name.islower() and not name.startswith("_") and name != "data"}
    assert not verbs - named, f"docs/api.md lacks {sorted(verbs - named)}"


@pytest.mark.parametrize("program", [[sys.executable, "-m", "petl"], [str(Path(sys.executable).parent / "petl")]])
def test_the_command_is_installed(program: list[str]) -> None:
    done = subprocess.run([*program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, petl.__version__), done.stderr

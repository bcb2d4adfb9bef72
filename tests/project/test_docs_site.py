"""The docs as they are shown: the API page from the docstrings, the pictures, the figures that scripts write."""

from __future__ import annotations

import html
import importlib
import inspect
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import petl
from petl.delta.header import SCHEMA

ROOT = Path(__file__).parents[2]
WIDE = 0.57  # of the font's size: the mean width of a character in wide fonts; in those of equal widths it is 0.6


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built docs; any warning is an error."""
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.deep
def test_examples_are_code(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)
        assert "<blockquote" not in text, page
        assert "&gt;&gt;&gt;" not in text, page
        assert ":func:" not in text and ":class:" not in text, page


@pytest.mark.deep
def test_headings_of_the_api_page_are_names_to_import(site: Path) -> None:
    page = (site / "api" / "index.html").read_text()
    names = re.findall(r'<h3 [^>]*class="doc doc-heading">\s*([\w.]+)', page)
    assert len(names) > 40 and all(name.startswith("petl.") for name in names), names
    importlib.import_module("petl.demo")  # the page says so
    for name in names:
        thing: Any = petl
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)
    pages = {f"petl.{cls.__name__}" for cls in _method_classes()}
    plain = {"petl.data", "petl.Where", "petl.__version__"}
    assert not {f"petl.{name}" for name in petl.__all__} - {*names} - pages - plain


def _method_classes() -> list[type]:
    classes = [getattr(petl, name) for name in petl.__all__]
    return [cls for cls in classes if inspect.isclass(cls) and cls.__module__.startswith("petl.methods.")]


@pytest.mark.deep
def test_every_argument_has_an_entry(site: Path) -> None:
    page = (site / "api" / "index.html").read_text()
    for name in ("val", "warmup_epochs", "cutmix", "memory", "results"):
        assert re.search(rf"<code[^>]*>\s*(<[^>]*>)*{name}(</[^>]*>)*\s*</code>", page), name


@pytest.mark.deep
def test_signatures_are_broken_into_lines(site: Path) -> None:
    """mkdocstrings has no formatter of its own: without one, a signature is one line that is cut off."""
    page = (site / "api" / "index.html").read_text()
    blocks = re.findall(r'<div class="[^"]*doc-signature[^"]*">(.*?)</div>', page, re.DOTALL)
    lines = [line for block in blocks for line in html.unescape(re.sub(r"<[^>]+>", "", block)).splitlines()]
    assert len(blocks) > 40 and max(map(len, lines)) <= 100


def test_docstrings_become_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("griffe", reason="needs the extra docs")
    monkeypatch.syspath_prepend(ROOT / "docs")
    markdown = importlib.import_module("docstrings").markdown
    text = "One.\n\n>>> f(1)  # doctest: +SKIP\n[1]\n\n>>> def g():\n...     return 2\n>>> g()\n2\n\nMore of :func:`f`."
    fenced = "One.\n\n```pycon\n>>> f(1)\n[1]\n\n>>> def g():\n...     return 2\n>>> g()\n2\n```\n\nMore of `f`."
    assert markdown(text) == fenced
    inside = "Example:\n    >>> f(1)\n    2\n\nAfter."
    assert markdown(inside) == "```pycon\n>>> f(1)\n2\n```\n\nAfter."
    several = (
        "Args:\n    a, b: first\n        line. c: other.\n    d: nothing: here. e: no\n\n"
        "Raises:\n    KeyError, OSError: both.\n"
    )
    each = (
        "Args:\n    a: first\n        line.\n    b: see `a`.\n    c: other.\n    d: nothing: here. e: no\n\n"
        "Raises:\n    KeyError: both.\n    OSError: both.\n"
    )
    assert markdown(several, ["a", "b", "c", "d"]) == each


@pytest.mark.parametrize("name", ["concepts", "speed"])
def test_words_in_pictures_do_not_overlap(name: str) -> None:
    _check_words(ElementTree.parse(ROOT / "docs" / "img" / f"{name}.svg").getroot())


def test_words_in_a_new_picture_of_the_speeds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.speed.picture import picture

    files = sorted((ROOT / "benchmarks" / "results" / "speed").glob("*.json"))
    results = [json.loads(file.read_text()) for file in files]
    assert picture(results[:3], tmp_path / "speed.svg")  # an odd number: one panel stays empty
    _check_words(ElementTree.parse(tmp_path / "speed.svg").getroot())


def _check_words(root: ElementTree.Element) -> None:
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    found = list(_words(root, _sizes(root)))
    assert len(found) > 10
    for text, (left, top, right, bottom) in found:
        assert left >= 0 and right <= width and top >= 0 and bottom <= height, f"{text!r} leaves the picture"
    for (one, a), (other, b) in itertools.combinations(found, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one!r} and {other!r} overlap: {a}, {b}"


def _sizes(root: ElementTree.Element) -> dict[str, float]:
    """Sizes of fonts by class, from the picture's style sheet."""
    sheet = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("style"))
    return {name: float(size) for name, size in re.findall(r"\.(\w+) \{[^}]*font-size: ([\d.]+)px", sheet)}


def _words(root: ElementTree.Element, sizes: dict[str, float], down: float = 0) -> Any:
    """Each line of text with the box around it: left, top, right, bottom."""
    usual = float(root.attrib.get("font-size", 15))
    for element in root:
        moved = re.fullmatch(r"translate\(0 ([\d.]+)\)", element.attrib.get("transform", ""))
        if not element.tag.endswith("}text"):
            yield from _words(element, sizes, down + (float(moved[1]) if moved else 0))
            continue
        style = element.attrib.get("style", "")
        size = re.search(r"font-size: ([\d.]+)px", style)
        size = float(size[1]) if size else sizes.get(element.attrib.get("class", ""), usual)
        text = "".join(element.itertext())
        place = re.match(r"translate\(([\d.]+) ([\d.]+)\)", element.attrib.get("transform", ""))
        x, y = map(float, place.groups() if place else (element.attrib["x"], element.attrib["y"]))
        wide = (0.6 if element.attrib.get("class") in ("mono", "verb") else WIDE) * size * len(text)
        left = x - wide * {"middle": 0.5, "end": 1.0}.get("".join(re.findall(r"text-anchor: (\w+)", style)), 0)
        yield text, (left, y + down - 0.8 * size, left + wide, y + down + 0.2 * size)


def test_the_format_page_has_every_key_of_the_header() -> None:
    page = (ROOT / "docs" / "format.md").read_text()
    assert not [key for key in ("format", *SCHEMA) if f"| `{key}` |" not in page]


@pytest.mark.deep
def test_sizes_of_deltas_on_the_format_page() -> None:
    """The numbers are exact from shapes alone; the header on top is measured for one delta and small for every other."""
    from benchmarks import delta_sizes

    rows = delta_sizes.on_page()
    for row, (architectures, method) in delta_sizes.ROWS.items():
        for name, cell in zip(delta_sizes.MODELS, rows[row], strict=True):
            assert bool(cell) == (name in architectures), row
            if cell:
                size, numbers = _bytes(cell), delta_sizes.expected(name, method)
                assert numbers - 5000 <= size <= 1.06 * numbers + 2000, (
                    f"{row}, {name}: python -m benchmarks.delta_sizes"
                )
    probe = delta_sizes.ROWS["`probe`"][1]
    assert abs(_bytes(rows["`probe`"][1]) - delta_sizes.measured("vit_small_patch16_224", probe)) < 2000


def _bytes(cell: str) -> float:
    number, unit = cell.split()
    return float(number) * {"kB": 1e3, "MB": 1e6}[unit]

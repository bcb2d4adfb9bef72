"""The page: nothing that is in a name becomes HTML, every number says where it is in the JSON, and a browser opens it alone."""

from __future__ import annotations

import html
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import petl
from petl.report.charts import Axes, Line, line_chart
from petl.report.page_parts import Doc, script_json, shown_number, text
from petl.report.thumbnails import colours_of, heat_picture, thumbnails
from tests.support.browser import BROWSER, OPTIONS, Browser
from tests.support.report_pages import HOSTILE, hostile_report


class Read(HTMLParser):
    """Collects the numbers of a page by their place, and whatever would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.loads += [str(given[name]) for name in ("src", "href", "data", "srcset") if given.get(name)]
        self.handlers += [name for name in given if name.startswith("on")]
        if "data-key" in given:
            self.open = [str(given["data-key"]), str(given["data-form"])]

    def handle_data(self, data: str) -> None:
        if self.open:
            self.numbers.append((self.open[0], self.open[1], data))
            self.open = []


def read(page: str) -> Read:
    found = Read()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> petl.Report:
    return hostile_report(tmp_path_factory.mktemp("page"))


def refuse_other_numbers(page: str, content: dict[str, Any]) -> int:
    """Raises unless each number of a page is that of the JSON at its place; returns how many there are."""
    doc, found = Doc(content), read(page).numbers
    wrong = [(key, shown) for key, form, shown in found if shown != shown_number(doc.get(key, "absent"), form)]
    assert not wrong
    return len(found)


def test_every_number_is_that_of_the_json(made: petl.Report) -> None:
    assert refuse_other_numbers(made.path.read_text(encoding="utf-8"), json.loads(made.json_path.read_text())) > 150


def test_names_are_text(made: petl.Report) -> None:
    page = made.path.read_text(encoding="utf-8")
    found = read(page)
    assert not found.handlers and "<img src=x" not in page and "</script><b>" not in page and "\u2028" not in page
    assert html.escape(HOSTILE[0], quote=True) in page and "&lt;Pets&gt; &amp; more" in page
    assert page.count("</script>") == 2, "the data and the code"
    assert "<i>norm" not in page and "&lt;i&gt;norm" in page
    assert all(link.startswith(("data:", "#")) for link in found.loads)
    assert re.search(r"default-src 'none'; script-src 'sha256-[\w+/=]+'", page)
    assert not re.findall(r"url\(|@import|https?://|innerHTML|eval\(", page)


def test_the_page_is_small_and_the_same_dict_gives_the_same_page(made: petl.Report) -> None:
    assert made.path.stat().st_size / len(made.to_json()["images"]) < 20_000
    assert script_json("</script>\u2028&") == '"\\u003c/script\\u003e\\u2028\\u0026"'
    assert text("a\u202eb\x1b") == "a\\u202eb\\x1b"


def test_charts_and_pictures_of_odd_values() -> None:
    one = line_chart(Axes(["a"], "x", "y"), [Line("after", "n", [0.5])])
    assert "NaN" not in one and "<circle" in one
    assert "<circle" not in line_chart(Axes([], "x", "y"), [Line("after", "n", [])])
    gap = line_chart(Axes(["a", "b", "c"], "x", "y", "3"), [Line("after", "n", [1.0, None, 1e6])])
    assert gap.count("<circle") == 2 and "M" in gap and "L" not in gap.split('d="')[1].split('"')[0]
    torch = pytest.importorskip("torch")
    for pictures in (torch.full((2, 1, 5, 9), 300.0), torch.zeros(1, 7, 300, 20), torch.rand(2, 2, 8, 8)):
        assert all(thumbnails(pictures, colours_of(pictures, {"mean": (0.5,) * 3, "std": (0.5,) * 3})))
    assert heat_picture([[0.0, 1.0]])


def test_shares_end_at_a_hundred_percent() -> None:
    equal = line_chart(Axes(["a", "b"], "x", "y"), [Line("after", "n", [0.968, 0.968])])
    assert "100\u00a0%" in equal and "150\u00a0%" not in equal


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here to open the page in")
def test_a_browser_opens_the_page_without_a_network(made: petl.Report, tmp_path: Path) -> None:
    options = [*OPTIONS, "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run(
        [str(BROWSER), *options, made.path.resolve().as_uri()], capture_output=True, text=True, timeout=300
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused" in line or "violates" in line]
    assert not said, "the page's script or its policy complains"
    content = json.loads(made.json_path.read_text(encoding="utf-8"))
    assert refuse_other_numbers(done.stdout, content) > 150
    worst = content["answers"]["most_confused"]
    if worst is not None:  # the script has filled in the images of the cell that is confused most
        cell = done.stdout.split('id="cell"')[1].split("</figure>")[0]
        assert cell.count("<img") == worst[2]
    assert not read(done.stdout).handlers


@pytest.mark.deep
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here to open the page in")
def test_what_is_pressed_and_pointed_at_answers(made: petl.Report, tmp_path: Path) -> None:
    content = json.loads(made.json_path.read_text(encoding="utf-8"))
    with Browser(tmp_path / "browser") as browser:
        browser.sized(1200)
        browser.open(made.path)
        for number in range(int(browser.value("document.querySelectorAll('.matrix button').length"))):
            cell = f"document.querySelectorAll('.matrix button')[{number}]"
            browser.click(cell)
            of, said = (int(browser.value(f"{cell}.dataset.{name}")) for name in ("is", "said"))
            files = [one["file"] for one in content["images"] if (one["target"], one["predicted"]) == (of, said)]
            shown = browser.value("[...document.querySelectorAll('#cell li')].map((one) => one.title)")
            assert sorted(shown) == sorted(files) and browser.value(f"{cell}.getAttribute('aria-pressed')") == "true"
            assert browser.value("[...document.querySelectorAll('#cell img')].every((one) => one.naturalWidth > 0)")
        points = "document.querySelectorAll('svg.map path[data-group=\"0\"]')"
        browser.click("document.querySelector('[data-toggle=\"0\"]')")
        assert browser.value(f"[...{points}].every((one) => one.classList.contains('off'))")
        browser.click("document.querySelector('[data-toggle=\"0\"]')")
        assert not browser.value(f"[...{points}].some((one) => one.classList.contains('off'))")
        where = "document.querySelector('svg.map path').getAttribute('transform')"
        after = browser.value(where)
        browser.value("{ const s = document.getElementById('when'); s.value = 0; s.dispatchEvent(new Event('input')) }")
        assert browser.value(where) != after
        browser.move("document.querySelector('svg.map path')")
        assert browser.value(
            "!document.getElementById('tip').hidden && document.querySelector('#tip .file').textContent"
        )
        browser.value("document.querySelector('svg.map').focus()")
        browser.press("ArrowRight")
        assert browser.value("document.querySelectorAll('.map path.picked').length") >= 1
        browser.press("Escape")
        assert browser.value("document.getElementById('tip').hidden")
        assert browser.said == [] and browser.asked == []


@pytest.mark.deep
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here to open the page in")
@pytest.mark.parametrize(
    "look", [{"prefers_color_scheme": "dark"}, {"prefers_color_scheme": "light"}, {"media": "print"}]
)
def test_nothing_is_cut_off_at_400_pixels_and_words_can_be_read(
    made: petl.Report, tmp_path: Path, look: dict[str, str]
) -> None:
    with Browser(tmp_path / "browser") as browser:
        browser.sized(400, **look)
        browser.open(made.path)
        assert browser.value("document.documentElement.scrollWidth") <= 400
        rgb = "getComputedStyle(document.body).{}.match(/[0-9]+/g).map(Number).slice(0, 3).reduce((a, b) => a + b)"
        ink, paper = (browser.value(rgb.format(name)) for name in ("color", "backgroundColor"))
        assert abs(ink - paper) > 350 and (ink > paper) == (look.get("prefers_color_scheme") == "dark")
        assert browser.said == [] and browser.asked == []

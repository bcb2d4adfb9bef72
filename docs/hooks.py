"""What the docs take from the code: the methods' pages and tables, and the pages that other people's scripts write."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from docstrings import markdown as fenced  # docs/docstrings.py: mkdocs looks for it beside this file
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

import petl
from petl import errors
from petl.cli.app import app
from petl.methods import method, registry

LATER = [  # title, page, the page before it
    ("Your own data", "data.md", "choosing.md"),
    ("Several processes", "distributed.md", "pipelines.md"),
    ("Results", "results.md", "new-method.md"),
]
ORDER = ("probe", "bn", "norm", "lora", "adapter", "input", "bias", "partial", "full")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The methods' pages follow the methods' index; pages of ``LATER`` appear after another one, once they are there."""
    for entry in config.nav or []:
        if "Methods" in entry:
            entry["Methods"] += [{name: f"methods/{name}.md"} for name in methods()]
    for title, name, before in LATER:
        nav = [[*entry.values()] for entry in config.nav or []]
        there = (Path(config.docs_dir) / name).exists() and [name] not in nav
        if there and config.nav is not None and [before] in nav:
            config.nav.insert(nav.index([before]) + 1, {title: name})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, cls in methods().items():
        files.append(File.generated(config, f"methods/{name}.md", content=page(name, cls)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = markdown.replace("<!-- table of methods -->", table())
    markdown = api(markdown)
    return re.sub(r"<!-- help: (.*) -->", lambda found: helps(found[1].split()), markdown)


def api(markdown: str) -> str:
    """The API page's marks, each with the entries of its names; ``others`` stands for public names that no mark has."""
    marks = re.findall(r"<!-- api: (.*) -->", markdown)
    shown = {name for mark in marks for name in chosen(mark)}
    left = [name for name in petl.__all__ if name not in shown and not elsewhere(getattr(petl, name))]
    markdown = re.sub(r"<!-- api: others -->", lambda _: f"## More\n\n{entries(left)}" if left else "", markdown)
    return re.sub(r"<!-- api: (.*) -->", lambda found: entries(chosen(found[1])), markdown)


def chosen(mark: str) -> list[str]:
    """The names that a mark stands for: those in it, every error, or with ``data.others`` what else petl.data offers."""
    if mark == "errors":
        classes = [name for name in petl.__all__ if is_error(getattr(petl, name))]
        return sorted(classes, key=lambda name: (name != "PetlError", name))
    names = [] if mark == "others" else mark.split()
    if "data.others" in names:
        names.remove("data.others")
        names += [name for name in (f"data.{each}" for each in petl.data.__all__) if name not in names]
    return names


def is_error(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, errors.PetlError)


def elsewhere(thing: Any) -> bool:
    """Whether a public name has its place already: methods have pages, modules sections; versions and types need none."""
    is_method = isinstance(thing, type) and thing in methods().values()
    return is_method or inspect.ismodule(thing) or not hasattr(thing, "__module__") or not hasattr(thing, "__name__")


def entries(names: list[str]) -> str:
    """mkdocstrings blocks for public names, read where they are defined and headed by how they are imported."""
    return "\n".join(entry(name) for name in names)


def entry(name: str) -> str:
    """One block; ``name`` is that under ``petl``, such as ``wrap`` or ``data.loader``."""
    *modules, last = name.split(".")
    place: Any = importlib.import_module(".".join(["petl", *modules]))
    heading = f"petl.{name}"
    options = f"    options:\n      heading: {heading}\n      toc_label: {heading}\n"
    return f"::: {getattr(place, last).__module__}.{last}\n{options}"


def helps(commands: list[str]) -> str:
    """What ``petl COMMAND --help`` says."""
    shown = {name: CliRunner().invoke(app, [name, "--help"], prog_name="petl").output for name in commands}
    return "\n".join(f"## petl {name}\n\n```text\n{text.strip()}\n```\n" for name, text in shown.items())


def methods() -> dict[str, type[method.Method]]:
    """petl's own methods, the usual ones in the order of the size of what they train."""
    found = registry.methods()
    return {name: found[name] for name in sorted(found, key=lambda n: (n not in ORDER, (*ORDER, n).index(n)))}


def table() -> str:
    rows = [f"| [`{name}`]({name}.md) | `petl.{cls.__name__}` | {first(cls)} |" for name, cls in methods().items()]
    return "\n".join(["| name | class | what |", "|---|---|---|", *rows])


def first(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def page(name: str, cls: type) -> str:
    """A method's docstring, with its options as a table of names, types, defaults and what they do."""
    text = inspect.cleandoc(cls.__doc__ or "") + "\n"
    section = re.search(r"^Options:\n((?:(?: .*)?\n)+)", text, re.MULTILINE)
    said = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE)) if section else {}
    body = text.replace(section[0], "\n") if section else text
    body = fenced(body)
    rows = [(f"`{f.name}`", f"`{f.type}`", f"`{default(f)}`", said.get(f.name, "")) for f in dataclasses.fields(cls)]
    cells = [" | ".join(" ".join(cell.split()) for cell in row) for row in rows]
    table = "\n".join(
        ["| option | type | default | meaning |", "|---|---|---|---|", *(f"| {cell} |" for cell in cells)]
    )
    return f"# {name}\n\nClass `petl.{cls.__name__}`.\n\n{body}\n## Options\n\n{table if rows else 'None.'}\n"


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())

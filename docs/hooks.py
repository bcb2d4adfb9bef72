"""What the docs take from the code: the methods' pages and tables, and the pages that other people's scripts write."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

import petl
from petl import method
from petl.cli import app

ORDER = ("probe", "bn", "norm", "lora", "adapter", "input", "bias", "partial", "full")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The methods' pages follow the methods' index; results.md appears once it has been measured."""
    for entry in config.nav or []:
        if "Methods" in entry:
            entry["Methods"] += [{name: f"methods/{name}.md"} for name in methods()]
    if (Path(config.docs_dir) / "results.md").exists() and config.nav is not None:
        config.nav.insert(len(config.nav) - 3, {"Results": "results.md"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, cls in methods().items():
        files.append(File.generated(config, f"methods/{name}.md", content=page(name, cls)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = markdown.replace("<!-- table of methods -->", table())
    markdown = re.sub(r"<!-- api: (.*) -->", lambda found: entries(found[1].split()), markdown)
    return re.sub(r"<!-- help: (.*) -->", lambda found: helps(found[1].split()), markdown)


def entries(names: list[str]) -> str:
    """mkdocstrings blocks for public names, at the modules where they are defined."""
    return "\n".join(f"::: {getattr(petl, name).__module__}.{name}" for name in names)


def helps(commands: list[str]) -> str:
    """What ``petl COMMAND --help`` says."""
    shown = {name: CliRunner().invoke(app, [name, "--help"], prog_name="petl").output for name in commands}
    return "\n".join(f"## petl {name}\n\n```text\n{text.strip()}\n```\n" for name, text in shown.items())


def methods() -> dict[str, type[method.Method]]:
    """petl's own methods, the usual ones in the order of the size of what they train."""
    found = method.methods()
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
    body = re.sub(r"^(>>> (?:.|\n)*)\Z", r"```pycon\n\1```\n", body, flags=re.MULTILINE)
    rows = [(f"`{f.name}`", f"`{f.type}`", f"`{default(f)}`", said.get(f.name, "")) for f in dataclasses.fields(cls)]
    cells = [" | ".join(" ".join(cell.split()) for cell in row) for row in rows]
    table = "\n".join(["| option | type | default | |", "|---|---|---|---|", *(f"| {cell} |" for cell in cells)])
    return f"# {name}\n\nClass `petl.{cls.__name__}`.\n\n{body}\n## Options\n\n{table if rows else 'None.'}\n"


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())

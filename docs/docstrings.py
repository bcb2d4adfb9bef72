"""What petl's docstrings say in the way of doctest, said in the way of Markdown, before the API page is made of them.

A griffe extension (named in mkdocs.yml) that changes every docstring at once:

- examples become fenced code: Markdown takes ``>>>`` for a quotation of a quotation and joins its lines; those under
  ``Example:`` look like those without a title;
- ``train, val: ...`` under ``Args:`` or ``Raises:`` becomes an entry for each of the names, so that each gets its type and
  default; a second entry on the same line (``labels: ... results: ...``) gets a line of its own;
- roles of reStructuredText become plain code: ``:func:`digits``` is shown as ``digits``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from griffe import Extension

EXAMPLE = re.compile(
    r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*|\n(?P=indent) +\S.*|\n(?=\n(?P=indent)>>> ))*", re.MULTILINE
)
TITLE = re.compile(r"^( *)Examples?:\n((?:\1 {4}.*(?:\n|\Z)|\n(?=\1 {4}))+)", re.MULTILINE)
FLAGS = re.compile(r" *# doctest: .*")
SECTION = re.compile(r"^( *)(?:Args|Raises):\n(?:\1 +.*\n?|\n(?=\1 +\S))+", re.MULTILINE)
SEVERAL = re.compile(r"^( +)(\w+)((?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)
BESIDE = re.compile(r"(?<=\. )(\w+): ")
ROLE = re.compile(r":\w+:`~?([^`]+)`")


class Docstrings(Extension):
    """Rewrites the text of each docstring as it is read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            names = [parameter.name for parameter in getattr(obj, "parameters", ())]
            obj.docstring.value = markdown(obj.docstring.value, names)


def markdown(text: str, parameters: Sequence[str] = ()) -> str:
    """A docstring whose examples are fenced and whose arguments have an entry each."""
    text = SECTION.sub(lambda found: _entries(found[0], parameters), ROLE.sub(r"`\1`", text))
    text = TITLE.sub(lambda found: re.sub(rf"^{found[1]} {{4}}", found[1], found[2], flags=re.MULTILINE), text)
    return EXAMPLE.sub(_fenced, text)


def _entries(section: str, parameters: Sequence[str]) -> str:
    """One entry a line, one name an entry."""
    title, *lines = section.split("\n")
    indent = " " * (len(lines[0]) - len(lines[0].lstrip()))
    known = {*parameters, *re.findall(r"\b\w*Error\b", section)}
    lines = [
        BESIDE.sub(lambda found: f"\n{indent}{found[0]}" if found[1] in known else found[0], line) for line in lines
    ]
    text = "\n".join(line.rstrip() for line in "\n".join(lines).split("\n"))
    return f"{title}\n{SEVERAL.sub(_one_each, text)}"


def _one_each(found: re.Match[str]) -> str:
    """An entry for each name: the first one's with the words; an argument's others refer to it, an error's repeat them."""
    indent, first, others, words = found.groups()
    rest = words if first.endswith("Error") else f"see `{first}`."
    return "\n".join([f"{indent}{first}: {words}", *(f"{indent}{name}: {rest}" for name in others[2:].split(", "))])


def _fenced(found: re.Match[str]) -> str:
    indent, code = found["indent"], FLAGS.sub("", found[0].replace("<BLANKLINE>", ""))
    return f"{indent}```pycon\n{code}\n{indent}```"

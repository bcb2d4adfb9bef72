"""Which column of a table has the path of the image, which its label, labels or numbers, and which split, group and weight."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petl.data.table_files import ImageTable
from petl.errors import DataError, listing, near

KNOWN = {  # role -> the names of columns that have it, in lower case and without what is no letter
    "path": (
        "path paths file files filename filenames filepath filepaths image images imagepath imagefile imagefilename imagename "
        "img imgs imgpath imgfile imgname fname pixelvalues imagepaths"
    ),
    "label": "label class classname classlabel labelname category categoryname target",
    "labels": "labels tags classes categories",
    "split": "split splits subset partition isvalid isval istest",
    "group": "group groups groupid patient patientid subject subjectid",
    "weight": "weight weights sampleweight sampleweights imageweight",
}
TARGET_ROLES = ("label", "labels", "targets")  # what there is to learn: one of them
COLUMN_ROLES = ("path", *TARGET_ROLES, "split", "group", "weight")
OPTIONS = ("columns", "path", *TARGET_ROLES, "group", "weight", "split_column", "separator", "encoding")


@dataclass(frozen=True)
class Roles:
    """The names of a table's columns by what they are; ``targets`` names the columns of ``kind``, "label", "labels" or "targets".

    Several labels are in the cells of one column, or there is a column of 0 and 1 for each (``one_each``).
    """

    path: str
    kind: str
    targets: tuple[str, ...]
    one_each: bool
    split: str | None
    group: str | None
    weight: str | None


def find_roles(table: ImageTable, options: Mapping[str, Any], *, need_targets: bool = True) -> Roles:
    """Returns which column has which role: as the options say, else by its name.

    Raises:
        DataError: an option or column that isn't there, several columns that may be meant, or none.
    """
    asked = _asked(options)
    for role, name in asked.items():
        for one in [name] if isinstance(name, str) else name or ():
            _refuse_missing(table, role, one)
    path = _pick(table, "path", asked)
    if path is None:
        raise DataError(
            f"{table.name} has no column for the path of the image ({_columns(table)}); name it: path='...' (petl train: --data "
            "path=...), or, if the first line is a row already, put one with names above it: path,label"
        )
    kind, names = _targets(table, asked, need_targets)
    taken = {path, *names}
    split, group, weight = (_pick(table, role, asked, taken) for role in ("split", "group", "weight"))
    one_each = kind == "labels" and not isinstance(asked.get("labels") or names[0], str)
    return Roles(path, kind, names, one_each, split, group, weight)


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {role: column} for what the options say; a role may be None for none."""
    columns = options.get("columns") or {}
    if not isinstance(columns, Mapping):
        raise DataError(f"columns={columns!r}; expected a dict, such as {{'path': 'file', 'label': 'species'}}")
    for role in columns:
        if role not in COLUMN_ROLES:
            raise DataError(f"columns= has {role!r}{near(str(role), COLUMN_ROLES)}; it takes {', '.join(COLUMN_ROLES)}")
    keywords = {("split" if key == "split_column" else key): key for key in OPTIONS}
    asked = {
        **columns,
        **{role: options[key] for role, key in keywords.items() if role in COLUMN_ROLES and key in options},
    }
    for role, name in asked.items():
        many = role in ("labels", "targets") and isinstance(name, (list, tuple)) and name
        if not (name is None or isinstance(name, str) or (many and all(isinstance(one, str) for one in name))):
            raise DataError(f"{role}={name!r}; expected the name of a column{' or a list of names' if many else ''}")
    if len(said := [role for role in TARGET_ROLES if asked.get(role) is not None]) > 1:
        raise DataError(f"got {' and '.join(f'{role}=' for role in said)}; expected one of them")
    return asked


def _targets(table: ImageTable, asked: Mapping[str, Any], needed: bool) -> tuple[str, tuple[str, ...]]:
    """Returns the kind of the targets and their columns."""
    for kind in TARGET_ROLES:
        if (name := asked.get(kind)) is not None:
            return kind, (name,) if isinstance(name, str) else tuple(name)
    found = [(kind, name) for kind in ("label", "labels") for name in columns_of_role(table, kind)]
    found = [(kind, name) for kind, name in found if kind not in asked]
    if len(found) == 1:
        return found[0][0], (found[0][1],)
    if not needed:
        return "label", ()
    say = "label='...' (class names or numbers), labels='...' (several for an image) or targets=['...'] (numbers)"
    if found:
        raise DataError(
            f"{table.name} has several columns that may be the label: {listing(name for _, name in found)}; say which: {say}; "
            f"petl train: --data label={found[0][1]}"
        )
    raise DataError(
        f"{table.name} has no column for the label ({_columns(table)}); name it: {say}; petl train: --data label=..."
    )


def _pick(table: ImageTable, role: str, asked: Mapping[str, Any], taken: Sequence[str] | set[str] = ()) -> str | None:
    """Returns the column that has the role, or None."""
    if role in asked:
        return asked[role]
    found = [name for name in columns_of_role(table, role) if name not in taken]
    if len(found) > 1:
        key = "split_column" if role == "split" else role
        raise DataError(
            f"{table.name} has several columns that may be the {role}: {listing(found)}; say which: {key}={found[0]!r} "
            f"(petl train: --data {key}={found[0]})"
        )
    return found[0] if found else None


def columns_of_role(table: ImageTable, role: str) -> list[str]:
    """Returns the columns of a table whose names are usual ones for a role, in the table's order."""
    known = KNOWN[role].split()
    return [name for name in table.columns if re.sub(r"[\W_]+", "", name).lower() in known]


def _refuse_missing(table: ImageTable, role: str, name: str) -> None:
    if name not in table.columns:
        raise DataError(f"{table.name} has no column {name!r} for {role}{near(name, table.columns)}; {_columns(table)}")


def _columns(table: ImageTable) -> str:
    return f"its columns are {listing(map(repr, table.columns), 12)}"

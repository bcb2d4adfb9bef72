"""Names as peft matches them: exact patterns for layers, and which modules a name in ``modules_to_save`` really reaches.

peft compares a name of ``modules_to_save`` with the *end* of each module's name, so ``norm`` also reaches ``blocks.0.fc_norm``,
and it leaves layers out of ``target_modules`` that lie inside such a name. Both rules are repeated here, so that a folder names
everything that peft will ask for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from torch import nn

from petl.sites.names import within


def exact_key(name: str) -> str:
    """Returns the key of ``rank_pattern`` and ``alpha_pattern`` that matches this full name and no other that ends like it."""
    return f"^{re.escape(name)}"


def module_names(model: nn.Module) -> list[str]:
    """Returns the names of all modules, a shared module's under each of its names, as peft goes through them."""
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name]


def saved_whole(names: Sequence[str], saved: Iterable[str]) -> list[str]:
    """Returns the modules among ``names`` that peft wraps for these entries of ``modules_to_save``, in the model's order."""
    endings = tuple(saved)
    return [name for name in names if endings and name.endswith(endings)]


def unadapted(names: Iterable[str], saved: Collection[str]) -> list[str]:
    """Returns the layers among ``names`` that peft doesn't adapt because of these entries of ``modules_to_save``."""
    patterns = [re.compile(rf"(^|.*\.){entry}($|\..*)") for entry in saved]
    return [name for name in names if any(pattern.match(name) for pattern in patterns)]


def settled_entries(
    names: Sequence[str], whole: Iterable[str], adapted: Collection[str]
) -> tuple[list[str], list[str]]:
    """Returns the entries for ``modules_to_save``, and the modules that peft wraps for them, in the model's order.

    A module that an entry reaches by chance is wrapped too, and an entry inside it is not needed then; an adapted layer that
    peft would leave out gets an entry.
    """
    entries = {*whole}
    while True:
        reached = saved_whole(names, entries)
        lost = {name for name in unadapted(adapted, {*entries, *reached}) if not within(name, reached)}
        covered = {e for e in entries if within(e.rpartition(".")[0], saved_whole(names, entries - {e}))} - lost
        if not lost and not covered:
            return [name for name in names if name in entries], reached
        entries = (entries | lost) - covered

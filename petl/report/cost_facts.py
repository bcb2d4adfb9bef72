"""What a delta costs, and how its report is made again."""

from __future__ import annotations

import contextlib
import platform
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from petl.addresses.fetched_file import name_to_load
from petl.delta.save import save
from petl.errors import PetlError
from petl.version import __version__
from petl.wrapping.lookup import bare, record

TOLD_PACKAGES = ("torch", "torchvision", "timm", "peft", "scikit-learn", "numpy", "pillow")


def cost_facts(model: nn.Module, delta: Path | None, history: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns trainable numbers, those of the whole model, bytes of the delta, and seconds of the training, as far as known."""
    plain, wrapped = bare(model), record(model)
    whole = sum(parameter.numel() for parameter in plain.parameters())
    facts: dict[str, Any] = {"parameters": whole}
    if wrapped is not None:
        own = wrapped.owned_keys
        trained = sum(p.numel() for name, p in plain.named_parameters() if name in own)
        facts |= {"trained": trained, "share": trained / whole if whole else None}
        facts["methods"] = [
            {"name": method.name, "options": _options(method), "sites": len(sites)}
            for method, sites in zip(wrapped.methods, wrapped.sites, strict=True)
        ]
        facts["delta_bytes"] = delta.stat().st_size if delta is not None else _delta_size(model)
    rows = (history or {}).get("rows") or []
    seconds = [row["seconds"] for row in rows if isinstance(row.get("seconds"), (int, float))]
    return {**facts, **({"seconds": sum(seconds), "epochs": len(rows)} if seconds else {})}


def _options(method: Any) -> str:
    """Returns a method as it is written in Python."""
    return str(method)


def _delta_size(model: nn.Module) -> int | None:
    """Returns the bytes of the delta that petl.save would write; None where it can't be saved."""
    with contextlib.suppress(PetlError, OSError), tempfile.TemporaryDirectory() as folder:
        return save(model, Path(folder) / "delta.safetensors").stat().st_size
    return None


def reproduce_facts(
    model: nn.Module, about: str, settings: Mapping[str, Any], delta: Path | None, run: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the versions, the seed, the calls that make this report again, and the settings of the training."""
    wrapped = record(model)
    backbone = dict(wrapped.backbone) if wrapped is not None else {}
    options = ", ".join(
        f"{key}={'other' if isinstance(value, nn.Module) else repr(value)}" for key, value in settings.items()
    )
    load = (
        f'model = petl.load("{name_to_load(delta)}")'
        if delta is not None
        else "# model: as it was when this page was made"
    )
    shown = {key: value for key, value in ((run or {}).get("settings") or {}).items() if _is_told(value)}
    return {
        "code": ["import petl", load, f'petl.report(model, data, "report.html", {options})'],
        "data": about,
        "command": f"petl report {name_to_load(delta)} DATA --out report.html" if delta is not None else None,
        "backbone": {key: backbone[key] for key in ("name", "fingerprint") if isinstance(backbone.get(key), str)},
        "settings": shown,
        "versions": {"petl": __version__, "python": platform.python_version(), **_versions()},
        "platform": sys.platform,
    }


def _is_told(value: Any) -> bool:
    """Returns whether a setting is shown: not a default of None, and no path of the machine that trained."""
    if value is None or value is False or value == {}:
        return False
    return not (isinstance(value, str) and ("/" in value or "\\" in value))


def _versions() -> dict[str, str]:
    found = {}
    for name in TOLD_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found

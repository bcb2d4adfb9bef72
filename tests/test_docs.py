"""The Python in README and docs runs as it stands, on small models and images."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    *(f"docs/{p}.md" for p in ("index", "quick-start", "choosing", "pipelines", "data", "format", "new-method")),
]
SMALL = {"resnet50": "test_resnet", "tf_efficientnet_lite0": "test_efficientnet"}


def snippets(page: str) -> list[str]:
    text = (ROOT / page).read_text()
    found = re.findall(r"^( *)```python\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def pictures(folder: Path, classes: int) -> None:
    for split in ("train", "val"):
        for number in range(classes):
            place = folder / split / f"class{number:02}"
            place.mkdir(parents=True)
            for i in range(2):
                Image.effect_noise((32, 32), 40 + 10 * number).convert("RGB").save(place / f"{i}.png")


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's large models become its small test models, with the same weights at every call, as if pretrained."""
    create = timm.create_model

    def small(name: str, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        name = SMALL.get(name, name)
        torch.manual_seed(0)
        weights, model = create(name).state_dict(), create(name, **kwargs)
        own = model.state_dict()
        model.load_state_dict({k: v for k, v in weights.items() if v.shape == own[k].shape}, strict=False)
        return model

    monkeypatch.setattr(timm, "create_model", small)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("small_models")
def test_the_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = snippets(page)
    assert blocks, f"{page} has no Python in it"
    monkeypatch.chdir(tmp_path)
    asked = re.search(r"num_classes=(\d+)", "\n".join(blocks))
    pictures(tmp_path / "pets", int(asked[1]) if asked else 2)
    batch = (torch.randn(4, 3, 64, 64), torch.arange(4) % 2)
    module = ModuleType("snippets")  # a real one, so that classes in it can be pickled
    monkeypatch.setitem(sys.modules, "snippets", module)
    names = vars(module)
    names |= {"loader": [batch], "classes": [str(i) for i in range(10)]}
    exec("import petl, timm, torch; model = timm.create_model('resnet50')", names)
    if page == "docs/format.md":
        exec("petl.save(petl.wrap(model, 'bn'), 'delta.safetensors')", names)
    for code in blocks:
        exec(compile(code, page, "exec"), names)

"""Every block of Python and shell in README and docs runs as it stands, on small models and images.

A page is run from top to bottom in a folder of its own that holds ``pets`` (class folders) and ``new`` (images). A block
that can't run here has a comment before it, ``<!-- not run: REASON -->``; it still has to be valid Python or shell.
"""

from __future__ import annotations

import functools
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import petl
from petl.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
# The large models that pages name become timm's small test models, with the same weights at every call
SMALL = {
    "resnet50": "test_resnet",
    "tf_efficientnet_lite0": "test_efficientnet",
    "vit_small_patch16_224": "test_vit",
    "vit_base_patch16_224": "test_vit",
}
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
EPOCHS = 2  # what pages train for ten epochs
IMAGES = {
    "docs/rank.md": 6,
    "docs/advise.md": 4,
    "docs/combining.md": 6,
    "docs/guidance.md": 6,
}  # of a class in each split, where two are too few


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    reason: str | None  # why it isn't run
    tab: bool = False  # one of several ways to do the same

    def __str__(self) -> str:
        return f"the block at line {self.line}"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    found = []
    for match in BLOCK.finditer(text):
        mark = MARK.search(text[: match.start()])
        code = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        found.append(Block(match[2], code, text[: match.start()].count("\n") + 1, mark and mark[1], bool(match[1])))
    return found


LANGUAGES = {"python", "sh", "text", "pycon", "json"}
WITH_CODE = [page for page in PAGES if any(b.language in ("python", "sh") for b in blocks(page))]


def pictures(folder: Path, classes: int, each: int = 2) -> None:
    for split in ("train", "val"):
        for number in range(classes):
            place = folder / split / f"class{number:02}"
            place.mkdir(parents=True)
            for i in range(each):
                Image.effect_noise((32, 32), 40 + 10 * number).convert("RGB").save(place / f"{i}.png")


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's large models become its small test models, as if pretrained; trainings have two epochs at most."""
    create, fit = timm.create_model, petl.fit

    @functools.wraps(create)
    def small(name: str, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        torch.manual_seed(0)
        if (kwargs.get("pretrained_cfg_overlay") or {}).get("file") or kwargs.get("checkpoint_path"):
            return create(name, pretrained, **kwargs)  # these need no network
        if name == "tf_efficientnet_lite0" and not pretrained:
            return create(name, **kwargs)  # petl.demo.lite0, which has the weights
        name = SMALL.get(name.partition(".")[0], name)
        weights, model = create(name).state_dict(), create(name, **kwargs)
        own = model.state_dict()
        model.load_state_dict({k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}, strict=False)
        return model

    @functools.wraps(fit)
    def short(*args: Any, epochs: int | None = None, **kwargs: Any) -> Any:
        return fit(*args, epochs=epochs and min(epochs, EPOCHS), **kwargs)

    monkeypatch.setattr(timm, "create_model", small)
    monkeypatch.setattr(petl, "fit", short)


@pytest.fixture
def one_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As under `torchrun` with one process; a process group that a page starts ends with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.deep
@pytest.mark.parametrize("page", WITH_CODE)
@pytest.mark.usefixtures("small_models")
def test_the_code_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if page == "docs/distributed.md":
        request.getfixturevalue("one_of_one")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    asked = re.search(r"num_classes=([1-9]\d*)", text)
    pictures(tmp_path / "pets", int(asked[1]) if asked else 2, IMAGES.get(page, 2))
    stand_ins(tmp_path)
    names = vars(given(monkeypatch, page))
    for block in blocks(page):
        for file in tmp_path.glob("*.safetensors") if block.tab else ():
            file.unlink()  # of the tab before: a reader follows one of them
        if block.language == "python" and block.reason is None:
            exec(compile("\n" * block.line + block.code, page, "exec"), names)
        elif block.language == "sh" and block.reason is None:
            for words in commands(block.code):
                run(words, f"{page}, {block}")


def stand_ins(folder: Path) -> None:
    """The files that pages speak of as the reader's own."""
    for name in ("new/1.jpg", "new/2.jpg", "cat.jpg", "dog.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((40, 40), 50).convert("RGB").save(folder / name)


def given(monkeypatch: pytest.MonkeyPatch, page: str) -> ModuleType:
    """The names that pages take from the reader: a model, a loader, classes, data sets; a module, so that classes pickle."""
    module = ModuleType("snippets")
    monkeypatch.setitem(sys.modules, "snippets", module)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 64, 64), torch.arange(4) % 2)
    model = timm.create_model("resnet50")
    vars(module).update(petl=petl, timm=timm, torch=torch, model=model, train=data, val=data)
    vars(module).update(loader=[data[:]], classes=[str(i) for i in range(10)])
    if page == "docs/format.md":
        petl.save(petl.wrap(timm.create_model("resnet50"), "bn"), "delta.safetensors")
    if page == "docs/features.md":
        petl.wrap(model, "partial", num_classes=2)
    return module


def commands(code: str) -> list[list[str]]:
    """The commands of a block of shell as words, with the paths that patterns match."""
    code = code.replace("\\\n", " ")
    lines = (shlex.split(line, comments=True) for line in code.splitlines())
    return [[path for word in line for path in _matches(word)] for line in lines if line]


def _matches(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) if "*" in word and "/" in word else [word]


def run(words: list[str], where: str) -> None:
    """A command of petl's, in this process; a short Python program in another."""
    if words[0] == "petl":
        result = CliRunner().invoke(app, words[1:], prog_name="petl")
        assert result.exit_code == 0, f"{where}: {shlex.join(words)}: {result.output} {result.exception}"
    elif words[:2] == ["python", "-c"]:
        subprocess.run([sys.executable, *words[1:]], check=True)
    else:
        pytest.fail(f"{where}: {shlex.join(words)} is neither run nor marked <!-- not run: REASON -->")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_can_be_read(page: str) -> None:
    """Blocks name a known language; also those that aren't run are valid Python or shell, and commands that exist."""
    fences = re.findall(r"^ *```(\w*)", (ROOT / page).read_text(), re.MULTILINE)
    assert {*fences[::2]} <= LANGUAGES, f"{page}: a block without a language is shown and tested as nothing"
    for block in blocks(page):
        if block.language == "python":
            compile(block.code, f"{page}, {block}", "exec")
        if block.language == "sh":
            subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
            for script in re.findall(r"\bpython ((?:benchmarks|recipes)/\S+\.py)", block.code):
                assert (ROOT / script).exists(), f"{page}, {block}: no {script}"


def test_a_block_that_is_not_run_says_why() -> None:
    text = "<!-- not run: hours -->\n```sh\npip install x\n```\n\n```sh\npetl methods\n```\n"
    marks = [MARK.search(text[: match.start()]) for match in BLOCK.finditer(text)]
    assert [mark and mark[1] for mark in marks] == ["hours", None]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    """mkdocs looks after the links in docs/, nobody after these."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), f"{page}: {target}"

"""`petl.push` against a hub on loopback: the card's own snippet loads what it wrote, or there is one error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors.torch import save_file

import petl
from petl.sharing.card_text import code
from petl.sharing.delta_facts import base_model_of
from tests.support.commands import call, refused
from tests.support.hub import Hub

RESULTS = {
    "epoch": 3,
    "train_loss": 0.2,
    "accuracy": 0.912,
    "accuracy_standard_error": 0.0115,
    "images": 600,
    "loss": 0.3,
}
COMPARISON: dict[str, Any] = {
    "kind": "comparison",
    "best_name": "lora x1",
    "measure": "accuracy",
    "rows": [
        {"name": "lora x1", "accuracy": 0.91, "error": 0.01, "trainable": 5200, "end": "winner"},
        {"name": "a|b", "accuracy": None, "error": None, "trainable": 0, "end": "failed"},
    ],
    "held_out": {"accuracy": 0.905, "error": 0.012, "images": 300},
    "baselines": [{"name": "raw pixels", "accuracy": 0.5, "error": 0.02}],
    "chance": 0.333,
}


@pytest.fixture(scope="module")
def base() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit")


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory, base: torch.nn.Module) -> Path:
    import copy

    model = petl.wrap(copy.deepcopy(base), petl.LoRA(rank=2), num_classes=3)
    return petl.save(
        model, tmp_path_factory.mktemp("d") / "pets.safetensors", labels=["cat", "d`|og", "<b>"], results=RESULTS
    )


def test_a_repository_is_made_and_written_in_one_commit(hub: Hub, delta: Path, tmp_path: Path) -> None:
    (tmp_path / "my report.html").write_text("<html>")
    pushed = petl.push(delta, "me/pets", dataset="Oxford pets", report=tmp_path / "my report.html", private=True)
    repo = hub.repos["me/pets"]
    assert repo.private and repo.messages == ["", "Upload pets.safetensors: lora on test_vit.r160_in1k"]
    files = repo.commits[repo.branches["main"]]
    assert sorted(files) == ["README.md", "my report.html", "pets.safetensors"]
    assert files["pets.safetensors"] == delta.read_bytes() and files["README.md"].decode() == pushed.card
    assert pushed.commit == repo.branches["main"] and pushed.commit in str(pushed)
    assert petl.read(pushed.address) == petl.read(delta) == petl.read("hf://me/pets")


def test_the_card_in_the_hubs_format(delta: Path, tmp_path: Path) -> None:
    card = ModelCard(petl.push(delta, "me/pets", dataset="me/pet-images", dry_run=True).card)
    assert card.data.library_name == "petl" and card.data.license == "apache-2.0"
    assert card.data.base_model == "timm/test_vit.r160_in1k" and card.data["base_model_relation"] == "adapter"
    assert card.data.pipeline_tag == "image-classification" and {"petl", "timm", "lora"} <= {*card.data.tags}
    assert card.data.datasets == ["me/pet-images"]
    first = card.data.eval_results[0]
    assert (first.metric_type, first.metric_value, first.dataset_name) == ("accuracy", 0.912, "me/pet-images")
    assert first.metric_args == {"n": 600, "standard_error": 0.0115} and first.dataset_split == "validation"
    text = card.text
    assert "| accuracy | 0.912 +- 0.011 | 600 |" in text and "so the figures are optimistic" in text
    assert "with the outputs of the model" in text
    small = petl.save(
        petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3), tmp_path / "d.safetensors", dtype="int8"
    )
    assert "near those (its numbers were rounded to `int8`)" in petl.push(small, "me/pets", dry_run=True).card
    with pytest.raises(petl.DeltaError, match="files are written here alone"):
        petl.push(delta, "me/pets", out="hf://me/pets")
    assert "`cat`, `` d`|og ``, `<b>`" in text and "rank 2; alpha 8" in text and "`lora(rank=2)`" in text


@pytest.mark.deep
def test_the_snippets_of_the_card_run(
    hub: Hub, delta: Path, base: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The backbone comes from the hub on loopback too, through timm."""
    save_file(base.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {"tag": "r160_in1k"}}
    weights = (tmp_path / "model.safetensors").read_bytes()
    hub.repo("timm/test_vit.r160_in1k", **{"model.safetensors": weights, "config.json": json.dumps(config).encode()})
    card = petl.push(delta, "me/pets").card
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((64, 64), 50).convert("RGB").save("image.jpg")
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    exec(compile(snippet, "card", "exec"), {})
    assert "image.jpg" in capsys.readouterr().out
    words = re.findall(r"^petl (.*)$", card, re.MULTILINE)[0].split()
    done = call(*words)
    assert done.exit_code == 0 and "image.jpg" in done.stdout
    for command in (["inspect", "hf://me/pets"], ["merge", "hf://me/pets", "merged.safetensors"]):
        done = call(*command)
        assert done.exit_code == 0, done.output
    assert "save a copy" in refused("eval", "hf://me/pets", ".", "--calibrate")


@pytest.mark.deep
def test_a_model_another_branch_and_a_second_push(hub: Hub, delta: Path, base: torch.nn.Module) -> None:
    import copy

    model = petl.load(delta, copy.deepcopy(base))
    hub.repo("me/pets", **{"other.txt": b"kept"})
    pushed = petl.push(model, "me/pets", revision="v2", results={"accuracy": 0.5}, commit_message="A try")
    repo = hub.repos["me/pets"]
    assert pushed.address == "hf://me/pets@v2/pets.safetensors" and repo.messages[-1] == "A try"
    assert "README.md" not in repo.commits[repo.branches["main"]]
    assert {"other.txt", "README.md", "pets.safetensors"} == {*repo.commits[repo.branches["v2"]]}
    assert petl.read(pushed.address)["results"] == {"accuracy": 0.5}
    again = petl.push(delta, "hf://me/pets@v2/pets.safetensors", card=False)
    assert [*again.files] == ["pets.safetensors"] and len(repo.commits) == 4  # older versions stay
    assert repo.commits[again.commit or ""]["README.md"].decode() == pushed.card


def test_nothing_is_pushed_by_a_dry_run_or_with_a_folder(hub: Hub, delta: Path, tmp_path: Path) -> None:
    assert "Nothing was pushed" in str(petl.push(delta, "me/pets", dry_run=True))
    pushed = petl.push(delta, "me/pets", out=tmp_path / "look")
    assert (tmp_path / "look" / "README.md").read_text() == pushed.card
    assert (tmp_path / "look" / "pets.safetensors").read_bytes() == delta.read_bytes()
    with pytest.raises(petl.StateError, match="overwrite=True"):
        petl.push(delta, "me/pets", out=tmp_path / "look")
    own = pushed.card + "\nMy own words.\n"
    (tmp_path / "look" / "README.md").write_text(own)
    assert petl.push(delta, "me/pets", card=tmp_path / "look" / "README.md", dry_run=True).card == own
    assert hub.asked == [] and hub.repos == {}


def test_what_it_was_compared_with(delta: Path, tmp_path: Path) -> None:
    (tmp_path / "pets.json").write_text(json.dumps({"kind": "report", "start": {"findings": {"compare": COMPARISON}}}))
    card = petl.push(delta, "me/pets", compare=tmp_path / "pets.json", dry_run=True).card
    assert "tried 2 settings" in card and "accuracy 0.905 +- 0.012 on 300 images that chose nothing" in card
    assert "`raw pixels`: 0.500 +- 0.020" in card and "| `a\\|b` |  | 0 | failed |" in card
    for wrong in ({"kind": "advice"}, tmp_path / "none.json", 3):
        with pytest.raises(petl.DeltaError, match="compar"):
            petl.push(delta, "me/pets", compare=wrong, dry_run=True)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "name, licence, said",
    [
        ("convnextv2_atto.fcmae", "cc-by-nc-4.0", "must not be used commercially"),
        ("vit_small_patch16_dinov3.lvd1689m", "dinov3-license", "terms of their own"),
    ],
)
def test_the_licence_of_the_backbone(name: str, licence: str, said: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        config = timm.create_model(name).pretrained_cfg
    model = timm.create_model("test_vit")
    model.pretrained_cfg = config
    path = petl.save(petl.wrap(model, "bias"), tmp_path / "d.safetensors")
    with pytest.warns(UserWarning, match=said):
        pushed = petl.push(path, "me/pets", dry_run=True)
    data = ModelCard(pushed.card).data
    assert licence in (data.license, data.get("license_name")) and f"**The weights of `{name}`" in pushed.card
    assert said in pushed.notes[0]
    with pytest.warns(UserWarning, match=said):  # a licence of one's own changes nothing about the backbone's
        assert "license: mit" in petl.push(path, "me/pets", licence="MIT", dry_run=True).card


def test_a_backbone_that_no_name_builds() -> None:
    assert base_model_of({"name": None}).hub is None and base_model_of({"name": "nothing_like.it"}).licence is None
    assert base_model_of({"name": "hf-hub:me/net"}).hub == "me/net"
    assert base_model_of({"name": "hf-hub:[x](javascript:1)"}).hub is None
    assert base_model_of({"name": "local-dir:/home"}).hub is None
    assert code("a\nb\x1b") == "`a\\nb\\x1b`"


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "repo", ["pets", "", "a/b/c", "me/pets.git", "me/-pets", "datasets/me/pets", 3, "https://x/y", "me/p ets"]
)
def test_names_that_no_repository_has(repo: Any, delta: Path) -> None:
    with pytest.raises(petl.DeltaError):
        petl.push(delta, repo, dry_run=True)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "file", ["../a.safetensors", "a.bin", "/a.safetensors", ".git/a.safetensors", "a\n.safetensors", "a\\b.safetensors"]
)
def test_names_that_no_file_has(file: str, delta: Path) -> None:
    with pytest.raises(petl.DeltaError, match="can't be the delta's name"):
        petl.push(delta, "me/pets", file=file, dry_run=True)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "where, fault, said",
    [
        ("POST /api/repos/create", "401", "hf auth login"),
        ("POST /api/repos/create", "403", "no right to write"),
        ("POST /api/models/me/pets/commit", "403", "was made, and is empty"),
        ("PUT /lfs", "403", "nothing was pushed"),
        ("info/lfs/objects/batch", "404", "nothing was pushed"),
        ("POST /api/models/me/pets/commit", "500", "the hub fails"),
    ],
)
def test_a_hub_that_refuses(where: str, fault: str, said: str, hub: Hub, delta: Path) -> None:
    hub.fail(where, fault)
    with pytest.raises(petl.DeltaError, match="nothing was pushed to me/pets") as error:
        petl.push(delta, "me/pets")
    assert said in str(error.value)
    assert len(hub.repos.get("me/pets", hub.repo("x/y")).commits) == 1
    hub.faults.clear()
    hub.fail("PUT /lfs", "500", 1)
    assert petl.push(delta, "me/pets").commit


@pytest.mark.deep
def test_nobody_may(hub: Hub, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("me/pets")
    with pytest.raises(petl.StateError, match="is there and public"):
        petl.push(delta, "me/pets", private=True)
    for token, said in (("", "hf auth login"), ("hf_other", "no right to write there")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(petl.DeltaError, match=said):
            petl.push(delta, "me/pets")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(petl.DeltaError, match="HF_HUB_OFFLINE is set"):
        petl.push(delta, "me/pets")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(petl.DeltaError, match="can't be reached"):
        petl.push(delta, "me/pets")
    assert len(hub.repos["me/pets"].commits) == 1


@pytest.mark.deep
def test_what_is_no_whole_delta(hub: Hub, delta: Path, tmp_path: Path, base: torch.nn.Module) -> None:
    content = bytearray(delta.read_bytes())
    content[-1] ^= 1
    (tmp_path / "d.safetensors").write_bytes(content)
    for wrong in (tmp_path / "d.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(petl.DeltaError):
            petl.push(wrong, "me/pets")
    with pytest.raises(petl.StateError, match="wrap"):
        petl.push(base, "me/pets")
    with pytest.raises(petl.DeltaError, match="expected what petl.evaluate returned"):
        petl.push(delta, "me/pets", results=0.9)
    with pytest.raises(petl.StateError, match="is no HTML file"):
        petl.push(delta, "me/pets", report=delta)
    with pytest.raises(petl.DeltaError, match="is no model card"):
        petl.push(delta, "me/pets", card=tmp_path / "none.md")
    assert hub.asked == []


@pytest.mark.deep
def test_the_command(hub: Hub, delta: Path, tmp_path: Path) -> None:
    done = call("push", delta, "me/pets", "--dataset", "pets", "--dry-run")
    assert done.exit_code == 0 and "library_name: petl" in done.stdout and hub.repos == {}
    done = call("push", delta, "me/pets", "--message", "First", "--json")
    assert json.loads(done.stdout)["address"] == "hf://me/pets/pets.safetensors", done.output
    assert hub.repos["me/pets"].messages[-1] == "First"
    assert "no such file" in refused("push", tmp_path / "none", "me/pets")

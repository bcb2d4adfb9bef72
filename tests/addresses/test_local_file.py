"""Addresses: every kind leads to the whole file or to one clear error, over real HTTP, and no cache keeps a part."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import constants

import petl
from petl.addresses.fetched_file import FetchedFile
from petl.addresses.local_file import local_file
from tests.support.commands import call
from tests.support.commands import refused as run_refused
from tests.support.disk import small_files
from tests.support.hub import TOKEN, Hub, leftovers


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = petl.wrap(timm.create_model("test_vit", num_classes=2), "bias")
    return petl.save(model, tmp_path_factory.mktemp("delta") / "pets.safetensors", labels=["cat", "dog"])


def refused(address: Any) -> str:
    with pytest.raises(petl.DeltaError) as error:
        petl.read(address)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------ the hub


def test_a_file_of_a_repository(hub: Hub, delta: Path) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes(), "README.md": b"# pets"})
    for address in ("hf://me/pets/pets.safetensors", "hf://me/pets", "hf://models/me/pets@main/pets.safetensors"):
        assert petl.read(address) == petl.read(delta)
    file = local_file("hf://me/pets")
    assert file.read_bytes() == delta.read_bytes() and str(file) == "hf://me/pets"
    assert petl.read(f"{hub.url}/me/pets/blob/main/pets.safetensors") == petl.read(delta)  # a page's address, pasted
    assert petl.read(Path("hf://me/pets")) == petl.read(delta)  # pathlib takes a slash away


@pytest.mark.deep
def test_a_revision(hub: Hub, delta: Path) -> None:
    repo = hub.repo("me/pets", **{"pets.safetensors": b"an older one"})
    old = repo.branches["main"]
    hub.add("me/pets", "pets.safetensors", delta.read_bytes())
    repo.branches |= {"v1": old, "refs/pr/2": repo.branches["main"]}
    assert "no whole safetensors file" in refused("hf://me/pets@v1/pets.safetensors")
    assert "no whole safetensors file" in refused(f"hf://me/pets@{old}/pets.safetensors")
    assert petl.read("hf://me/pets@refs/pr/2/pets.safetensors")["labels"] == ["cat", "dog"]
    assert "me/pets@v9" in refused("hf://me/pets@v9/pets.safetensors")


@pytest.mark.deep
def test_the_one_delta_of_a_repository(hub: Hub, delta: Path) -> None:
    other = delta.parent / "model.safetensors"
    timm_model = timm.create_model("test_vit", num_classes=1)
    from safetensors.torch import save_file

    save_file(timm_model.state_dict(), other)
    hub.repo("me/pets", **{"model.safetensors": other.read_bytes(), "a/pets.safetensors": delta.read_bytes()})
    assert petl.read("hf://me/pets") == petl.read(delta)
    hub.add("me/pets", "b.safetensors", delta.read_bytes())
    assert "2 deltas (a/pets.safetensors, b.safetensors)" in refused("hf://me/pets")
    hub.repo("me/none", **{"README.md": b"#"})
    assert "no delta (README.md)" in refused("hf://me/none")


def test_what_the_hub_hasnt(hub: Hub, delta: Path, tmp_path: Path) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    assert "near names: pets.safetensors" in refused("hf://me/pets/pet.safetensors")
    assert "there is no hf://me/pest" in refused("hf://me/pest/pets.safetensors")
    assert "hf auth login" in refused("hf://me/pest")
    assert "no .safetensors file" in refused("hf://me/pets/pets.bin")
    assert leftovers(tmp_path / "cache") == []


def test_a_private_repository(hub: Hub, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()}).private = True
    assert "HF_TOKEN" in refused("hf://me/pets/pets.safetensors")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert petl.read("hf://me/pets/pets.safetensors") == petl.read(delta)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("status", ["401", "403"])
def test_the_hub_refuses(hub: Hub, delta: Path, tmp_path: Path, status: str) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    hub.fail("/me/pets/resolve", status)
    assert "hf auth login" in refused("hf://me/pets/pets.safetensors")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.sweep(2)
@pytest.mark.parametrize("fault", ["cut", "short", "long", "flip", "500"])
def test_the_hub_fails(hub: Hub, delta: Path, tmp_path: Path, fault: str) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    hub.fail("GET /cdn", fault)
    said = refused("hf://me/pets/pets.safetensors")
    assert "hf://me/pets/pets.safetensors" in said and leftovers(tmp_path / "cache") == []
    hub.faults.clear()
    assert petl.read("hf://me/pets/pets.safetensors") == petl.read(delta)


def test_the_hub_fails_once(hub: Hub, delta: Path) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    hub.fail("HEAD /me/pets", "500", 1)
    hub.fail("GET /cdn", "flip", 1)
    assert petl.read("hf://me/pets/pets.safetensors") == petl.read(delta)


def test_offline(hub: Hub, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    petl.read("hf://me/pets")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert petl.read("hf://me/pets/pets.safetensors") == petl.read("hf://me/pets") == petl.read(delta)
    assert "HF_HUB_OFFLINE is set" in refused("hf://me/cars/cars.safetensors")
    assert len(hub.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert petl.read("hf://me/pets/pets.safetensors") == petl.read("hf://me/pets") == petl.read(delta)
    assert "http://127.0.0.1:9 can't be reached" in refused("hf://me/cars/cars.safetensors")


def test_a_copy_in_the_hubs_cache_that_was_damaged(hub: Hub, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    file = local_file("hf://me/pets/pets.safetensors")
    Path(file).resolve().write_bytes(delta.read_bytes()[:-1])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is damaged" in refused("hf://me/pets/pets.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert petl.read("hf://me/pets/pets.safetensors") == petl.read(delta)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "address", ["hf://pets", "hf://", "hf://me/pets@", "hf://me/../pets.safetensors", "hf:///me/pets/x"]
)
def test_addresses_of_no_repository(address: str) -> None:
    assert "expected hf://USER/REPO/FILE.safetensors" in refused(address)


# ------------------------------------------------------------------------------------------------ the web


@pytest.fixture
def page(hub: Hub, delta: Path) -> str:
    hub.files["pets.safetensors"] = delta.read_bytes()
    return f"{hub.url}/files/pets.safetensors"


def test_a_page(hub: Hub, page: str, delta: Path) -> None:
    assert petl.read(page) == petl.read(delta)
    assert petl.read(page) == petl.read(delta)
    file = local_file(page)
    assert isinstance(file, FetchedFile) and file.name == "pets.safetensors" and str(file) == page
    assert hub.asked == ["GET /files/pets.safetensors"] * 3  # the last two were answered by "not modified"


@pytest.mark.deep
def test_a_page_that_changes(hub: Hub, page: str, delta: Path, tmp_path: Path) -> None:
    petl.read(page)
    model = petl.load(delta, timm.create_model("test_vit", num_classes=2), check_base=False)
    hub.files["pets.safetensors"] = petl.save(model, tmp_path / "b.safetensors", labels=["eel", "ape"]).read_bytes()
    assert petl.read(page)["labels"] == ["eel", "ape"]
    assert len(leftovers(tmp_path / "cache")) == 2  # one copy, and what is known about it


@pytest.mark.sweep(4)
@pytest.mark.parametrize(
    "fault, said",
    [
        ("404", "there is no"),
        ("401", "no right to read"),
        ("403", "no right to read"),
        ("500", "fails (500)"),
        ("cut", "nothing was kept"),
        ("short", "announces"),
        ("long", "nothing was kept"),
        ("silent", "nothing was kept"),
        ("to file:///etc/passwd", "can't be fetched"),
    ],
)
def test_a_page_that_fails(hub: Hub, page: str, delta: Path, tmp_path: Path, fault: str, said: str) -> None:
    hub.fail("GET /files", fault)
    told = refused(page)
    assert said in told and page in told and leftovers(tmp_path / "cache") == []
    hub.faults.clear()
    hub.fail("GET /files", "500", 1)
    assert petl.read(page) == petl.read(delta)


def test_a_checksum_in_the_address(hub: Hub, page: str, delta: Path, tmp_path: Path) -> None:
    right = hashlib.sha256(delta.read_bytes()).hexdigest()
    assert "asks for 0000000000000000" in refused(f"{page}#sha256={'0' * 64}")
    assert leftovers(tmp_path / "cache") == []
    assert petl.read(f"{page}#sha256={right}") == petl.read(delta)
    asked = len(hub.asked)
    assert petl.read(f"{page}#sha256={right.upper()}") == petl.read(delta) and len(hub.asked) == asked
    assert "asks for 0000" in refused(f"{page}#sha256={'0' * 64}")
    assert "none that petl checks" in refused(f"{page}#md5=abc") and "64 hexadecimal" in refused(f"{page}#sha256=12")
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    assert (
        petl.read(f"hf://me/pets#sha256={right}") == petl.read(f"{delta.as_uri()}#sha256={right}") == petl.read(delta)
    )
    for address in ("hf://me/pets", delta.as_uri()):
        assert "asks for 0000" in refused(f"{address}#sha256={'0' * 64}")


def test_what_is_no_delta(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {"page": b"<!DOCTYPE html><html>", "short": b"abc", "huge": b"\xff" * 100}
    hub.files["header"] = b'\x08\0\0\0\0\0\0\0{"a": 1}'
    assert "begins with '<!DOCTYPE" in refused(f"{hub.url}/files/page")
    for name in ("short", "huge", "header"):
        refused(f"{hub.url}/files/{name}")
    assert leftovers(tmp_path / "cache") == []


def test_a_page_that_cant_be_reached(hub: Hub, page: str, delta: Path, caplog: Any) -> None:
    petl.read(page)
    hub.fail("GET /files", "500")
    assert petl.read(page) == petl.read(delta)
    assert "using the copy of" in caplog.text
    assert "can't be reached" in refused("http://127.0.0.1:9/pets.safetensors")


def test_a_copy_that_was_damaged_is_fetched_again(hub: Hub, page: str, delta: Path) -> None:
    Path(local_file(page).__fspath__()).write_bytes(b"damaged")
    assert petl.read(page) == petl.read(delta)


def test_passwords_and_signatures_are_not_shown(hub: Hub, page: str, tmp_path: Path) -> None:
    address = page.replace("http://", "http://me:secret@") + "?signature=hidden"
    petl.read(address)
    hub.fail("GET /files", "403")
    said = refused(address)
    assert "secret" not in said and "hidden" not in said and page in said
    kept = "".join(path.read_text() for path in (tmp_path / "cache").rglob("about.json"))
    assert page in kept and "secret" not in kept and "hidden" not in kept


# ------------------------------------------------------------------------------------------------ files, other kinds, the disk


def test_files(delta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaced = tmp_path / "my pets.safetensors"
    spaced.write_bytes(delta.read_bytes())
    monkeypatch.chdir(tmp_path)
    for address in (
        spaced,
        str(spaced),
        spaced.as_uri(),
        f"file://{spaced}",
        f"file://localhost{spaced}",
        "my pets.safetensors",
    ):
        assert petl.read(address) == petl.read(delta)
    assert "names the machine elsewhere" in refused("file://elsewhere/pets.safetensors")
    assert "is not a file" in refused((tmp_path / "none.safetensors").as_uri())


def test_other_kinds(delta: Path) -> None:
    import fsspec

    with fsspec.open("memory://pets.safetensors", "wb") as file:
        file.write(delta.read_bytes())
    assert petl.read("memory://pets.safetensors") == petl.read(delta)
    assert "there is no memory://cats" in refused("memory://cats.safetensors")
    assert "near names: s3" in refused("s33://bucket/pets.safetensors")


@pytest.mark.deep
def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:

    assert "gcsfs" in refused("gs://bucket/pets.safetensors")
    for name in ("s3fs", "aiohttp"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    assert 'pip install "petl-vision[s3]"' in refused("s3://bucket/pets.safetensors")
    assert 'pip install "petl-vision[remote]"' in refused("https://example.org/pets.safetensors")


def test_a_folder_that_cant_be_written(hub: Hub, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
    assert "can't be kept" in refused(page)


@pytest.mark.parametrize("kind", ["hub", "web"])
def test_a_full_disk(hub: Hub, page: str, delta: Path, tmp_path: Path, kind: str) -> None:
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()})
    address = page if kind == "web" else "hf://me/pets/pets.safetensors"
    with small_files(1000):
        assert "the disk is full" in refused(address)
    assert leftovers(tmp_path / "cache") == []
    assert petl.read(address) == petl.read(delta)


@pytest.mark.deep
def test_everything_that_takes_a_delta_takes_an_address(hub: Hub, page: str, delta: Path, tmp_path: Path) -> None:
    base = timm.create_model("test_vit", num_classes=2)
    base.load_state_dict(petl.unwrap(petl.load(delta, base, check_base=False)).state_dict())
    model = petl.wrap(base, "bias")
    hub.files["pets.safetensors"] = petl.save(model, tmp_path / "d.safetensors").read_bytes()
    petl.unwrap(model)
    tasks = petl.Tasks(base)
    tasks.add("pets", page)
    assert tasks.names == ("pets",) or list(tasks.names) == ["pets"]
    with pytest.raises(petl.DeltaError, match="files are written here alone"):
        petl.save(petl.load(page, base), page)
    with pytest.raises(petl.DeltaError, match="petl.push writes"):
        petl.save(base, "hf://me/pets/pets.safetensors")
    said = run_refused("combine", page, page, "--model", "test_vit:nope.pth", "--out", tmp_path / "sum.safetensors")
    assert "nope.pth" in said  # the deltas were fetched


@pytest.mark.deep
def test_addresses_where_none_can_be(delta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, and no folder is called ``hf:``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    there = "hf://me/pets/pets.safetensors"
    base = timm.create_model("test_vit", num_classes=2)
    with pytest.raises(petl.DeltaError, match=r"snapshot_download\('me/pets'\)"):
        petl.from_peft(base, "hf://me/pets")
    for write in (petl.to_peft, petl.export):
        with pytest.raises(petl.DeltaError, match="files are written here alone"):
            write(petl.wrap(timm.create_model("test_vit"), "bias"), there)
    with pytest.raises(petl.DeltaError, match="a folder's name"):
        petl.save(petl.wrap(timm.create_model("test_vit"), "bias"), "pets/")
    with pytest.raises(petl.StateError, match="folders here alone"):
        petl.ls("hf://me/pets")
    for word in (there, "s3://bucket/pets.safetensors"):
        assert "files are written here alone" in run_refused("convert", delta, word, "--dtype", "int8")
    assert list(tmp_path.iterdir()) == []
    assert call("convert", delta, "~/small.safetensors", "--dtype", "bfloat16").exit_code == 0
    assert petl.read("~/small.safetensors")["dtype"] == "bfloat16"
    assert [*tmp_path.iterdir()] == [tmp_path / "small.safetensors"]


@pytest.mark.deep
def test_a_fetched_file_isnt_written(hub: Hub, page: str) -> None:
    from petl.delta.kept_temperature import keep_temperature_in

    before = local_file(page).read_bytes()
    for path in (page, local_file(page)):
        with pytest.raises(petl.DeltaError, match="save a copy"):
            keep_temperature_in(path, 1.5)
    with pytest.raises(petl.DeltaError, match="save a copy"):
        petl.save(petl.wrap(timm.create_model("test_vit"), "bias"), local_file(page))
    assert local_file(page).read_bytes() == before


@pytest.mark.deep
def test_a_process_that_reads_its_environment(hub: Hub, delta: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN, as huggingface_hub itself reads them; with its xet client, too."""
    hub.repo("me/pets", **{"pets.safetensors": delta.read_bytes()}).private = True
    code = "import petl; print(petl.read('hf://me/pets/pets.safetensors')['labels'])"

    def run(**more: str) -> str:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", **more}
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **own}, capture_output=True, text=True)
        return done.stdout + done.stderr.strip().rpartition("\n")[2]

    assert "there is no hf://me/pets" in run() and leftovers(tmp_path / "home" / "hub") == []
    assert "HF_HUB_OFFLINE is set" in run(HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN)
    assert run(HF_TOKEN=TOKEN).startswith("['cat', 'dog']")
    assert run(HF_HUB_OFFLINE="1").startswith("['cat', 'dog']")

"""push: a delta and its model card, into a repository of the Hugging Face hub."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from petl.addresses.address import Address
from petl.addresses.hub_file import HubPlace, hub_place
from petl.delta.file import Paths, as_path, folder_to_write
from petl.delta.save import save
from petl.errors import DeltaError, StateError, shortened
from petl.format.atomic_files import open_atomically
from petl.sharing.card_data import card_data
from petl.sharing.card_text import card_text
from petl.sharing.delta_facts import DeltaFacts, delta_facts_of, results_given
from petl.sharing.pushed import Pushed
from petl.sharing.upload import upload

CARD, ENDING = "README.md", ".safetensors"


def push(
    delta: nn.Module | Paths,
    repo: str,
    *,
    file: str | None = None,
    dataset: str | None = None,
    results: Any = None,
    compare: Any = None,
    report: Any = None,
    licence: str | None = None,
    card: bool | Paths = True,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
    out: Paths | None = None,
    overwrite: bool = False,
) -> Pushed:
    """Writes a delta and a model card into a repository of the Hugging Face hub, in one commit.

    The repository is made where there is none. Files of the same names get a new version, as with every push to the hub; the
    older ones stay in its history. Whoever is logged in (``hf auth login``, or HF_TOKEN) is who pushes.

    Args:
        delta: a wrapped model, or the path or the address of a delta.
        repo: "USER/REPO"; also hf://USER/REPO@BRANCH/FILE.safetensors.
        file: the delta's name in the repository; without it the file's own, or REPO.safetensors of a model.
        dataset: what the results were measured on: a name, or the id of a dataset on the hub.
        results: what `petl.evaluate` returned, or a dict such as ``{"accuracy": 0.91, "accuracy_standard_error": 0.01, "images":
            600}``. None: those in the delta.
        compare: what `petl.compare` returned, or a JSON file that it or `petl.start` wrote: the card then says what the delta was
            compared with.
        report: the HTML page of `petl.report`, which goes into the repository. It shows images of the data: everybody who may
            read the repository sees them.
        licence: of the delta. None: that of the backbone's weights, as timm states it.
        card: True writes the card, False leaves that of the repository as it is, and a path is a card of your own.
        private: whether a repository that is made is private. None: as the hub is set.
        revision: the branch, which is made where it isn't there.
        commit_message: of the commit.
        dry_run: push nothing, and return what would be pushed.
        out: a folder to write the files to instead, to look at them. ``overwrite``: replace files that are there.

    Raises:
        DeltaError: the delta isn't whole, the names can't be, or the hub can't be written: nothing was pushed.
        StateError: the model isn't wrapped; a public repository where ``private`` was asked for; files in ``out``.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> pushed = petl.push(model, "me/pets", dataset="pets", dry_run=True)
    >>> list(pushed.files), pushed.address
    (['pets.safetensors', 'README.md'], 'hf://me/pets/pets.safetensors')
    """
    place, folder = _place(repo, revision), None if out is None else folder_to_write(out)
    page = _page(report)
    with _as_file(delta, place.repo, results) as path:
        name = _file_name(file or place.file or path.name)
        address = f"hf://{place.repo}{'@' + place.revision.replace('/', '%2F') if place.revision else ''}/{name}"
        about = {"dataset": dataset, "results": results, "compare": compare, "licence": licence}
        facts = delta_facts_of(path, **about, report=page.name if page else None)
        files = {name: path.read_bytes()}
    text = _card(card, facts, place.repo, address)
    files |= {CARD: text.encode()} if text else {}
    files |= {page.name: page.read_bytes()} if page else {}
    notes = notes_on(facts, is_card=bool(text))
    commit, url = None, None
    if folder is not None:
        _write(files, folder, overwrite)
    elif not dry_run:
        commit, url = upload(place, files, private=private, message=commit_message or _message(name, facts))
    sizes = {key: len(content) for key, content in files.items()}
    return Pushed(place.repo, place.revision, address, sizes, text, commit, url, folder, notes)


def _place(repo: str, revision: str | None) -> HubPlace:
    """Returns the repository, its branch and the file's name, or raises a DeltaError."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    expected = "expected USER/REPO, such as 'my-name/pets'"
    if not isinstance(repo, str):
        raise DeltaError(f"got a {type(repo).__name__} as the repository; {expected}")
    text = repo if repo.startswith("hf://") else f"hf://{repo}"
    place = hub_place(Address(text))
    assert place is not None  # an hf:// address is one, or was refused
    try:
        validate_repo_id(place.repo)
    except HFValidationError as error:
        raise DeltaError(
            f"{shortened(repo, 100)!r} can't be a repository: {shortened(str(error), 200)}; {expected}"
        ) from None
    if place.kind != "model":
        raise DeltaError(
            f"{shortened(repo, 100)!r} is a repository of {place.kind}s, and deltas go to models; {expected}"
        )
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise DeltaError(f"revision={revision!r:.60}; expected the name of a branch, such as 'dev', or None")
    if revision and place.revision and revision != place.revision:
        raise DeltaError(
            f"{repo!r} names the branch {place.revision}, and revision={revision!r} another one; name one of them"
        )
    return HubPlace(place.repo, place.file, revision or place.revision)


def _file_name(name: str) -> str:
    if not isinstance(name, str):
        raise DeltaError(f"got a {type(name).__name__} as the delta's name; expected one such as pets{ENDING}")
    parts = name.split("/")
    if (
        not name.endswith(ENDING)
        or name.startswith("/")
        or {"", ".", "..", ".git", ENDING} & {*parts}
        or "\\" in name
        or not name.isprintable()
    ):
        raise DeltaError(
            f"{shortened(name, 100)!r} can't be the delta's name in a repository; expected one such as pets{ENDING}"
        )
    return name


@contextmanager
def _as_file(delta: nn.Module | Paths, repo: str, results: Any) -> Iterator[Path]:
    """A context that yields the delta's file; a model is saved for it."""
    if not isinstance(delta, nn.Module):
        yield as_path(delta)
        return
    with tempfile.TemporaryDirectory(prefix="petl-") as folder:
        known = None if results is None else results_given(results)
        yield save(delta, Path(folder) / f"{repo.partition('/')[2]}{ENDING}", results=known)


def _page(report: Any) -> Path | None:
    """Returns the path of a report's page."""
    if report is None:
        return None
    page = Path(getattr(report, "path", report))
    if not page.is_file() or page.suffix.lower() not in (".html", ".htm"):
        raise StateError(f"report={str(page)!r} is no HTML file; expected the page that petl.report wrote")
    return page


def _card(card: Any, facts: DeltaFacts, repo: str, address: str) -> str:
    """Returns the text of README.md; "" where none is to be written."""
    from huggingface_hub import ModelCard

    if card is False:
        return ""
    if card is not True:
        try:
            return str(ModelCard(Path(card).read_text(encoding="utf-8")))
        except Exception as error:  # no file, no text, or no YAML at the top
            raise DeltaError(f"card={str(card)!r} is no model card: {shortened(str(error), 200)}") from error
    return f"---\n{card_data(facts, repo).to_yaml()}\n---\n\n{card_text(facts, repo, address)}"


def notes_on(facts: DeltaFacts, *, is_card: bool) -> list[str]:
    """Returns what the author should know, and warns of a licence that limits what others may do."""
    notes = []
    if facts.base.warning:
        notes.append(f"The weights of {facts.base.name} {facts.base.warning}; the card says so.")
        warnings.warn(notes[0], stacklevel=3)
    if is_card and not facts.figures:
        notes.append("The delta has no results: results=petl.evaluate(model, data) puts them onto the card.")
    elif is_card and not facts.dataset:
        notes.append("The card doesn't name the data of the results: dataset=NAME does.")
    if facts.report:
        notes.append(f"{facts.report} shows images of the data to everybody who may read the repository.")
    return notes


def _message(name: str, facts: DeltaFacts) -> str:
    methods = " + ".join(str(method["name"]) for method in facts.header.methods)
    return f"Upload {name}: {methods} on {facts.base.name or 'a model'}"


def _write(files: Mapping[str, bytes], folder: Path, overwrite: bool) -> None:
    """Writes the files to a folder, or raises a StateError where one is there."""
    there = [name for name in files if (folder / name).exists()]
    if there and not overwrite:
        raise StateError(f"{folder / there[0]} is there; name another folder, or pass overwrite=True to replace it")
    for name, content in files.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"can't write to {folder}: {error.strerror or error}") from error
        with open_atomically(folder / name) as file:
            file.write(content)

"""Files of repositories on the Hugging Face hub, through huggingface_hub: its cache, its token, its way of being offline."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from petl.addresses.address import Address
from petl.addresses.fetch_errors import Unreachable, fetch_error, fetch_errors_told
from petl.addresses.hub_access import cache_if_unreachable
from petl.addresses.incoming import refuse_wrong_checksum
from petl.addresses.kept_copies import file_sha256
from petl.errors import DeltaError, listing, near
from petl.format.tensorfile import read_header
from petl.version import __version__

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
REFS = re.compile(r"(refs/(?:pr/\d+|convert/[\w.-]+))(?:/|$)")  # revisions that have slashes
PAGE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/(?:blob|resolve|raw)/(refs/pr/\d+|[^/]+)/(.+)")
ENDING = ".safetensors"
MOST_LOOKED_AT = 20  # files of a repository whose headers are read, to find the one delta
EXPECTED_PLACE = "expected hf://USER/REPO/FILE.safetensors, hf://USER/REPO@REVISION/FILE.safetensors, or hf://USER/REPO"


@dataclass(frozen=True)
class HubPlace:
    """A place on the hub; ``file`` is "" for a repository as a whole, ``revision`` None for its main branch."""

    repo: str
    file: str = ""
    revision: str | None = None
    kind: str = "model"

    @property
    def options(self) -> dict[str, Any]:
        return {"repo_id": self.repo, "repo_type": self.kind, "revision": self.revision}


def hub_place(address: Address) -> HubPlace | None:
    """Returns the place that an address on the hub means, also that of one of its pages; None for another address.

    Raises:
        DeltaError: the address names no repository.

    >>> hub_place(Address("hf://me/pets@v1/a/pets.safetensors"))
    HubPlace(repo='me/pets', file='a/pets.safetensors', revision='v1', kind='model')
    """
    if address.scheme in ("http", "https"):
        return _of_page(address)
    if address.scheme != "hf":
        return None
    rest = address.text.partition("://")[2]
    first, _, more = rest.partition("/")
    kind, rest = (KINDS[first], more) if first in KINDS else ("model", rest)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?", rest)
    if match is None or ".." in rest.split("/") or "--" in match[1]:
        raise DeltaError(f"{address} names no repository; {EXPECTED_PLACE}")
    repo, revision, file = match[1], match[2], match[3] or ""
    if revision and (ref := REFS.match(f"{revision}/{file}")):
        revision, file = ref[1], f"{revision}/{file}"[ref.end() :]
    return HubPlace(repo, file.strip("/"), unquote(revision) if revision else None, kind)


def _of_page(address: Address) -> HubPlace | None:
    from huggingface_hub import constants

    url = urlsplit(address.text)
    hosts = {"huggingface.co", "hf.co", urlsplit(constants.ENDPOINT).netloc}
    match = PAGE.fullmatch(unquote(url.path)) if url.netloc in hosts else None
    return HubPlace(match[2], match[4], match[3], KINDS.get(match[1] or "", "model")) if match else None


def hub_file(address: Address, place: HubPlace) -> Path:
    """Returns the path of a file in huggingface_hub's cache, whose checksum was compared with the one that the hub names.

    Raises:
        DeltaError: there is no such file, no right to read it, no connection and no copy, or the file isn't what it should be.
    """
    from huggingface_hub import constants

    try:
        from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        raise DeltaError(f"{address} needs a newer huggingface_hub: pip install -U huggingface_hub") from error
    was_offline = constants.HF_HUB_OFFLINE
    with fetch_errors_told(address), cache_if_unreachable():
        try:
            name = place.file or only_delta(address, place)
            path = _downloaded(address, place, name)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            cause = error.__cause__
            if isinstance(cause, Exception) and not isinstance(cause, OfflineModeIsEnabled):
                raise fetch_error(address, cause) from error
            why = "HF_HUB_OFFLINE is set" if was_offline else f"{constants.ENDPOINT} can't be reached"
            raise Unreachable(f"{address} isn't in huggingface_hub's cache, and {why}") from error
    if address.sha256:
        refuse_wrong_checksum(address, file_sha256(path))
    return path


def _downloaded(address: Address, place: HubPlace, name: str) -> Path:
    """Returns the file's path; a copy that isn't as the hub says is fetched again, once."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not name.endswith(ENDING):
        raise DeltaError(f"{address}: {name} is no {ENDING} file; {EXPECTED_PLACE}")
    options = {**place.options, "library_name": "petl", "library_version": __version__}
    try:
        path = Path(hf_hub_download(filename=name, **options))
        if _is_damaged(path):
            if constants.HF_HUB_OFFLINE:
                raise DeltaError(
                    f"the copy of {address} in huggingface_hub's cache is damaged; load it again with a connection"
                )
            path = Path(hf_hub_download(filename=name, **options, force_download=True))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        there = [file for file in files_in(place) if file.endswith(ENDING)]
        hint = near(name, there) or (f"; it has {listing(there)}" if there else f"; it has no {ENDING} file")
        raise DeltaError(f"{place.repo} has no file {name}{hint}") from None
    if _is_damaged(path):
        os.unlink(os.path.join(path.parent, os.readlink(path)))
        path.unlink()
        raise DeltaError(f"{address} isn't the file whose checksum the hub names; nothing was kept: try again")
    return path


def _is_damaged(path: Path) -> bool:
    """Returns whether a file in the hub's cache isn't that of its checksum, by which the cache names its files.

    False where the system has no links, so that the name isn't known: then the delta's own checksum has to do.
    """
    if not path.is_symlink():
        return False
    name = os.path.basename(os.readlink(path))
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return file_sha256(path) != name
    if re.fullmatch(r"[0-9a-f]{40}", name):  # of git's objects
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != name
    return False


def files_in(place: HubPlace) -> list[str]:
    """Returns the names of a repository's files; offline, of those in the cache."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        folder = cached_folder(place)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    about: Any = HfApi(library_name="petl", library_version=__version__).repo_info(**place.options)
    return sorted(one.rfilename for one in about.siblings or ())


def cached_folder(place: HubPlace) -> Path:
    """Returns the folder of a revision's files in the hub's cache; huggingface_hub raises where there is none."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(**place.options, local_files_only=True))


def only_delta(address: Address, place: HubPlace) -> str:
    """Returns the name of the one delta in a repository.

    Raises:
        DeltaError: there is none, or there are several.
    """
    names = files_in(place)
    found = [name for name in names if name.endswith(ENDING)]
    if len(found) > 1:
        found = [name for name in found[:MOST_LOOKED_AT] if _is_delta(place, name)]
    if len(found) != 1:
        holds = f"{len(found)} deltas ({listing(found)})" if found else f"no delta ({listing(names) or 'it is empty'})"
        raise DeltaError(f"{address} holds {holds}; name one file: {address}/FILE{ENDING}")
    return found[0]


def _is_delta(place: HubPlace, name: str) -> bool:
    """Returns whether the header of a safetensors file has petl's entry; the header alone is fetched."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "petl" in read_header(cached_folder(place) / name)[0]
    api = HfApi(library_name="petl", library_version=__version__)
    header = api.parse_safetensors_file_metadata(place.repo, name, repo_type=place.kind, revision=place.revision)
    return "petl" in (header.metadata or {})

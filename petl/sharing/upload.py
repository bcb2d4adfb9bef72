"""Writes files into a repository of the hub: one commit, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from petl.addresses.fetch_errors import LOG_IN, LONGEST_SAID, status_of
from petl.addresses.hub_file import HubPlace
from petl.errors import DeltaError, PetlError, StateError, shortened
from petl.version import __version__


def upload(place: HubPlace, files: Mapping[str, bytes], *, private: bool | None, message: str) -> tuple[str, str]:
    """Writes the files in one commit, and makes the repository and the branch where they aren't there.

    Returns the commit's name and its address.

    Raises:
        StateError: the repository is public, and a private one was asked for.
        DeltaError: nobody is logged in, no right to write, no connection: nothing was pushed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, made = HfApi(library_name="petl", library_version=__version__), False
    with upload_errors_told(place.repo, lambda: made):
        about = _about(api, place.repo)
        if about is not None and private and not about.private:
            raise StateError(
                f"{place.repo} is there and public, and private=True counts when a repository is made; nothing was pushed: "
                "make it private in its settings on the hub, or name another one"
            )
        if about is None:
            api.create_repo(place.repo, private=private, exist_ok=True)
            made = True
        if place.revision and not place.revision.startswith("refs/"):
            api.create_branch(place.repo, branch=place.revision, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(place.repo, operations, commit_message=message, revision=place.revision)
    return commit.oid, commit.commit_url


def _about(api: Any, repo: str) -> Any:
    """Returns what the hub says of a repository; None where there is none that may be seen."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repo)
    except RepositoryNotFoundError:
        return None


@contextlib.contextmanager
def upload_errors_told(repo: str, was_made: Any) -> Iterator[None]:
    """A context that turns what huggingface_hub raises into one DeltaError."""
    try:
        yield
    except PetlError:
        raise
    except Exception as error:  # the hub's client has errors of many kinds
        rest = f"; {repo} was made, and is empty" if was_made() else ""
        raise DeltaError(f"nothing was pushed to {repo}: {_why(repo, error)}{rest}") from error


def _why(repo: str, error: Exception) -> str:
    kinds, status = {kind.__name__ for kind in type(error).__mro__}, status_of(error)
    said = shortened(" ".join((getattr(error, "server_message", None) or str(error)).split()), LONGEST_SAID)
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set, and pushing needs the hub: unset it"
    if status == 401 or "LocalTokenNotFoundError" in kinds:
        return "nobody is logged in, or the token isn't valid; log in with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"no right to write there ({said}); look at the name before the slash, and whether the token may write"
    if status == 404:
        return f"there is no such repository or branch, or no right to see it ({LOG_IN})"
    if status and status >= 500:
        return f"the hub fails ({status}); try again later"
    if isinstance(error, (ConnectionError, TimeoutError)) or kinds & {
        "TransportError",
        "NetworkError",
        "RequestException",
    }:
        return f"the hub can't be reached, or the connection broke off ({said}); try again"
    return f"{type(error).__name__}: {said}"

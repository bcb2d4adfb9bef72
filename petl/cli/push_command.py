"""The command that shares a delta: ``petl push``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from petl.cli.arguments import DeltaArgument, JsonOption, OverwriteOption
from petl.cli.models import existing_file
from petl.cli.terminal import say


def push_command(
    delta: DeltaArgument,
    repo: Annotated[str, typer.Argument(metavar="USER/REPO", help="A repository on the Hugging Face hub.")],
    file: Annotated[str | None, typer.Option(metavar="NAME", help="The delta's name there. [its own]")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="What the results were measured on: a name, or the hub's id.")
    ] = None,
    compare: Annotated[str | None, typer.Option(metavar="FILE", help="JSON of petl compare or petl start.")] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="The page of petl report; it shows images of the data.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the delta. [that of the backbone's weights]")] = None,
    card: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A card of your own; keep: leave the repository's. [one is written]"),
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a repository that is made. [as the hub is set]")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="The branch. [main]")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Push nothing; print the card.")] = False,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FOLDER", help="Push nothing; write the files there, to look at them."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Push a delta and a model card to the Hugging Face hub, in one commit."""
    import petl
    from petl.findings import as_text

    chosen: Any = False if card == "keep" else card if card is not None else True
    options: dict[str, Any] = {"dataset": dataset, "compare": compare, "report": report, "licence": licence}
    options |= {"private": private, "revision": revision, "commit_message": message, "card": chosen, "file": file}
    pushed = petl.push(existing_file(delta), repo, dry_run=dry_run, out=out, overwrite=overwrite, **options)
    if as_json:
        return say(as_text(pushed).rstrip("\n"))
    say(f"{pushed}\n\n{pushed.card}" if dry_run and not out else str(pushed))

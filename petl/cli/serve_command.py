"""``petl serve``: a server for the deltas of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from petl.cli.arguments import BackboneOption, PositiveInt, TrustOption


def serve_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With deltas NAME.safetensors: the tasks.")],
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ... [the accelerator, else the CPU]", show_default=False)
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 20_000_000,
    max_batch: PositiveInt = 32,
    max_wait_ms: Annotated[float, typer.Option(min=0, help="How long a batch waits for more images.")] = 5.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests held at once; more get 503.")] = 128,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = 50_000_000,
) -> None:
    """Answer images over HTTP with the deltas of a folder, which may come, change and go meanwhile."""
    import petl

    limits: dict[str, Any] = {"max_body": max_body, "max_batch": max_batch, "max_wait_ms": max_wait_ms}
    limits |= {"max_queue": max_queue, "max_pixels": max_pixels}
    petl.serve(folder, model, host=host, port=port, device=device, trust_remote=trust_remote, **limits)

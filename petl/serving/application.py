"""The application of `petl serve`, for this server or any other."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import nn

from petl.serving.backbones import folder_of_deltas, serving_backbone
from petl.serving.service import Service, refuse_missing_packages
from petl.serving.serving_settings import ServingSettings
from petl.training.setting_checks import refuse_unknown_options

if TYPE_CHECKING:
    from fastapi import FastAPI


def serving_app(
    folder: str | os.PathLike[str],
    model: nn.Module | str | None = None,
    *,
    device: Any = None,
    trust_remote: bool = False,
    **limits: Any,
) -> FastAPI:
    """Returns a FastAPI application that answers images by the deltas in a folder, to mount in another, or for any server.

    The folder and its deltas are read at once, so errors are raised here. Threads start with the application, or with the first
    request where it is mounted.

    Args:
        folder, model, device, trust_remote: as in `petl.serve`.
        limits: ``max_body``, ``max_batch``, ``max_wait_ms``, ``max_queue``, ``max_pixels``, ``poll_s`` and ``body_s``, as there.

    Raises:
        PetlError: there is no such folder, its deltas have several backbones, or a limit can't be.
        StateError: fastapi isn't installed.

    >>> import petl, petl.serving, tempfile, timm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     site = petl.serving.app(folder, timm.create_model("test_vit"), max_batch=16)
    >>> site.title
    'petl serve'
    """
    refuse_missing_packages()
    refuse_unknown_options("petl.serving.app", limits, [one.name for one in fields(ServingSettings)])
    from petl.serving.routes import site_of

    settings, path = ServingSettings(**limits), folder_of_deltas(folder)
    return site_of(Service(path, serving_backbone(path, model, trust_remote), device, settings))

"""The tasks that a server has: those of a folder's deltas, which come, are replaced and go while requests are answered."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from petl.errors import PetlError, listing, printable
from petl.serving.advice import in_terms_of_the_server
from petl.serving.folder import FolderWatch, ServedFile, Stamp
from petl.serving.served_task import ServedTask
from petl.sites.meta import pretrained_cfg
from petl.tasks.tasks import Tasks

log = logging.getLogger("petl.serving")


class Catalogue:
    """Tasks by name, and files that were refused, each with its reason; both are replaced as a whole, so readers need no lock.

    A file that replaces another is put in its place when it has loaded and answered an image. Where it can't, the earlier one
    goes on.
    """

    def __init__(self, folder: Path, backbone: nn.Module, device: Any, settle_s: float) -> None:
        self.folder = folder
        self.base = Tasks(backbone).to(device)
        cfg = pretrained_cfg(backbone)
        self.backbone = ".".join(cfg[key] for key in ("architecture", "tag") if cfg.get(key)) or type(backbone).__name__
        self.tasks: dict[str, ServedTask] = {}
        self.refused: dict[str, str] = {}
        self.replaced = 0  # how often another file has taken a task's place
        self._watch = FolderWatch(folder, settle_s)
        self._handled: dict[str, Stamp] = {}
        self._keys: dict[str, str] = {}  # of a task's name: its name in `base`, another for each file
        self._added = 0

    def update(self) -> None:
        """Looks at the folder once, and does what has changed in it."""
        try:
            files = self._watch.look()
        except OSError as error:
            log.warning("can't look into %s (%s); the tasks stay as they are", self.folder, error.strerror or error)
            return
        self._forget({*self._handled} - {*files})
        for name, file in files.items():
            if file.settled and self._handled.get(name) != file.stamp:
                self._take(name, file)

    def _forget(self, gone: set[str]) -> None:
        """Drops the tasks of files that are no longer there; requests that hold one are answered by it."""
        for name in sorted(gone):
            self._handled.pop(name)
            self.refused = {key: why for key, why in self.refused.items() if key != name}
            task = name.removesuffix(".safetensors")
            if task in self.tasks:
                self.tasks = {key: value for key, value in self.tasks.items() if key != task}
                self.base.remove(self._keys.pop(task))
                log.info("%s is gone: task %r is dropped", printable(name), task)

    def _take(self, name: str, file: ServedFile) -> None:
        """Puts a file's delta in the place of what its name had; a file that changed meanwhile is looked at again."""
        try:
            task, key = self._loaded(file)
        except Exception as error:
            if Stamp.of(file.path) == file.stamp:
                self._refuse(name, file, error)
            return
        if Stamp.of(file.path) != file.stamp:
            self.base.remove(key)
            return
        before = self._keys.get(file.name)
        self._handled[name], self._keys[file.name] = file.stamp, key
        self.tasks = dict(sorted({**self.tasks, file.name: task}.items()))
        self.refused = {other: why for other, why in self.refused.items() if other != name}
        if before is not None:
            self.base.remove(before)
            self.replaced += 1
        log.info("%s: task %r (%s) is %s", name, file.name, task.kind, "there" if before is None else "replaced")

    def _loaded(self, file: ServedFile) -> tuple[ServedTask, str]:
        _refuse_name(file.path.name)
        self._added += 1
        key = file.name if file.name not in self.base else f"{file.name} (file {self._added})"
        self.base.add(key, file.path)
        try:
            return ServedTask.of(self.base, key, file), key
        except BaseException:
            self.base.remove(key)
            raise

    def _refuse(self, name: str, file: ServedFile, error: Exception) -> None:
        self._handled[name] = file.stamp
        if isinstance(error, PetlError):
            why = in_terms_of_the_server(" ".join(str(error).replace(str(file.path), file.path.name).split()))
        else:  # a fault of ours, or no memory
            log.error("%s can't be loaded", printable(name), exc_info=error)
            why = f"it can't be loaded ({type(error).__name__}); the server's log says more"
        if file.name in self.tasks:
            why += "; the earlier file of this name is served on"
        self.refused = dict(sorted({**self.refused, name: why}.items()))
        log.warning("%s is refused: %s", printable(name), why)

    def described(self) -> list[dict[str, Any]]:
        """Returns what `GET /tasks` says of each task."""
        return [task.description() for task in self.tasks.values()]

    def __repr__(self) -> str:
        return f"{len(self.tasks)} tasks ({listing(self.tasks) or 'none'})"


def _refuse_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PetlError("its name isn't UTF-8, and a request has to name its task; rename the file") from None

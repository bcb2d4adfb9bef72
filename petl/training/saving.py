"""What a training writes while it runs (the best delta, the file beside it), and what it tells the user."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from petl.delta.delta import read
from petl.errors import PetlError, printable
from petl.training.checkpoints import newest_checkpoint
from petl.training.rehearsal import save_or_rescue
from petl.training.run import Run
from petl.training.run_file import write_run_file
from petl.training.trained_state import cloned

log = logging.getLogger(__name__)


def save_best(run: Run) -> PetlError | None:
    """This epoch is the best so far: remember its values, and write its delta; why that can't be, to be raised later."""
    failed = None
    if run.settings.keep == "best":
        run.best = cloned(run.moving)
    if run.settings.out and run.accelerator.is_main_process:
        try:
            save_or_rescue(run.model, run.settings.out, run.labels, run.history.best)
        except PetlError as error:
            failed = error
    run.accelerator.wait_for_everyone()
    return failed


def save_run_file(run: Run) -> None:
    """Settings, history and split go beside the delta; an epoch isn't lost where they can't."""
    if run.settings.out and run.accelerator.is_main_process:
        try:
            write_run_file(run.settings.out, run.settings, run.history, run.split)
        except PetlError as error:
            log.warning("%s", error)


def print_line(run: Run, line: str) -> None:
    """A line on stderr: above the bar on a terminal, one after the other in log files and notebooks."""
    if run.settings.progress and run.accelerator.is_main_process:
        run.progress.console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def report_interruption(run: Run) -> None:
    """Say what is left of a training that Ctrl-C ended."""
    settings, kept = run.settings, []
    if settings.out and (row := saved_row(run)):
        kept.append(f"{settings.out} holds {run.history.describe(row)}")
    if settings.checkpoint and (place := newest_checkpoint(Path(settings.checkpoint))):
        kept.append(f"{place} is the last whole epoch, from which resume goes on")
    print_line(run, f"interrupted in epoch {len(run.history) + 1}: {'; '.join(kept) or 'nothing was written'}")


def saved_row(run: Run) -> dict[str, Any] | None:
    """The row of this run's epoch whose values are in ``out``."""
    with contextlib.suppress(PetlError):
        results = read(run.settings.out)["results"] or {}
        same = ("epoch", "train_loss", "seconds")
        return next((row for row in run.history.rows if all(row[k] == results.get(k) for k in same)), None)
    return None

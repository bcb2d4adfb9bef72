"""What a training writes while it runs (the best delta, the file beside it), and what it tells the user."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from petl.delta.load import read
from petl.errors import PetlError, printable
from petl.graft.sharded import is_sharded_model
from petl.training.checkpoints import newest_checkpoint, write_checkpoint
from petl.training.history import History
from petl.training.learning_curves import can_show_blocks, remaining_time
from petl.training.rehearsal import save_or_rescue
from petl.training.run import Run
from petl.training.run_file import write_run_file
from petl.training.trained_state import cloned

log = logging.getLogger(__name__)


def save_best(run: Run) -> PetlError | None:
    """Keeps the values of this epoch, the best so far, and writes its delta.

    Returns the error if the delta can't be written where it belongs: it is raised after the epoch's other files are written.
    """
    failed = None
    if run.settings.run.keep == "best":
        run.best = cloned(run.trained)
    if run.settings.run.out and writes_deltas(run):
        try:
            with run.all_open():
                save_or_rescue(run.model, run.settings.run.out, run.labels, run.history.best)
        except PetlError as error:
            failed = error
    run.accelerator.wait_for_everyone()
    return failed


def writes_deltas(run: Run) -> bool:
    """Returns whether this process takes part in saving a delta: rank 0, or all of them where each holds a part of the model."""
    return run.accelerator.is_main_process or is_sharded_model(run.model)


def write_epoch(run: Run, row: dict[str, Any]) -> None:
    """Prints the row of an epoch, and writes the file beside the delta and the checkpoint."""
    left = remaining_time(run.history, run.epochs)
    print_line(run, "  ".join(filter(None, [run.history.line(row, run.epochs), left])))
    save_run_file(run)
    if run.settings.run.checkpoint:
        write_checkpoint(run.accelerator, Path(run.settings.run.checkpoint), row["epoch"])


def save_run_file(run: Run) -> None:
    """Writes settings, history and split beside the delta. A failure is logged, and the training goes on."""
    if run.settings.run.out and run.accelerator.is_main_process:
        try:
            write_run_file(run.settings.run.out, run.settings, run.history, run.split)
        except PetlError as error:
            log.warning("%s", error)


def print_line(run: Run, line: str) -> None:
    """Prints a line on stderr: above the bar on a terminal, one after the other in log files and notebooks."""
    if run.settings.run.progress and run.accelerator.is_main_process:
        run.progress.console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_curves(run: Run) -> None:
    """Prints the learning curves of a training of three epochs or more, as the last lines."""
    if len(run.history) < 3:
        return
    for line in run.history.curves(ascii=not can_show_blocks(run.progress.console.encoding)).splitlines():
        print_line(run, line)


def report_interruption(run: Run) -> None:
    """Says which files are left of a training that Ctrl-C ended."""
    settings, kept = run.settings.run, []
    if settings.out and (row := row_in_delta(settings.out, run.history)):
        kept.append(f"{settings.out} holds {run.history.describe(row)}")
    if settings.checkpoint and (folder := newest_checkpoint(Path(settings.checkpoint))):
        kept.append(f"{folder} is the last whole epoch, from which resume goes on")
    print_line(run, f"interrupted in epoch {len(run.history) + 1}: {'; '.join(kept) or 'nothing was written'}")


def row_in_delta(path: str | Path, history: History) -> dict[str, Any] | None:
    """Returns the row of the epoch whose values are in the delta file, or None where it is of no epoch of this training."""
    with contextlib.suppress(PetlError):
        results = read(path)["results"] or {}
        keys = ("epoch", "train_loss", "seconds")
        return next((row for row in history.rows if all(row[key] == results.get(key) for key in keys)), None)
    return None

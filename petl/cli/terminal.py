"""Prints what a command says, on the right stream and with the right exit code. No text of a file can steer the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from petl.errors import PetlError, printable, shortened
from petl.tables import table

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, which newer typers carry inside
LINE = 1500  # characters of an error's one line
HUNG_UP = 128 + 13  # as shells report a program that SIGPIPE ended
INTERRUPTED = 128 + 2


class Commands(TyperGroup):
    """Shows errors that a user can mend as one line on stderr, with exit code 2; everything else keeps its traceback."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        with _errors_as_lines():
            code = super().main(*args, **{**kwargs, "prog_name": "petl", "standalone_mode": False})
            if code == INTERRUPTED:  # newer typers answer Ctrl-C so, older ones with Abort
                raise KeyboardInterrupt
            sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Turns whatever ends the command inside into one line for people and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label that the terminal's alphabet lacks is no error
    try:
        with warnings.catch_warnings(), _log_as_notes():
            warnings.showwarning = _show_warning
            yield
    except USAGE_ERROR as error:
        _refuse(_usage(error))
    except BrokenPipeError:
        _hang_up()
    except (PetlError, OSError) as error:
        _refuse(str(error) or type(error).__name__)
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        sys.exit(INTERRUPTED)
    except Exception:  # ours: the traceback helps whoever mends it
        sys.excepthook = _print_traceback
        raise


class _Notes(logging.Handler):
    """Prints what the library logs (files left out, say) as notes, each text once, however often a folder is read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        words = shortened(" ".join(record.getMessage().split()), LINE)
        if words not in self.said:
            self.said.add(words)
            note(words)


@contextlib.contextmanager
def _log_as_notes() -> Iterator[None]:
    log, notes = logging.getLogger("petl"), _Notes()
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)


def _usage(error: Any) -> str:
    """Returns what was wrong with the command line, and how to print the help."""
    context = getattr(error, "ctx", None)
    return f"{error.format_message().rstrip('.')}; see {context.command_path if context else 'petl'} --help"


def _refuse(message: str) -> NoReturn:
    note(shortened(" ".join(message.split()), LINE))
    sys.exit(2)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    note(f"warning: {shortened(' '.join(str(message).split()), LINE)}")


def _print_traceback(*error: Any) -> None:
    sys.stderr.write(printable("".join(traceback.format_exception(*error)), keep="\n"))


def say(text: object) -> None:
    """Prints a result on stdout; line breaks stay."""
    _write(sys.stdout, printable(str(text), keep="\n"))


def note(text: object) -> None:
    """Prints one line about the work on stderr."""
    _write(sys.stderr, f"petl: {printable(str(text))}")


def _write(stream: Any, text: str) -> None:
    if stream is None:  # closed by whoever started the program
        return
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        _hang_up()


def _hang_up() -> NoReturn:
    """Ends quietly when the reader of a pipe has gone (``petl methods | head -1``), also when Python flushes what is left."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nothing, stream.fileno())
    sys.exit(HUNG_UP)


def show(head: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Prints a table: in a frame that fits a terminal, else one line for each row, for other programs."""
    if sys.stdout is not None and sys.stdout.isatty():
        return _write(sys.stdout, _framed(head, rows, title))
    say("\n".join([*([printable(title)] if title else []), table([head, *rows], left=range(len(head)))]))


def _framed(head: Sequence[str], rows: Sequence[Sequence[object]], title: str) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    framed = Table(title=Text(printable(title)) if title else None)
    for name in head:
        framed.add_column(Text(printable(name)), overflow="fold")
    for row in rows:
        framed.add_row(
            *(Text(printable(str(cell))) for cell in row)
        )  # Text: brackets and :words: of a label are no markup
    with console.capture() as shown:
        console.print(framed)
    return shown.get().rstrip("\n")

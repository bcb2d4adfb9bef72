"""The command line: its commands with their names and examples.

``petl --version`` and ``--help`` are asked for often and import neither torch nor timm: each command imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from petl.cli.advise_command import advise_command
from petl.cli.combine_command import combine_command
from petl.cli.compare_command import compare_command
from petl.cli.correct_command import correct_command
from petl.cli.delta_commands import convert_command, inspect_command, merge_command
from petl.cli.exchange_commands import export_command, from_peft_command, to_peft_command
from petl.cli.extend_command import extend_command
from petl.cli.extract_command import extract_command
from petl.cli.image_commands import evaluate_command, predict_command, train_command
from petl.cli.ls_command import ls_command
from petl.cli.model_commands import demo_command, methods_command, plan_command
from petl.cli.push_command import push_command
from petl.cli.rank_command import rank_command
from petl.cli.report_command import report_command
from petl.cli.serve_command import serve_command
from petl.cli.shift_command import shift_command
from petl.cli.start_command import start_command
from petl.cli.terminal import Commands, say
from petl.version import __version__

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Parameter-efficient transfer learning for the vision models of timm.",
    epilog="Example: petl demo",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        say(__version__)
    elif context.invoked_subcommand is None:
        say(context.get_help())


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (  # name, function, example
    ("start", start_command, "petl start pets --minutes 10"),
    ("rank", rank_command, "petl rank pets --max-params 30M --licence open"),
    ("advise", advise_command, "petl advise resnet50 pets --new new --out advice.json"),
    ("compare", compare_command, "petl compare resnet50 pets --method lora --method norm --seconds 600 --folder runs"),
    ("train", train_command, "petl train pets --model resnet50 --method lora --rank 8 --out pets.safetensors"),
    ("eval", evaluate_command, "petl eval pets.safetensors pets"),
    ("predict", predict_command, "petl predict pets.safetensors new --out predictions.csv"),
    ("shift", shift_command, "petl shift pets.safetensors pets new --out shift.json"),
    ("correct", correct_command, "petl correct pets.safetensors --shift shift.json --out corrected.safetensors"),
    ("report", report_command, "petl report pets.safetensors pets --out pets.html"),
    ("plan", plan_command, "petl plan resnet50 --method input --method lora --in-chans 1 --rank 8"),
    ("inspect", inspect_command, "petl inspect pets.safetensors"),
    ("convert", convert_command, "petl convert pets.safetensors small.safetensors --dtype int8"),
    ("ls", ls_command, "petl ls runs --recursive --sort result"),
    ("push", push_command, "petl push pets.safetensors my-name/pets --dataset 'Oxford pets' --dry-run"),
    ("merge", merge_command, "petl merge pets.safetensors merged.safetensors"),
    ("export", export_command, "petl export pets.safetensors pets.onnx"),
    ("to-peft", to_peft_command, "petl to-peft pets.safetensors pets-peft"),
    ("from-peft", from_peft_command, "petl from-peft pets-peft pets.safetensors --model resnet50"),
    ("combine", combine_command, "petl combine pets.safetensors birds.safetensors --how ties --out both.safetensors"),
    ("extract", extract_command, "petl extract resnet50:base.safetensors tuned.pth tuned.safetensors --rank 8"),
    ("extend", extend_command, "petl extend pets.safetensors more-pets --out all-pets.safetensors"),
    ("serve", serve_command, "petl serve deltas --port 8000"),
    ("methods", methods_command, "petl methods"),
    ("demo", demo_command, "petl demo --out my-deltas"),
)
for name, function, example in COMMANDS:
    app.command(name, epilog=f"Example: {example}")(function)

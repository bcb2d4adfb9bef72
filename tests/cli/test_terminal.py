"""What reaches a terminal, on which stream, with which exit code; and how fast the command answers."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from typer.testing import CliRunner

import petl
from petl.cli import terminal
from petl.cli.app import app
from petl.cli.key_values import keyword_arguments
from petl.errors import listing, near
from petl.tables import html_table, table

SPOKEN = terminal._errors_as_lines.__name__
EVIL = "\x1b]0;owned\x07\x9b31m\u202egpj\n[bold] :smile: <b>\udcff"
SAFE = r"\x1b]0;owned\x07\x9b31m\u202egpj\n[bold] :smile: <b>\udcff"


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["train", "--help"], []])
def test_what_needs_no_model_brings_no_torch(words: list[str]) -> None:
    code = f"""
import sys
from petl.cli.app import app
try:
    app({words!r})
except SystemExit as end:
    assert not end.code, end.code
print({{"torch", "timm", "numpy", "rich"}} & set(sys.modules))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("set()"), done.stdout


def test_petl_alone_prints_its_help() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0 and done.stderr == ""
    assert done.stdout == CliRunner().invoke(app, ["--help"]).stdout and done.stdout.count("\n") > 10


def test_an_unknown_word_says_where_the_known_ones_are() -> None:
    done = CliRunner().invoke(app, ["merge"])
    assert done.exit_code == 2 and "see petl merge --help" in done.stderr and done.stderr.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_data_is_printed_as_it_is_and_nothing_of_it_is_obeyed(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, beside = stream(), stream()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", beside)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")  # rich's own bold head is none of the data's
    terminal.show(("head", EVIL), [("cat [small]", EVIL)], title=EVIL)
    terminal.say(EVIL.replace("\n", ""))
    terminal.note(EVIL)
    for text in (shown.getvalue(), beside.getvalue()):
        assert not any(c in text for c in "\x1b\x07\x9b\u202e\udcff")
    assert shown.getvalue().count(SAFE) == 3 and "cat [small]" in shown.getvalue()
    assert beside.getvalue() == f"petl: {SAFE}\n"


def test_a_narrow_terminal_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", "40")
    terminal.show(("image", "label"), [("x" * 60, "y" * 30)])
    assert shown.getvalue().count("x") == 60 and shown.getvalue().count("y") == 30
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in shown.getvalue().splitlines()) <= 40  # the head is bold


@pytest.mark.parametrize("error", [petl.DataError, petl.DeltaError, petl.StateError])
def test_messages_are_bounded_and_plain(error: type[petl.PetlError]) -> None:
    said = str(error(f"{EVIL} {'x' * 20_000}; pass split= to mend it"))
    assert SAFE.replace(r"\n", "\n") in said and len(said) < 2000 and said.endswith("pass split= to mend it")
    assert len(listing(["x" * 5000] * 50)) < 1200
    assert near("x" * 5000, ["x" * 4999]) == ""


def test_words_of_other_libraries_are_cut(tmp_path: Path) -> None:
    """Weights of another architecture: torch names every tensor of both."""
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    done = CliRunner().invoke(
        app, ["train", "x", "--model", f"test_resnet:{tmp_path / 'vit.pth'}", "--out", "/tmp/none.x"]
    )
    assert done.exit_code == 2 and "left out" in done.stderr and len(done.stderr) < 1600


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["epochs=many"], "whole number"),
        (["clip=true"], "a number"),
        (["keep=first"], "last or best"),
        (["patience=1.5"], "whole number"),
        (["out=x"], "no option 'out'"),
        (["on_epoch=print"], "no option 'on_epoch'"),
        (["nested=" + "[" * 100_000], "no option"),
    ],
)
def test_options_of_fit_have_its_types(words: list[str], said: str) -> None:
    with pytest.raises(petl.MethodError, match=said) as caught:
        keyword_arguments(petl.fit, words, but=("out", "on_epoch"))
    assert len(str(caught.value)) < 1000


def test_options_of_fit_arrive() -> None:
    words = [
        "patience=3",
        "clip=1",
        "resume=true",
        "labels=a,b",
        "checkpoint=run",
        "class_weights=balanced",
        "cache=true",
    ]
    assert keyword_arguments(petl.fit, words) == {
        "patience": 3,
        "clip": 1,
        "resume": True,
        "labels": ["a", "b"],
        "checkpoint": "run",
        "class_weights": "balanced",
        "cache": True,
    }


def test_a_reader_that_has_gone_ends_the_command_quietly() -> None:
    code = f"from {terminal.__name__} import say\nfor i in range(100_000): say('line')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_a_label_that_the_terminals_alphabet_lacks_is_spelt() -> None:
    code = f"import sys; from {terminal.__name__} import {SPOKEN} as spoken, say\nwith spoken(): say('Zürich')"
    done = python(code, env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(petl.__path__[0]).parent)})
    assert done.stdout == "Z\\xfcrich\n", done.stderr


def test_what_nobody_foresaw_keeps_its_traceback_and_is_spelt() -> None:
    code = f"from {terminal.__name__} import {SPOKEN} as spoken\nwith spoken(): raise RuntimeError('\\x1b[2J')"
    done = python(code)
    assert done.returncode == 1 and "Traceback" in done.stderr and "\x1b" not in done.stderr


def test_a_closed_stdout_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    terminal.say("nobody")
    terminal.show(("a",), [("b",)])


def test_tables_have_html_for_notebooks() -> None:
    assert "&lt;b&gt;" in html_table([("head",), (EVIL,)]) and "\x1b" not in html_table([("head",), (EVIL,)])
    assert "\x1b" not in table([("head",), (EVIL,)])
    model = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=2)
    history = petl.History(rows=[{"epoch": 1, "train_loss": 0.5, "lr": 0.1, "seconds": 1.0}])
    for shown in (petl.summary(model), petl.find(model), history):
        html = shown._repr_html_()
        first = repr(shown).splitlines()[0].split("  ")[0]
        assert html.startswith("<table>") and f">{first}</th>" in html


def test_a_record_prints_in_a_line() -> None:
    model = petl.wrap(timm.create_model("test_vit"), ["bias", petl.LoRA(rank=2)], num_classes=3)
    record = petl.record(model)
    record.labels = [EVIL] * 1000
    assert len(repr(record)) < 300 and "lora at" in repr(record) and "\x1b" not in repr(record)


def test_json_is_safe_to_print() -> None:
    from petl.cli.phrases import as_json_text

    text = as_json_text({"label": EVIL + "\x7f"})
    assert text.isascii() and text.isprintable() and json.loads(text)["label"] == EVIL + "\x7f"


class Interrupting(torch.utils.data.Dataset):
    """Ctrl-C comes with item number ``after``."""

    def __init__(self, after: int) -> None:
        self.asked, self.after = 0, after

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.asked += 1
        if self.asked > self.after:
            raise KeyboardInterrupt
        return torch.full((3, 32, 32), float(index)), index % 2


def test_fit_tells_each_epoch_and_what_ctrl_c_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=2)
    out, run = tmp_path / "d.safetensors", tmp_path / "run"
    data, val = Interrupting(2 * 4 + 2), Interrupting(1000)
    with pytest.raises(KeyboardInterrupt):
        petl.fit(model, data, val, epochs=5, lr=1e-3, batch_size=4, out=out, checkpoint=run)
    shown = " ".join(capsys.readouterr().err.split())
    assert re.search(
        r"epoch 1/5 train_loss [\d.]+ loss [\d.]+ accuracy [\d.]+ \+- [\d.]+ [\d.]+ s best so far "
        r"about \d+ s left epoch 2/5",
        shown,
    ), shown
    best = petl.read(out)["results"]["epoch"]
    assert f"{out} holds epoch {best} (accuracy" in shown and "epoch-0002 is the last whole epoch" in shown
    rows = json.loads((tmp_path / "d.history.json").read_text())["history"]["rows"]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_fit_without_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    petl.fit(model, Interrupting(1000), epochs=1, lr=1e-3, batch_size=4, progress=False)
    assert capsys.readouterr().err == ""

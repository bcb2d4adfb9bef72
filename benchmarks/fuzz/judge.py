"""Judges one file: what petl makes of it, and whether that is the right delta or one PetlError that harms nothing."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import petl
from benchmarks.fuzz import accidents, enemies
from benchmarks.fuzz.victim import Victim, same_bits
from benchmarks.fuzz.watch import Watch
from petl.cli.delta_commands import inspect_command
from petl.delta.file import read_delta
from petl.delta.save import delta_of
from petl.delta.sealed_text import KEY, SEAL, seal_of
from petl.format.tensorfile import write_file
from tests.support import golden

KINDS_OF_CASE = (*["bytes"] * 8, *["container"] * 5, "mixed", "mixed", *["recipe"] * 4, "tensors")


class Judge:
    """Makes cases by their numbers, and says what is wrong with each; ``counts`` has how they ended."""

    def __init__(self, folder: Path, seed: int, kinds: list[str] | None = None):
        self.path, self.seed, self.counts = folder / "case.safetensors", seed, Counter()
        self.victims = [Victim(kind) for kind in kinds or golden.KINDS]
        self.watch = Watch(self.path)
        self.slowest, self.most_memory = 0.0, 0
        for victim in self.victims:  # imports and caches of a first call are no fault of any file
            self.path.write_bytes(victim.bytes)
            petl.unwrap(petl.load(self.path, victim.base))
            victim.base.eval()
            if why := self._through(victim, None):
                raise SystemExit(f"{victim.kind}, as it is: {why}")
            self._inspected()
            petl.load(self.path, pretrained=False, check_base=False)
        self.slowest, self.most_memory = 0.0, 0
        self.counts.clear()

    def case(self, number: int) -> tuple[Victim, str, bytes]:
        """The victim, the kind of change, and the changed file of a case."""
        chance = random.Random(f"{self.seed}:{number}")
        victim, kind = chance.choice(self.victims), chance.choice(KINDS_OF_CASE)
        if kind == "bytes":
            return victim, kind, accidents.by_bytes(victim.bytes, chance)
        if kind == "container":
            return victim, kind, accidents.by_container(victim.bytes, chance)
        other = chance.choice(self.victims)
        if kind == "mixed":
            return victim, kind, accidents.by_mixing(victim.bytes, other.bytes, chance)
        recipe, tensors = victim.recipe, victim.tensors
        if kind == "recipe":
            recipe = enemies.changed_recipe(recipe, other.recipe, chance)
        else:
            tensors = enemies.changed_tensors(tensors, victim.state, chance)
        return victim, kind, self._written(recipe, tensors, chance)

    def _written(self, recipe: dict[str, Any], tensors: dict[str, Tensor], chance: random.Random) -> bytes:
        """The file of an enemy: under its own checksums where it helps, without them where that is less to write."""
        recipe = {key: value for key, value in recipe.items() if key != "checksum"}
        text = enemies.sealed_text(recipe, chance)
        metadata = {KEY: text, **({SEAL: seal_of(text)} if chance.random() < 0.5 else {})}
        try:
            return write_file(self.path, tensors, metadata).read_bytes()
        except petl.PetlError:  # such as a name that no file can have: then the bytes of an accident will do
            return accidents.by_bytes(self.path.read_bytes() if self.path.exists() else b"", chance)

    def faults(self, number: int) -> list[str]:
        """Everything that is wrong with how petl takes one case; nothing, if all is right."""
        victim, kind, data = self.case(number)
        self.path.write_bytes(data)
        found = self._read_and_inspected(number)
        untouched = data == victim.bytes
        end = self._through(victim, found if kind in ("bytes", "container", "mixed") else [])
        if end.startswith("fault"):
            found.append(end)
            victim.renew()
        taken = end in ("", "taken")
        if taken and (number % 8 == 0 or self.header["backbone"] != victim.recipe["backbone"]):
            self._watched(
                "load without a model", lambda: petl.load(self.path, pretrained=False, check_base=False), found
            )
        elif not taken and self.readable and number % 4 == 0:
            self._watched("load without a model", lambda: petl.load(self.path, pretrained=False), found)
        if untouched and not taken:
            found.append("a whole file was refused")
        if self.path.read_bytes() != data or sorted(self.path.parent.iterdir()) != [self.path]:
            found.append("files were changed")
        self.counts[
            f"{kind}: {'taken' if taken else 'refused when loaded' if self.readable else 'refused when read'}"
        ] += 1
        return found

    def _read_and_inspected(self, number: int) -> list[str]:
        found: list[str] = []
        self.header = self._watched("read", lambda: petl.read(self.path), found)
        self.readable = self.header is not None
        if self.readable or number % 8 == 0:
            said = self._watched("inspect", self._inspected, found)
            if said is not None and not all(
                c == "\n" or c.isprintable() for c in said.replace("\u200d", "").replace("\u200c", "")
            ):
                found.append("inspect printed what steers a terminal")
        return found

    def _inspected(self) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            inspect_command(self.path)
            inspect_command(self.path, as_json=True)
        return out.getvalue()

    def _through(self, victim: Victim, found: list[str] | None) -> str:
        """Loads the file onto its backbone, checks both, and takes it off again; returns how it ended, with any fault."""
        faults: list[str] = []
        model = self._watched("load", lambda: petl.load(self.path, victim.base), faults)
        if model is None:
            whole = victim.is_whole()
            return (
                f"fault: {faults}"
                if faults
                else "refused"
                if whole
                else "fault: the model was changed by a refused file"
            )
        try:
            why = self._wrong_delta(model)
        except petl.PetlError as error:
            why = f"what was taken can't be saved: {str(error)[:200]}"
        petl.unwrap(model)
        victim.base.eval()
        if not victim.is_whole():
            why = why or "unwrap doesn't give the backbone back"
        return f"fault: {why} {faults}" if why or faults else "" if found is None else "taken"

    def _wrong_delta(self, model: nn.Module) -> str:
        """What is wrong with a model that took a file: its tensors have to be those of the file."""
        header, tensors = read_delta(self.path)
        record = petl.record(model)
        if record is None:
            return "the model that came back isn't wrapped"
        _, own = delta_of(model)
        if own.keys() != tensors.keys():
            return f"the model has other tensors than the file: {sorted(own.keys() ^ tensors.keys())[:3]}"
        for key, tensor in tensors.items():
            if not same_bits(own[key], tensor.to(own[key].dtype)):
                return f"{key} isn't what the file has"
        again = [method.to_json() for method in record.methods]
        return "" if record.sites == header.sites and len(again) == len(header.methods) else "other methods or sites"

    def _watched(self, what: str, call: Callable[[], Any], found: list[str]) -> Any:
        """The result of a call, or None after a PetlError; everything else that happens is a fault."""
        result, error = None, None
        with self.watch.watching() as seen:
            try:
                result = call()
            except Exception as raised:
                error = raised
        self.slowest, self.most_memory = max(self.slowest, seen.seconds), max(self.most_memory, seen.megabytes)
        found += [f"{what}: {fault}" for fault in seen.faults]
        if error is None:
            return result
        if not isinstance(error, petl.PetlError):
            found.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")
            return None
        text = str(error)
        if not 20 < len(text) <= 1500 or not all(c == "\n" or c.isprintable() or c in "\u200c\u200d" for c in text):
            found.append(f"{what}: an odd message: {json.dumps(text[:200])}")
        if any(isinstance(cause, MemoryError) for cause in (error.__cause__, error.__context__)) or "allocate" in text:
            found.append(f"{what}: out of memory: {text[:200]}")
        return None

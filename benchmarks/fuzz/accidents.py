"""What befalls the bytes of a file: flipped bits, lost and moved pieces, two files mixed, an odd safetensors header."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS: list[Any] = [
    -1, 0, 1, 7, 8, 2**20, 10**9, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1,
    2**64, 10**30, 0.5, 1e308, True, None, "8", [1], {},
]  # fmt: skip
TYPES: list[Any] = [
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "U64",
    "C64", "f32", "", None, 3, "O", ["F32"],
]  # fmt: skip
NAMES = ("", "__metadata__", "../../x", "a" * 4000, "\x1b[2J", "\ud800", "head.weight", "é" * 300)


def by_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes after one accident, or after two or three of them."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        data = _one_accident(data, chance)
    return data


def _one_accident(data: bytes, chance: random.Random) -> bytes:
    """To a bit, a byte or a piece; mostly in the header."""
    if len(data) < 9:
        return data + b"x"
    head = min(len(data), 8 + int.from_bytes(data[:8], "little"))
    size = chance.choice([8, head, head, head, len(data)])
    at, much = chance.randrange(size), chance.choice([1, 1, 2, 8, 64, 1000])
    piece = data[at : at + much]
    there = chance.randrange(len(data))
    kind = chance.choice(
        ["bit", "bit", "byte", "zeros", "lost", "twice", "moved", "swapped", "end", "more", "noise", "text"]
    )
    return {
        "bit": lambda: data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :],
        "byte": lambda: data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
        "zeros": lambda: data[:at] + bytes(len(piece)) + data[at + much :],
        "lost": lambda: data[:at] + data[at + much :],
        "twice": lambda: data[: at + much] + data[at:],
        "moved": lambda: data[:at] + data[there : there + much] + data[at + much :],
        "swapped": lambda: (
            data[at : at + much] + data[much:at] + data[:much] + data[at + much :] if at > much else data[1:]
        ),
        "end": lambda: data[:at],
        "more": lambda: data + chance.randbytes(much),
        "noise": lambda: data[:at] + chance.randbytes(len(piece)) + data[at + much :],
        "text": lambda: data[:at] + chance.choice(["\\u0000", '"', "}", "[[[[", "1e999", "NaN"]).encode() + data[at:],
    }[kind]()


def by_mixing(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """The header of one file with the tensors of another, or the first part of one with the end of the other."""
    heads = [8 + int.from_bytes(one[:8], "little") for one in (data, other)]
    if chance.random() < 0.5:
        return data[: heads[0]] + other[heads[1] :]
    cut = chance.randrange(min(len(data), len(other)))
    return data[:cut] + other[cut:]


def taken_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The safetensors header as a table, and the bytes of the tensors."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def put_together(table: Any, body: bytes, length: int | None = None) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def by_container(data: bytes, chance: random.Random) -> bytes:
    """An odd safetensors header: sizes of terabytes, types that nobody has, entries that overlap, names twice, no JSON."""
    table, body = taken_apart(data)
    keys = [key for key in table if key != "__metadata__"]
    for _ in range(chance.choice([1, 1, 2])):
        change = chance.choice(CHANGES)
        table = {key: value if isinstance(value, dict) else {} for key, value in table.items()}  # an earlier change's
        whole = None
        with contextlib.suppress(TypeError, KeyError, AttributeError):  # of a second change to what the first one left
            whole = change(table, body, chance.choice(keys), chance)
        if whole is not None:
            return whole
    return put_together(table, body)


def _type(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    table[key] = {**table.get(key, {}), "dtype": chance.choice(TYPES)}


def _shape(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    shape = table.get(key, {}).get("shape")
    shape = list(shape) if isinstance(shape, list) else []
    if shape and chance.random() < 0.6:
        shape[chance.randrange(len(shape))] = chance.choice(NUMBERS)
    else:
        shape = chance.choice(
            [[], [0, 10**12], [10**12], [1] * 40, shape[::-1], None, "4", [2**31, 2**31], [-4], [[4]], {"0": 4}]
        )
    table[key] = {**table.get(key, {}), "shape": shape}


def _offsets(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    offsets = _two_numbers(table.get(key, {}).get("data_offsets"))
    offsets[chance.randrange(2)] = chance.choice([*NUMBERS, len(body), len(body) + 1, offsets[0] + 1])
    wholly = chance.choice([offsets, offsets, offsets[::-1], [0, 10**12], [], [0], [0, 0, 0], "01", None])
    table[key] = {**table.get(key, {}), "data_offsets": wholly}


def _two_numbers(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) and len(value) == 2 else [0, 0]


def _terabytes(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    size = chance.choice([2**40, 2**50, 2**61])
    table[key] = {"dtype": chance.choice(["F32", "U8", "I64"]), "shape": [size // 4], "data_offsets": [0, size]}


def _name(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    table[chance.choice([*NAMES, f"{key}.x", key[1:]])] = table.pop(key, {})


def _entry(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    table[key] = chance.choice([None, [], {}, "x", 3, {"dtype": "F32"}, {**table.get(key, {}), "more": 1}])


def _gone(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    table.pop(key, None)


def _metadata(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    known = table.get("__metadata__")
    odd = [
        None,
        [],
        "x",
        {},
        {"petl": 3},
        {"petl": ""},
        {"petl": "{}"},
        {"petl": "[]"},
        {"petl": "null"},
        {"petl": '{"format": 2}'},
    ]
    odd += [{**known, "petl_sha256": "0"}, {**known, "more": ["x"]}, {"petl": known["petl"][:-1]}] if known else []
    odd += [{"petl": '{"format":' * 3000}, {"petl": known["petl"]} if known else {}]
    table["__metadata__"] = chance.choice(odd)


def _many(table: Any, body: bytes, key: str, chance: random.Random) -> None:
    table.update(
        {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(chance.choice([10, 3000]))}
    )


def _twice(table: Any, body: bytes, key: str, chance: random.Random) -> bytes:
    text = json.dumps(table, separators=(",", ":"))
    return put_together((text[:-1] + f",{json.dumps(key)}:{json.dumps(table.get(key))}}}").encode(), body)


def _length(table: Any, body: bytes, key: str, chance: random.Random) -> bytes:
    return put_together(table, body, chance.choice([0, 1, 2, 100, 2**24, 2**24 + 1, 2**31, 2**40, 2**63, 2**64 - 1]))


def _no_table(table: Any, body: bytes, key: str, chance: random.Random) -> bytes:
    text = chance.choice(
        [b"", b"{", b"[]", b"null", b"3", b"\xff" * 20, b"{" * 5000, b"[" * 200_000, b'{"a":' * 5000, b"1" * 10_000]
    )
    return put_together(text, body)


CHANGES: list[Callable[..., bytes | None]] = [
    _type, _shape, _offsets, _terabytes, _name, _entry, _gone, _metadata, _many, _twice, _length, _no_table,
]  # fmt: skip

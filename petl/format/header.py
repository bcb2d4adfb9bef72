"""What a delta's header may say. ``save`` asks before it writes, ``read`` and ``load`` before they believe."""

from __future__ import annotations

import contextlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from petl.errors import DeltaError, near
from petl.format import create_args

TASKS = ("classification", "multilabel", "regression")
DTYPES = ("float32", "float16", "bfloat16", "float64")
NAME = re.compile(r"[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100})?")
REMOTE = re.compile(r"(hf-hub|hf_hub|local-dir):[^\x00-\x1f]{1,1000}")  # taken only with trust_remote=True
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")
CROPS = ("center", "squash", "border")
LARGEST_IMAGE = 2**28  # numbers in one image: a gigabyte
MOST_CLASSES = 2**24
LONGEST_TEXT = 1000
MOST_NAMES = 2**18
NO_SIZES = (
    "seed",
    "prng",
    "step",
    "tinit",
    "tfinal",
    "delta",
)  # words in the names of integers that make nothing large
TABLES = ("rank_pattern", "alpha_pattern", "lambda_pattern", "block_size_pattern", "n_frequency_pattern")  # peft's
DEEPEST = 16  # tables and lists in each other in a method's options
LARGEST_OPTION = 2**20
LARGEST_FOREIGN = 1024  # for another library's tuners, unless a tensor in the file is as large


def faults(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with a header, in a few words each; ``shapes`` are those of the tensors beside it.

    >>> faults({"format": 1}, {})[:3]
    ['version', 'backbone', 'digest']
    """
    wrong = [key for key, fits in SCHEMA.items() if not fits(header.get(key))]
    number = header.get("format")
    wrong += ["format"] if type(number) is not int or number < 1 else []
    if wrong:
        return [_explained(key, header.get(key)) for key in wrong]
    if len(header["methods"]) != len(header["sites"]):
        return ["sites (as many lists as methods)"]
    return [*_lost(header, shapes), *_labels_off(header, shapes), *oversized(header["methods"], shapes)]


def _explained(key: str, value: Any) -> str:
    """The key, with the reason where there is one to give."""
    if key == "backbone" and isinstance(value, dict):
        return f"backbone ({_backbone_fault(value)})"
    if key == "pipeline" and isinstance(value, dict):
        return f"pipeline ({_pipeline_fault(value)})"
    return key


def remote(header: Mapping[str, Any]) -> bool:
    """Whether the backbone's name sends timm to somebody's repository or folder."""
    return ":" in (header["backbone"].get("name") or "")


def class_names(labels: Iterable[Any] | None) -> list[str] | None:
    """Class names as texts, in their order; whole numbers become their digits.

    Raises:
        DeltaError: they have no order (a set), or are no names.

    >>> class_names(range(3)), class_names(("cat", "dog"))
    (['0', '1', '2'], ['cat', 'dog'])
    """
    if labels is None:
        return None
    if isinstance(labels, (str, bytes, Mapping)) or not isinstance(labels, Iterable):
        raise DeltaError(f"labels={_shown(labels)}; expected a list of class names in the order of the outputs")
    if isinstance(labels, Set) and not isinstance(labels, type({}.keys())):
        raise DeltaError(
            f"labels={_shown(labels)} have no order; give a list of class names in the order of the outputs"
        )
    return [_label(label) for label in labels]


def _label(label: Any) -> str:
    if isinstance(label, str):
        name = str(label)
        if len(name) > LONGEST_TEXT or not _encodes(name):
            raise DeltaError(
                f"the label {_shown(name)} is no text (UTF-8) of up to {LONGEST_TEXT} characters; rename the class"
            )
        return name
    if hasattr(label, "__index__") and not isinstance(label, bool) and getattr(label, "ndim", 0) == 0:
        with contextlib.suppress(TypeError):  # a tensor of a fraction has the method, too
            return str(operator.index(label))
    raise DeltaError(f"labels hold {_shown(label)} ({type(label).__name__}); expected class names, such as 'cat'")


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def task_name(task: str | None) -> str | None:
    """The task if it is one that petl knows, else a DeltaError."""
    if task is not None and task not in TASKS:
        hint = near(task, TASKS) if isinstance(task, str) else ""
        raise DeltaError(f"task={_shown(task)}; expected one of {', '.join(map(repr, TASKS))}{hint}")
    return task


def refuse_unwritable(values: Any, what: str) -> None:
    """A DeltaError where values can't be written as JSON and read again as they are."""
    try:
        text = json.dumps(values)
        json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DeltaError(f"{what} must be JSON values, such as numbers, texts and lists of them ({error})") from None


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_NAMES and all(_text(item) for item in value)


def _unique(names: list[str]) -> bool:
    return len({*names}) == len(names)


def _is_backbone(value: Any) -> bool:
    return isinstance(value, dict) and not _backbone_fault(value)


def _backbone_fault(value: Mapping[str, Any]) -> str:
    name, classes, channels = value.get("name"), value.get("num_classes", "missing"), value.get("in_chans")
    if name is not None and not (isinstance(name, str) and (NAME.fullmatch(name) or REMOTE.fullmatch(name))):
        return f"name {_shown(name)}, which is no name of a timm model"
    if classes is not None and not (type(classes) is int and 0 <= classes <= MOST_CLASSES):
        return f"num_classes={_shown(classes)}"
    if channels is not None and not (type(channels) is int and 1 <= channels <= create_args.LARGEST):
        return f"in_chans={_shown(channels)}"
    if value.get("dtype", "float32") not in DTYPES:
        return f"dtype={_shown(value['dtype'])}"
    if not isinstance(value.get("unrecorded", ""), str):
        return f"unrecorded={_shown(value['unrecorded'])}"
    return create_args.fault(value.get("args", {}))


def _are_methods(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > 64:
        return False
    return all(isinstance(item, dict) and _text(item.get("name")) and _finite(item) for item in value)


def _finite(value: Any, depth: int = 0) -> bool:
    """Whether all numbers in there are, and no list or table lies deeper in others than any option's."""
    if isinstance(value, float):
        return math.isfinite(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < DEEPEST and all(_finite(part, depth + 1) for part in parts)


def _pipeline_fault(value: Mapping[str, Any]) -> str:
    """What of an input pipeline can't be; keys that petl doesn't know are no matter."""
    size, crop = value.get("input_size") or [], value.get("crop_pct", 1.0)
    if not _numbers(size, 3) or not all(type(n) is int and n >= 1 for n in size) or math.prod(size) > LARGEST_IMAGE:
        return f"input_size={_shown(size)}"
    if not _number(crop) or not 0 < crop <= 100 or math.prod(size) > LARGEST_IMAGE * crop**2:
        return f"crop_pct={_shown(crop)}"
    for key in ("mean", "std"):
        if key in value and not (_numbers(value[key]) and len(value[key]) in (1, 3, size[0])):
            return f"{key}={_shown(value[key])}"
    if not all(1e-12 <= n <= 1e12 for n in value.get("std", ())):
        return f"std={_shown(value['std'])}"
    for key, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROPS)):
        if value.get(key, known[0]) not in known:
            return f"{key}={_shown(value[key])}"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12


def _numbers(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list) and count in (None, len(value)) and all(_number(item) for item in value)


def _is_table_of_texts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 4096
        and all(_text(key) and _text(item) for key, item in value.items())
    )


SCHEMA: dict[str, Callable[[Any], bool]] = {
    "version": _text,
    "backbone": _is_backbone,
    "digest": _text,
    "frozen": lambda value: (
        value is None or (isinstance(value, dict) and type(value.get("tensors")) is int and _text(value.get("names")))
    ),
    "methods": _are_methods,
    "sites": lambda value: isinstance(value, list) and all(_texts(names) and _unique(names) for names in value),
    "head": lambda value: isinstance(value, bool) or _text(value) or _texts(value),
    "also": lambda value: value is None or _texts(value),
    "base_dtype": lambda value: value is None or value in ("bfloat16", "float16"),
    "dtype": lambda value: value is None or value in DTYPES,
    "labels": lambda value: value is None or _texts(value),
    "task": lambda value: value is None or _text(value),
    "pipeline": lambda value: value is None or (isinstance(value, dict) and not _pipeline_fault(value)),
    "results": lambda value: value is None or isinstance(value, dict),
    "structure": lambda value: value is None or _is_table_of_texts(value),
    "checksum": lambda value: value is None or _text(value),
}


def _lost(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Keys that the header speaks of and the file doesn't hold."""
    lost = [key for key in header.get("also") or () if key not in shapes]
    return [f"also ({lost[0]}, which isn't in the file)"] if lost else []


def _labels_off(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Too many or too few labels: for the classes by timm's word, or the outputs of the classifier in the file."""
    labels, classes = header.get("labels"), header["backbone"].get("num_classes")
    if labels is None or classes is None or len(labels) == classes:
        return []
    rows = {shape[0] for shape in shapes.values() if shape}
    if header["head"] and len(labels) in rows and classes not in rows:  # a classifier that was put in by hand
        return []
    return [f"labels ({len(labels)} for {classes} classes)"]


def oversized(methods: Iterable[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]] | None = None) -> list[str]:
    """Sizes that can't be: of petl's methods beyond any use, of other libraries' beyond what the file bears out.

    A rank of a million has a tensor with as many numbers. Without ``shapes`` only the first is looked at.
    """
    most = max([LARGEST_FOREIGN, *(math.prod(shape) for shape in (shapes or {}).values())])
    return [
        f"methods ({item['name']} has {key}={_shown(value)})"
        for item in methods
        for key, value in _integers(item)
        if abs(value) > (most if item["name"] == "peft" and shapes is not None else LARGEST_OPTION)
        and not any(word in key.lower() for word in NO_SIZES)
    ]


def _integers(value: Any, key: str = "") -> list[tuple[str, int]]:
    if isinstance(value, dict):  # a table of layers' names, such as rank_pattern, keeps its own name
        return [pair for name, item in value.items() for pair in _integers(item, key if key in TABLES else str(name))]
    if isinstance(value, list):
        return [pair for item in value for pair in _integers(item, key)]
    return [(key, value)] if isinstance(value, int) and not isinstance(value, bool) else []


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

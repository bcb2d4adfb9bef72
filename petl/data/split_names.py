"""Which folders hold a split (training, validation, test images), whatever they are called.

A name is a split's if it is made of a split's word and words that say nothing (``Training``, ``TRAIN_images``, ``val2017``,
``imagesTs``), if a folder beside it differs by the word alone (``seg_train`` and ``seg_test``), or if it has such a word in it
and lies beside a split (``train_augmented`` and ``test``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

SPLIT_WORDS = {  # timm's synonyms first, in its order
    "train": ("train", "training", "trainval", "trainvalid", "trn", "learn", "learning"),
    "val": (
        "val",
        "valid",
        "validation",
        "eval",
        "evaluation",
        "dev",
        "devel",
        "development",
        "validate",
        "validating",
    ),
    "test": ("test", "testing", "tests", "tst", "holdout", "heldout", "unseen"),
}
SHORT_WORDS = {
    "tr": "train",
    "va": "val",
    "vl": "val",
    "ts": "test",
    "te": "test",
}  # beside another word only: imagesTr
FILLER_WORDS = {
    *(
        "set",
        "sets",
        "data",
        "dataset",
        "datasets",
        "file",
        "files",
        "folder",
        "dir",
        "split",
        "splits",
        "part",
        "parts",
    ),
    *("image", "images", "img", "imgs", "pic", "pics", "picture", "pictures", "photo", "photos", "subset", "sample"),
    *(
        "samples",
        "example",
        "examples",
        "jpg",
        "jpeg",
        "png",
        "tif",
        "tiff",
        "bmp",
        "original",
        "originals",
        "orig",
        "raw",
    ),
    *(
        "clean",
        "cropped",
        "crops",
        "resized",
        "small",
        "full",
        "final",
        "new",
        "my",
        "the",
        "all",
        "color",
        "colour",
        "rgb",
    ),
    *("gray", "grey", "label", "labels", "labeled", "labelled", "class", "classes", "public", "private", "copy"),
    *("in", "x", "v", "for", "of"),
}
SPLIT_OF_WORD = {word: kind for kind, words in SPLIT_WORDS.items() for word in words}
_HELD_OUT = re.compile("h[eo]ld[^a-z]?out", re.IGNORECASE)
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def words_of(name: str) -> list[str]:
    """The words in a folder's name, in lower case: at capitals, digits and everything that is no letter."""
    return [token.lower() for token in _TOKENS.findall(_HELD_OUT.sub("holdout", name))]


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds for sure: train, val, test, or None.

    Example:
        >>> [kind(name) for name in ("Training", "TRAIN", "test_set", "valImages2017", "imagesTr", "train station")]
        ['train', 'train', 'test', 'val', 'train', None]
    """
    found: list[str] = []
    words = words_of(name)
    for word in words:
        found += _pieces(word) or ["?"]
    kinds = {SPLIT_OF_WORD.get(piece) or SHORT_WORDS.get(piece) for piece in found} - {None}
    lone = all(piece not in SPLIT_OF_WORD for piece in found) and len(found) < 2
    if "?" in found or lone or not kinds:
        return None
    return kinds.pop() if len(kinds) == 1 else "train" if kinds == {"train", "val"} else None  # type: ignore[return-value]  # no None


def says_nothing(name: str) -> bool:
    """Whether a name says neither what is on the images nor anything else: ``images``, ``train_data``, but not ``7``."""
    found = [piece for word in words_of(name) for piece in (_pieces(word) or ["?"])]
    return bool(found) and "?" not in found and not all(piece.isdigit() for piece in found)


def _pieces(word: str) -> list[str] | None:
    """A word as known pieces without a rest: ``trainset`` is train, set; ``invalid`` is not in, valid."""
    if word in SPLIT_OF_WORD or word in FILLER_WORDS or word in SHORT_WORDS or word.isdigit():
        return [word]
    for end in range(len(word) - 1, 2, -1):
        head, rest = word[:end], word[end:]
        if (head in SPLIT_OF_WORD or head in FILLER_WORDS) and len(rest) > 2 and (tail := _pieces(rest)):
            return [head, *tail]
    return None


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """The split of each of these folders, which lie side by side, for those that are splits.

    Example:
        >>> kinds(["seg_pred", "seg_test", "seg_train"]), kinds(["model_train", "test_tube"])
        ({'seg_test': 'test', 'seg_train': 'train'}, {})
    """
    names = list(names)
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    told = {}
    for name in names:
        words = words_of(name)
        said = {SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD}
        if len(said) == 1:
            told[name] = said.pop()
            alike[tuple(word for word in words if word not in SPLIT_OF_WORD)][name] = told[name]
    twins = {n: k for group in alike.values() if len({*group.values()}) > 1 for n, k in group.items()}
    found = {name: split_of(name) or twins.get(name) for name in names}
    if any(found.values()):  # beside a split lie no classes, so a split's word in a name means one
        found = {name: split or told.get(name) for name, split in found.items()}
    return {name: split for name, split in found.items() if split}

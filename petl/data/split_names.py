"""Which folders hold a split (training, validation or test images), by their names.

A name is that of a split if it is made of a word for a split and words without meaning (``Training``, ``TRAIN_images``,
``val2017``, ``imagesTs``), if a folder beside it differs only by that word (``seg_train`` and ``seg_test``), or if it has such a
word in it and lies beside a split (``train_augmented`` and ``test``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_SPLIT_WORDS = {  # timm's synonyms first, in its order
    "train": "train training trainval trainvalid trn learn learning",
    "val": "val valid validation eval evaluation dev devel development validate validating",
    "test": "test testing tests tst holdout heldout unseen",
}
_FILLER_WORDS = """
    set sets data dataset datasets file files folder dir split splits part parts image images img imgs pic pics picture
    pictures photo photos subset sample samples example examples jpg jpeg png tif tiff bmp original originals orig raw
    clean cropped crops resized small full final new my the all color colour rgb gray grey label labels labeled labelled
    class classes public private copy in x v for of
"""
SPLIT_WORDS = {split: tuple(words.split()) for split, words in _SPLIT_WORDS.items()}
SHORT_WORDS = {"tr": "train", "va": "val", "vl": "val", "ts": "test", "te": "test"}  # only with another word: imagesTr
FILLER_WORDS = {*_FILLER_WORDS.split()}
SPLIT_OF_WORD = {word: kind for kind, words in SPLIT_WORDS.items() for word in words}
UNKNOWN = "?"
_HELD_OUT = re.compile("h[eo]ld[^a-z]?out", re.IGNORECASE)
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def words_of(name: str) -> list[str]:
    """Returns the words in a folder's name, in lower case, split at capitals, digits and characters that are no letters."""
    return [token.lower() for token in _TOKENS.findall(_HELD_OUT.sub("holdout", name))]


def split_of(name: str) -> str | None:
    """Returns the split that a folder of this name certainly holds: train, val, test, or None.

    Example:
        >>> [split_of(name) for name in ("Training", "TRAIN", "test_set", "valImages2017", "imagesTr", "train station")]
        ['train', 'train', 'test', 'val', 'train', None]
    """
    pieces = _pieces_of(name)
    kinds = {SPLIT_OF_WORD.get(piece) or SHORT_WORDS.get(piece) for piece in pieces} - {None}
    only_short = all(piece not in SPLIT_OF_WORD for piece in pieces) and len(pieces) < 2
    if UNKNOWN in pieces or only_short or not kinds:
        return None
    return kinds.pop() if len(kinds) == 1 else "train" if kinds == {"train", "val"} else None  # type: ignore[return-value]  # no None


def says_nothing(name: str) -> bool:
    """Returns whether a name can't be that of a class, as it says nothing: ``images``, ``train_data``, but not ``7``."""
    pieces = _pieces_of(name)
    return bool(pieces) and UNKNOWN not in pieces and not all(piece.isdigit() for piece in pieces)


def _pieces_of(name: str) -> list[str]:
    """Returns the known pieces of a name, with UNKNOWN in place of every other word."""
    return [piece for word in words_of(name) for piece in (_pieces(word) or [UNKNOWN])]


def _pieces(word: str) -> list[str] | None:
    """Returns the known pieces that a word is made of (``trainset``: train, set), or None (``invalid`` isn't in, valid)."""
    if word in SPLIT_OF_WORD or word in FILLER_WORDS or word in SHORT_WORDS or word.isdigit():
        return [word]
    for end in range(len(word) - 1, 2, -1):
        head, rest = word[:end], word[end:]
        if (head in SPLIT_OF_WORD or head in FILLER_WORDS) and len(rest) > 2 and (tail := _pieces(rest)):
            return [head, *tail]
    return None


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Returns {name: split} for those of these folders, which lie side by side, that hold a split.

    Example:
        >>> splits_among(["seg_pred", "seg_test", "seg_train"]), splits_among(["model_train", "test_tube"])
        ({'seg_test': 'test', 'seg_train': 'train'}, {})
    """
    names = list(names)
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    by_word = {}
    for name in names:
        words = words_of(name)
        kinds = {SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD}
        if len(kinds) == 1:
            by_word[name] = kinds.pop()
            alike[tuple(word for word in words if word not in SPLIT_OF_WORD)][name] = by_word[name]
    twins = {n: k for group in alike.values() if len({*group.values()}) > 1 for n, k in group.items()}
    splits = {name: split_of(name) or twins.get(name) for name in names}
    if any(splits.values()):  # beside a split lie no classes, so a split's word in a name means one
        splits = {name: split or by_word.get(name) for name, split in splits.items()}
    return {name: split for name, split in splits.items() if split}

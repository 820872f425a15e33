"""Which files are trained on, validated on and tested on; what a folder lacks is cut off by a seed.

A folder has files whose names begin with `train`, `valid` (or `validation`, `val`, `dev`) and `test`; up to three
training files are sources of their own. One file alone is cut into all three splits. Any of them may be sealed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from llmo.errors import LlmoError
from llmo.tasks.own.files import TABLES, TEXT
from llmo.tasks.own.sealed import SUFFIX, format_of, plain_name

T = TypeVar("T")
SPLIT_NAMES = {"train": "training", "valid": "validation", "val": "validation", "dev": "validation", "test": "test"}
SHARE = 0.1
"""Of the examples that a missing split gets."""
SOURCES = 3
"""Most training files."""
BLOCKS = 100
"""Stretches that running text is cut into, so that a split is not a single passage."""


@dataclass(frozen=True)
class Files:
    """The files of each split; a missing split has none.

    Attributes:
        training: At least one.
        validation: At most one.
        test: At most one.
        suffix: Of all of them, as if none were sealed.
    """

    training: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]
    suffix: str


def find_files(data: Path) -> Files:
    """The files of a folder, or a file alone.

    Raises:
        LlmoError: There is no such file or folder, or the folder's files are not usable together.
    """
    known = (*TEXT, *TABLES)
    if data.is_file():
        if format_of(data) not in known:
            raise LlmoError("data", str(data), f"a file that ends in {', '.join(known)}")
        return Files((data,), (), (), format_of(data))
    if not data.is_dir():
        raise LlmoError("data", str(data), "a folder or a file that is there, or the name of a data set on the hub")
    found: dict[str, list[Path]] = {"training": [], "validation": [], "test": []}
    for file in sorted(data.iterdir()):
        begin = re.match(r"train|valid|val|dev|test", file.name)
        if not begin or format_of(file) not in known:
            continue
        if file.suffix == SUFFIX and plain_name(file).exists():
            raise LlmoError("data", f"{file} beside {plain_name(file).name}", "one of the two: sealed, or plain")
        found[SPLIT_NAMES[begin[0]]].append(file)
    suffixes = {format_of(file) for files in found.values() for file in files}
    if not found["training"]:
        raise LlmoError("data", str(data), f"a folder with a file train{{{','.join(known)}}}")
    if len(suffixes) > 1 and not suffixes <= set(TEXT):
        raise LlmoError("data", f"{data} with {', '.join(sorted(suffixes))}", "files of one format")
    for split, most in (("training", SOURCES), ("validation", 1), ("test", 1)):
        if len(found[split]) > most:
            names = ", ".join(file.name for file in found[split])
            raise LlmoError("data", f"{data} with {names}", f"at most {most} {split} file(s)")
    training, validation, test = (tuple(files) for files in found.values())
    return Files(training, validation, test, min(suffixes))


def cut(items: Sequence[T], parts: int, seed: int) -> list[list[T]]:
    """Cut items into what is kept and `parts` parts of a tenth each, at random but in order.

    Raises:
        LlmoError: There are not enough of them for one in each part.
    """
    size = max(1, round(SHARE * len(items)))
    if len(items) <= parts * size:
        raise LlmoError("number of examples", len(items), f"at least {parts + 1}, so that each split has one")
    order = np.random.default_rng(seed).permutation(len(items))
    bounds = [size * part for part in range(parts + 1)]
    taken = [np.sort(order[low:high]) for low, high in zip(bounds, bounds[1:])]
    kept = np.sort(order[bounds[-1] :])
    return [[items[index] for index in indices] for indices in (kept, *taken)]


def blocks(text: str) -> list[str]:
    """Running text in stretches of whole lines, of about equal length."""
    lines, found, size = text.splitlines(keepends=True), [], max(1, len(text) // BLOCKS)
    current: list[str] = []
    length = 0
    for line in lines:
        current.append(line)
        length += len(line)
        if length >= size:
            found.append("".join(current))
            current, length = [], 0
    return [*found, "".join(current)] if current else found

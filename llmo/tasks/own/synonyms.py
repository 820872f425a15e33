"""A user's table of synonyms: for augmentation that replaces words by what means the same."""

from __future__ import annotations

from pathlib import Path

from llmo.errors import LlmoError
from llmo.tasks.own.files import read_records

COLUMNS = ("word", "synonyms")
"""Of the table; synonyms are separated by semicolons."""


def read_synonyms(file: Path) -> dict[str, tuple[str, ...]]:
    """Words with what may stand for them.

    Args:
        file: A table (csv, jsonl, parquet, arrow) with the columns ``word`` and ``synonyms``.

    Raises:
        LlmoError: It cannot be read, has other columns, or a word without synonyms; with the file and the line.
    """
    found: dict[str, tuple[str, ...]] = {}
    for record in read_records(file):
        if set(record.values) != set(COLUMNS):
            raise LlmoError(f"columns of {record.place}", sorted(record.values), " and ".join(COLUMNS))
        word, others = (str(record.values[name] or "").strip() for name in COLUMNS)
        synonyms = tuple(part.strip() for part in others.split(";") if part.strip())
        if not word or not synonyms:
            raise LlmoError(f"row {record.place}", f"{word}: {others}", "a word and at least one synonym")
        found[word] = synonyms
    return found

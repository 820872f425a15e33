"""Reads one file of a user's data: text, or records with the place where each stands.

Whatever is wrong with a file is said with its name and its line; a row where it has no lines.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmo.errors import LlmoError, needs_extra
from llmo.tasks.own.sealed import SUFFIX, format_of, read_data

TEXT = (".txt", ".md")
TABLES = (".jsonl", ".csv", ".parquet", ".arrow")
LONGEST_LINE = 16_000_000
"""Bytes; a longer line is no record and no paragraph, but a file of another kind."""


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
        values: By column.
        place: Where it stands, such as ``"train.jsonl:17"``.
    """

    values: dict[str, Any]
    place: str


def read_text(file: Path) -> str:
    """The text of a file, UTF-8 with or without a byte order mark.

    Raises:
        LlmoError: It cannot be read, is empty, is no UTF-8, or holds a NUL byte or an endless line; see `read_data`.
    """
    try:
        content = read_data(file)
    except OSError as error:
        raise LlmoError("data", str(file), f"a file that can be read ({error.strerror})") from error
    if not content.strip():
        raise LlmoError("data", str(file), "a file that is not empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place(file, content.count(b"\n", 0, error.start))
        raise LlmoError("data", place, f"UTF-8 text (byte 0x{content[error.start]:02x} is none)") from error
    if (nul := content.find(b"\0")) >= 0:
        raise LlmoError("data", _place(file, content.count(b"\n", 0, nul)), "text without NUL bytes")
    for number, line in enumerate(content.split(b"\n")):
        if len(line) > LONGEST_LINE:
            allowed = f"lines of at most {LONGEST_LINE // 10**6} MB, not of {len(line) // 10**6}"
            raise LlmoError("data", _place(file, number), allowed)
    return text


def read_records(file: Path) -> list[Record]:
    """The records of a table.

    Raises:
        LlmoError: See `read_text`; or a record is broken, or the file has none.
    """
    readers = {".jsonl": _json_lines, ".csv": _comma_separated, ".parquet": _columnar, ".arrow": _columnar}
    if (suffix := format_of(file)) not in readers:
        raise LlmoError("data", str(file), f"a file that ends in {', '.join(TABLES)}")
    records = list(readers[suffix](file))
    if not records:
        raise LlmoError("data", str(file), "a file with records")
    return records


def _place(file: Path, number: int) -> str:
    """A line by its number from 0."""
    return f"{file}:{number + 1}"


def _json_lines(file: Path) -> Iterator[Record]:
    for number, line in enumerate(read_text(file).split("\n")):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise LlmoError("data", _place(file, number), f"a whole JSON object on each line ({error})") from error
        if not isinstance(values, dict):
            raise LlmoError("data", _place(file, number), f"a JSON object, not a {type(values).__name__}")
        yield Record(values, _place(file, number))


def _comma_separated(file: Path) -> Iterator[Record]:
    text = read_text(file)
    csv.field_size_limit(LONGEST_LINE)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(rows)
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise LlmoError("data", _place(file, 0), f"a first line with the names of the columns, not {names}")
        while (row := next(rows, None)) is not None:
            place = _place(file, rows.line_num - 1)
            if not row:
                continue
            if len(row) != len(names):
                raise LlmoError("data", place, f"{len(names)} values, as the first line has, not {len(row)}")
            yield Record(dict(zip(names, row, strict=True)), place)
    except csv.Error as error:
        raise LlmoError("data", _place(file, rows.line_num - 1), f"a whole CSV file ({error})") from error


def _columnar(file: Path) -> Iterator[Record]:
    needs_extra(f"data {file}", "pyarrow", "own")
    import pyarrow

    try:
        with _source(file) as source:
            table = _parquet(source) if format_of(file) == ".parquet" else _arrow(source)
        rows = table.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        told = " ".join(str(error).split())[:200]
        raise LlmoError("data", str(file), f"a whole {format_of(file)[1:]} file ({told})") from error
    for number, values in enumerate(rows):
        yield Record(values, f"{file} row {number + 1}")


def _source(file: Path) -> Any:
    import pyarrow

    return pyarrow.BufferReader(read_data(file)) if file.suffix == SUFFIX else pyarrow.memory_map(str(file))


def _parquet(source: Any) -> Any:
    from pyarrow import parquet

    return parquet.read_table(source)


def _arrow(source: Any) -> Any:
    """Both layouts of Arrow: with a footer, and the stream that Hugging Face's `datasets` keeps."""
    import pyarrow

    try:
        return pyarrow.ipc.open_file(source).read_all()
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_stream(source).read_all()

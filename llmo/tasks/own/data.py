"""A user's data as values by role, in three splits: what files say, before any tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmo.errors import LlmoError
from llmo.tasks.own.columns import Columns, OwnTask, find_columns, values_of
from llmo.tasks.own.files import TABLES, TEXT, Record, read_records, read_text
from llmo.tasks.own.hub import load_from_hub
from llmo.tasks.own.sealed import format_of
from llmo.tasks.own.splits import Files, blocks, cut, find_files

LEAST_EXAMPLES = 2
Values = dict[str, Any]


@dataclass(frozen=True)
class OwnData:
    """What is learned.

    Attributes:
        task: Of which kind.
        training: Examples of each source, one to three.
        validation: Examples that decisions are made by.
        test: Examples that are scored at the end.
        roles: What each example has, such as ``text`` and ``label``; running text is ``text`` alone.
        notes: What was guessed or found and should be said aloud.
    """

    task: OwnTask
    training: tuple[list[Values], ...]
    validation: list[Values]
    test: list[Values]
    roles: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Reading:
    """Values of each file, with what is said about them."""

    roles: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def load_data(data: str, task: OwnTask, columns: Mapping[str, str] | None = None, seed: int = 0) -> OwnData:
    """Read a user's data.

    Args:
        data: A folder with files for training, validation and test, or one file; else a data set's name on the hub,
            with its configuration where it has several, as in ``glue:cola``; or a copy of such a data set, as in
            ``folder:cola``.
        task: What is learned.
        columns: Column by role, where the user has named some.
        seed: Of splits that are cut off.

    Raises:
        LlmoError: Something is wrong with a file, with its place; or there are too few examples, or nothing fits.
    """
    path, reading = Path(data), _Reading()
    folder, colon, _ = data.partition(":")
    copied = bool(colon) and not path.exists() and Path(folder).is_dir()
    if not copied and (path.exists() or format_of(path) in (*TEXT, *TABLES) or not _hub_name(data)):
        training, validation, test = _from_files(find_files(path), task, columns or {}, reading)
    else:
        training, validation, test = _from_hub(data, task, columns or {}, reading)
    training, validation, test = _complete(data, training, validation, test, seed, reading)
    _check(data, task, training, validation, test, reading)
    return OwnData(task, tuple(training), validation, test, reading.roles, tuple(reading.notes))


def data_of(
    task: OwnTask,
    train: Iterable[Any],
    valid: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
) -> OwnData:
    """A user's objects as data.

    Args:
        task: What is learned.
        train: Records by column, such as dicts or a `datasets.Dataset`; or texts.
        valid: The same, to decide by; without it some of `train` are cut off.
        test: The same, to score on; without it some of `train` are cut off.
        columns: Column by role, where the user has named some.
        seed: Of splits that are cut off.

    Raises:
        LlmoError: Something is wrong with a record, or there are too few, or nothing fits.
    """
    reading = _Reading()
    found: Columns | None = None

    def read(name: str, values: Iterable[Any] | None) -> list[Values]:
        nonlocal found
        records = [_record(value, f"{name}[{place}]") for place, value in enumerate(values or ())]
        if not records:
            return []
        found = found or _columns(task, records[0], columns or {}, reading)
        return values_of(records, found)

    parts = [read(name, values) for name, values in (("train", train), ("valid", valid), ("test", test))]
    if not parts[0]:
        raise LlmoError("train", "empty", "some examples")
    training, validation, held_out = _complete("train", [parts[0]], parts[1], parts[2], seed, reading)
    _check("train", task, training, validation, held_out, reading)
    return OwnData(task, tuple(training), validation, held_out, reading.roles, tuple(reading.notes))


def _record(value: Any, place: str) -> Record:
    if isinstance(value, str):
        return Record({"text": value}, place)
    if isinstance(value, Mapping):
        return Record(dict(value), place)
    raise LlmoError(place, type(value).__name__, "a record by column, or a text")


def _hub_name(data: str) -> bool:
    return data.count("/") <= 1 and not data.startswith((".", "/", "~"))


def _from_files(
    files: Files, task: OwnTask, asked: Mapping[str, str], reading: _Reading
) -> tuple[list[list[Values]], list[Values], list[Values]]:
    if files.suffix in TEXT:
        if task != "causal_lm":
            raise LlmoError(f"data for {task}", str(files.training[0]), "a table: jsonl, csv, parquet or arrow")
        reading.roles = ("text",)

        def read(file: Path) -> list[Values]:
            return [{"text": block} for block in blocks(read_text(file))]
    else:
        found: Columns | None = None

        def read(file: Path) -> list[Values]:
            nonlocal found
            records = read_records(file)
            found = found or _columns(task, records[0], asked, reading)
            return values_of(records, found)

    training = [read(file) for file in files.training]
    validation, test = ([value for file in part for value in read(file)] for part in (files.validation, files.test))
    return training, validation, test


def _columns(task: OwnTask, first: Record, asked: Mapping[str, str], reading: _Reading) -> Columns:
    columns = find_columns(task, first, asked)
    reading.roles = tuple(columns.names)
    if columns.guessed:
        reading.notes.append(f"guessed: {columns}")
    return columns


def _from_hub(
    name: str, task: OwnTask, asked: Mapping[str, str], reading: _Reading
) -> tuple[list[list[Values]], list[Values], list[Values]]:
    found = load_from_hub(name)
    columns: Columns | None = None

    def read(split: str) -> list[Values]:
        nonlocal columns
        if split not in found:
            return []
        names = {column: _class_names(feature) for column, feature in found[split].features.items()}
        records = [
            Record(
                {column: _named(value, names[column]) for column, value in row.items()},
                f"{name} {split} row {number + 1}",
            )
            for number, row in enumerate(found[split])
            # Where nobody may know the classes, as in some test splits, they are -1.
            if not any(names[column] and row[column] == -1 for column in row)
        ]
        if not records:
            return []
        columns = columns or _columns(task, records[0], asked, reading)
        return values_of(records, columns)

    return [read("train")], read("validation"), read("test")


def _class_names(feature: Any) -> list[str] | None:
    """Names of a column of classes, or of lists of them."""
    names: list[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or value is None:
        return value
    return [names[one] for one in value] if isinstance(value, list) else names[value]


def _complete(
    data: str,
    training: list[list[Values]],
    validation: list[Values],
    test: list[Values],
    seed: int,
    reading: _Reading,
) -> tuple[list[list[Values]], list[Values], list[Values]]:
    """Cut the splits that are missing off the first source."""
    missing = [name for name, part in (("validation", validation), ("test", test)) if not part]
    if missing:
        if len(training[0]) <= LEAST_EXAMPLES:
            raise LlmoError("number of examples", f"{len(training[0])} in {data}", f"more than {LEAST_EXAMPLES}")
        kept, *parts = cut(training[0], len(missing), seed)
        if role := {"label", "tags"} & set(reading.roles):
            # What is rare is learned: a label that nobody has seen cannot be scored.
            known = set(labels_of(kept, *role))
            for part in parts:
                rare = [value for value in part if not set(labels_of([value], *role)) <= known]
                kept += rare
                part[:] = [value for value in part if value not in rare]
        training = [kept, *training[1:]]
        cut_off = dict(zip(missing, parts, strict=True))
        validation, test = validation or cut_off["validation"], test or cut_off["test"]
        sizes = " and ".join(f"{len(part)} for {name}" for name, part in cut_off.items())
        reading.notes.append(f"no file for {' and '.join(missing)}: of the training examples {sizes}, by seed {seed}")
    return training, validation, test


def _check(
    data: str,
    task: OwnTask,
    training: Sequence[list[Values]],
    validation: list[Values],
    test: list[Values],
    reading: _Reading,
) -> None:
    count = sum(map(len, training))
    if count < LEAST_EXAMPLES:
        raise LlmoError("number of examples", f"{count} in {data}", f"at least {LEAST_EXAMPLES} to train on")
    learned = {_identity(value) for source in training for value in source}
    for name, part in (("validation", validation), ("test", test)):
        overlap = sum(_identity(value) in learned for value in part)
        if overlap:
            reading.notes.append(f"warning: {overlap} of {len(part)} {name} examples are training examples too")
    if task in ("classification", "tagging"):
        role = "label" if task == "classification" else "tags"
        known = set(labels_of([value for source in training for value in source], role))
        if len(known) < 2:
            raise LlmoError(f"labels in {data}", ", ".join(known), "at least two different ones")
        for name, part in (("validation", validation), ("test", test)):
            if unseen := sorted(set(labels_of(part, role)) - known):
                allowed = f"labels that training examples have, such as {', '.join(sorted(known)[:5])}"
                raise LlmoError(f"label in the {name} examples", unseen[0], allowed)


def _identity(value: Values) -> str:
    return repr([value[role] for role in sorted(value)])


def labels_of(values: Sequence[Values], role: str) -> list[str]:
    """All labels of some examples, as text, in order."""
    if role == "tags":
        return [str(tag) for value in values for tag in value[role]]
    return [str(value[role]) for value in values]

"""Which column of a user's records is what: as asked for, or guessed from its name and its values and said aloud."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmo.errors import LlmoError
from llmo.tasks.own.files import Record

OwnTask = Literal["causal_lm", "classification", "regression", "tagging", "seq2seq"]
LARGEST = 1e30
"""A number to predict is smaller than that, so that its square is a float32's."""
OWN_TASKS: tuple[OwnTask, ...] = get_args(OwnTask)


@dataclass(frozen=True)
class Role:
    """What a task needs from a record.

    Attributes:
        name: What it is called in `--columns`.
        names: Column names by which it is guessed, the likeliest first.
        of: What its values are: ``str``, ``label`` (a string, an integer or a truth value), ``number``, ``strings``
            (a list of words), ``labels`` (a list of labels) or ``messages`` (a chat).
    """

    name: str
    names: tuple[str, ...]
    of: str


TEXT = Role("text", ("text", "sentence", "content", "document", "review", "question", "utterance", "title"), "str")
LABEL_NAMES = ("label", "labels", "class", "category", "intent", "target", "sentiment", "answer", "y")
PROMPT = Role("prompt", ("prompt", "instruction", "question", "input"), "str")
COMPLETION = Role("completion", ("completion", "response", "answer", "output", "chosen"), "str")
MESSAGES = Role("messages", ("messages", "conversations", "conversation", "chat"), "messages")
SOURCE = Role("source", ("source", "input", "article", "document", "dialogue", "question", "code", "en", "text"), "str")
TARGET = Role("target", ("target", "output", "summary", "highlights", "answer", "translation", "docstring"), "str")

LAYOUTS: Mapping[OwnTask, tuple[tuple[Role, ...], ...]] = {
    "causal_lm": ((MESSAGES,), (PROMPT, COMPLETION), (TEXT,)),
    "classification": ((TEXT, Role("label", LABEL_NAMES, "label")),),
    "regression": ((TEXT, Role("label", (*LABEL_NAMES, "score", "rating", "stars", "value"), "number")),),
    "tagging": (
        (
            Role("tokens", ("tokens", "words", "word"), "strings"),
            Role("tags", ("ner_tags", "tags", "labels", "pos_tags", "chunk_tags"), "labels"),
        ),
    ),
    "seq2seq": ((SOURCE, TARGET),),
}
"""For each task the roles that it can be made from; where several fit, the first."""


@dataclass(frozen=True)
class Columns:
    """Which column plays which role.

    Attributes:
        roles: What the task needs, in order.
        names: Column by name of the role.
        guessed: Whether nobody has named all of them.
    """

    roles: tuple[Role, ...]
    names: Mapping[str, str]
    guessed: bool

    def __str__(self) -> str:
        return ", ".join(f"{role} is column '{column}'" for role, column in self.names.items())


def find_columns(task: OwnTask, record: Record, asked: Mapping[str, str]) -> Columns:
    """The columns of a task.

    Args:
        task: What is learned.
        record: The first one; all others have to have the same columns.
        asked: Columns by role that the user has named.

    Raises:
        LlmoError: The user has named a role or a column that there is not, or nothing fits.
    """
    layouts = LAYOUTS[task]
    known = {role.name for roles in layouts for role in roles}
    for role, column in asked.items():
        if role not in known:
            raise LlmoError("role of a column", role, sorted(known))
        if column not in record.values:
            raise LlmoError(f"column for {role}", column, list(record.values))
    for roles in layouts:
        if set(asked) <= {role.name for role in roles}:
            found = _fitting(roles, record, asked)
            if found is not None:
                return Columns(roles, found, guessed=set(asked) != set(found))
    wanted = " or ".join(" and ".join(f"{role.name} ({role.of})" for role in roles) for roles in layouts)
    told = ", ".join(f"{name} ({_kind(value)})" for name, value in record.values.items())
    raise LlmoError(
        f"columns of {record.place}", told, f"columns for {task}: {wanted}; name them, as in --columns text=body"
    )


def _fitting(roles: Sequence[Role], record: Record, asked: Mapping[str, str]) -> dict[str, str] | None:
    """A column for every role, by name or as the only one that is left; None where a role has none."""
    lower = {name.lower(): name for name in record.values}
    found: dict[str, str] = {}
    for by_name in (True, False):
        for role in roles:
            if role.name in found:
                continue
            named = [lower[name] for name in role.names if name in lower]
            candidates = [asked[role.name]] if role.name in asked else named if by_name else list(record.values)
            left = [name for name in candidates if name not in found.values() and fits(role, record.values[name])]
            if left and (by_name or len(left) == 1):
                found[role.name] = left[0]
    return {role.name: found[role.name] for role in roles} if len(found) == len(roles) else None


def fits(role: Role, value: Any) -> bool:
    """Whether a value is of the kind that a role has."""
    match role.of:
        case "str":
            return isinstance(value, str)
        case "label":
            return isinstance(value, str | int)
        case "number":
            return _number(value) is not None
        case "strings":
            return isinstance(value, list) and all(isinstance(word, str) for word in value)
        case "labels":
            return isinstance(value, list) and all(isinstance(label, str | int) for label in value)
    return isinstance(value, list) and all(isinstance(turn, dict) and "role" in turn for turn in value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < LARGEST else None


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def values_of(records: Iterable[Record], columns: Columns) -> list[dict[str, Any]]:
    """What each record has for each role.

    Raises:
        LlmoError: A record lacks a column, or holds null, blank text or a value of another type there.
    """
    found = []
    for record in records:
        chosen = {}
        for role in columns.roles:
            column = columns.names[role.name]
            if column not in record.values:
                raise LlmoError("data", record.place, f"a record with the column {column}, as the first one has")
            value = record.values[column]
            if not fits(role, value):
                wanted = {"str": "text", "label": "a label"}.get(role.of, f"{role.of}")
                raise LlmoError("data", record.place, f"{wanted} in the column {column}, not {_kind(value)}")
            if (isinstance(value, str) and not value.strip()) or value == []:
                raise LlmoError("data", record.place, f"something in the column {column}; it is blank")
            chosen[role.name] = float(value) if role.of == "number" else value
        found.append(chosen)
    return found

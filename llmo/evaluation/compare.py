"""Where two values differ, bit for bit: what replays and checks compare with."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch


def difference(one: Any, other: Any, path: str = "") -> str:
    """The first place where two values are not the same; empty where there is none.

    Records, mappings, sequences, arrays and tensors are compared entry by entry; NaN is the same as NaN, and what has
    no entries, such as a function, must be equal.

    Args:
        one: A value.
        other: A value of the same kind.
        path: What they are called.

    Returns:
        Such as ``"loss: recorded 1.5, now 1.25"``.
    """
    if type(one) is not type(other):
        return f"{path}: recorded {one!r}, now {other!r}"
    if isinstance(one, np.ndarray | torch.Tensor):
        return _difference_of_arrays(np.asarray(one), np.asarray(other), path)
    if isinstance(one, float) and math.isnan(one) and math.isnan(other):
        return ""
    entries = _entries(one), _entries(other)
    if entries[0] is None or entries[1] is None:
        return "" if one is other or one == other else f"{path}: recorded {one!r}, now {other!r}"
    if list(entries[0]) != list(entries[1]):
        return f"{path}: recorded {len(entries[0])} entries, now {len(entries[1])}"
    found = (difference(value, entries[1][name], f"{path}.{name}".strip(".")) for name, value in entries[0].items())
    return next(filter(None, found), "")


def _entries(value: Any) -> dict[Any, Any] | None:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return None


def _difference_of_arrays(one: np.ndarray, other: np.ndarray, path: str) -> str:
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{path}: recorded {one.dtype}{list(one.shape)}, now {other.dtype}{list(other.shape)}"
    if not one.size:
        return ""
    # Bytes, not values: NaN is the same as NaN, and -0.0 is not 0.0.
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1) for array in (one, other)]
    changed = np.flatnonzero((bits[0] != bits[1]).any(1))
    if not len(changed):
        return ""
    place = tuple(int(index) for index in np.unravel_index(changed[0], one.shape))
    return f"{path}{list(place) or ''}: recorded {one[place].item()!r}, now {other[place].item()!r}"

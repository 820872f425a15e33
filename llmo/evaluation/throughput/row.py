"""One measurement of speed or memory, what it is compared with, and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Target:
    """What a ratio, or a value that stands alone, should be.

    Attributes:
        side: On which side of the bound.
        bound: The last value that meets the target.
    """

    side: Literal["at least", "at most"]
    bound: float

    def __str__(self) -> str:
        return f"{self.side} {self.bound:g}"

    def met(self, found: float) -> bool:
        """Whether a value meets the target."""
        return found >= self.bound if self.side == "at least" else found <= self.bound


class Workload(NamedTuple):
    """What is trained.

    Attributes:
        parameters: Of one model, an adapter not counted.
        tokens: In one optimizer step of one replica.
        replicas: That train together.
    """

    parameters: int
    tokens: int
    replicas: int


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: Of the measure, in kebab-case.
        parameters: See `Workload`.
        tokens: See `Workload`.
        replicas: See `Workload`.
        value: Median; None where it could not be measured.
        unit: Of `value` and `against`.
        against: Median of what it is compared with; None for a row that stands alone.
        ratio: Median of `value` over `against` of each pair.
        low: Lower quartile of the ratios, or of the values of a row that stands alone.
        high: Upper quartile.
        wanted: The target in words; empty for none.
        met: Whether the ratio, or a value that stands alone, meets the target; None without either.
        executor: Of the value's side; empty where the engine is not what differs.
        note: What else a reader must know.
    """

    name: str
    parameters: int
    tokens: int
    replicas: int
    value: float | None
    unit: str
    against: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    wanted: str = ""
    met: bool | None = None
    executor: str = ""
    note: str = ""


def alone(
    name: str, workload: Workload, values: ArrayLike, unit: str, target: Target | None = None, **more: Any
) -> Row:
    """A row of values that are compared with nothing.

    Args:
        name: Of the measure.
        workload: What was trained.
        values: At least one.
        unit: Of the values.
        target: What the median should be.
        **more: `executor` and `note`.
    """
    low, value, high = np.quantile(np.asarray(values), [0.25, 0.5, 0.75]).tolist()
    wanted, met = ("", None) if target is None else (str(target), target.met(value))
    return Row(name, *workload, value, unit, low=low, high=high, wanted=wanted, met=met, **more)


def compared(
    name: str,
    workload: Workload,
    values: ArrayLike,
    against: ArrayLike,
    unit: str,
    target: Target | None = None,
    **more: Any,
) -> Row:
    """A row from pairs that were measured one right after the other.

    Args:
        name: Of the measure.
        workload: What was trained.
        values: At least one.
        against: As many, each the other half of a pair.
        unit: Of both.
        target: What the median ratio should be.
        **more: `executor` and `note`.
    """
    ours, theirs = np.asarray(values, float), np.asarray(against, float)
    low, ratio, high = np.quantile(ours / theirs, [0.25, 0.5, 0.75]).tolist()
    medians = float(np.median(ours)), float(np.median(theirs))
    wanted, met = ("", None) if target is None else (str(target), target.met(ratio))
    return Row(name, *workload, medians[0], unit, medians[1], ratio, low, high, wanted, met, **more)


def missing(
    name: str, workload: Workload, unit: str, why: str, target: Target | None = None, executor: str = ""
) -> Row:
    """A row that could not be measured here, and why."""
    return Row(name, *workload, None, unit, wanted="" if target is None else str(target), executor=executor, note=why)


def line(row: Row) -> str:
    """A row in words, for people."""
    size = f"{row.replicas} x {row.parameters:,} parameters, {row.tokens} tokens"
    text = f"{row.name} ({', '.join(filter(None, [row.executor, size]))})"
    if row.value is None:
        text += ": not measured"
    elif row.ratio is None:
        text += f": {row.value:.3g} {row.unit}"
    else:
        text += f": {row.value:.4g} {row.unit} against {row.against:.4g}"
        text += f", ratio {row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]"
    if row.wanted:
        text += f", wanted {row.wanted}"
    if row.met is not None:
        text += ": met" if row.met else ": not met"
    return text + (f" ({row.note})" if row.note else "")

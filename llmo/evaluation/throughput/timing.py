"""Calls timed in turn, so that a busy machine slows all sides alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEAST_ROUNDS = 2

Clock = Callable[[], float]


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure.

    Attributes:
        scale: Multiplies how long everything takes; positive.
        baseline: Checkout of the version that learning is compared with; None leaves that open.
    """

    scale: float = 1.0
    baseline: Path | None = None

    def times(self, count: int) -> int:
        """A number of repetitions, at least 1."""
        return max(1, round(self.scale * count))


def in_turn(
    sides: Mapping[str, Callable[[], object]], duration: float, clock: Clock = time.process_time
) -> dict[str, NDArray[np.float64]]:
    """Time calls one after another, round after round: A, B, A, B ...

    Args:
        sides: The calls by name; each is made once before, untimed.
        duration: Seconds after which no round begins, once there were `LEAST_ROUNDS`.
        clock: By default the processor time of this process: on one thread it is what a clock on the wall would show if
            nothing else ran. Work of other processes or devices needs `time.perf_counter`.

    Returns:
        Seconds of each call by name, one a round.
    """
    for function in sides.values():
        function()
    gc.collect()
    found: dict[str, list[float]] = {name: [] for name in sides}
    rounds, end = 0, time.perf_counter() + duration
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for name, function in sides.items():
            started = clock()
            function()
            found[name].append(clock() - started)
        rounds += 1
    return {name: np.array(values) for name, values in found.items()}

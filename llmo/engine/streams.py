"""Random numbers by counter: a pure function of (seed, step, stream, index).

A replica's draws depend on nothing but its own seed and step, so a run is the same alone, in any population and at any
place in it (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the mixing function is SplitMix64's).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SOURCE, WINDOW, NOISE, NOISE_TOKEN, SPAN, DROPOUT, EDIT, WHICH, REPLAY, EMBEDDING, GENERATE, GENERATED = range(12)
"""Names of the streams; each use of randomness has its own."""


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seeds: NDArray[np.uint64], steps: NDArray[np.int64], stream: int, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1).

    Args:
        seeds: One seed a row, shape [n].
        steps: One counter a row, shape [n].
        stream: Which use the numbers are for.
        count: Numbers a row.

    Returns:
        Array of shape [n, count].
    """
    key = _mix(seeds ^ _mix(steps.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream + 1)))
    index = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = _mix(key[:, None] + index[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

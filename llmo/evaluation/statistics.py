"""Interquartile means and their bootstrap intervals, over clustered instances and whole seeds.

The interquartile mean and the percentile intervals are those of Agarwal et al. 2021 ("Deep reinforcement learning at
the edge of the statistical precipice"); here whole clusters of instances are resampled, because instances of one text
group are not independent, and whole seeds, because one seed is one training.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Statistic = Callable[[Array, Counts], Array]
"""Of each resample: values [R, I] or [1, I] and how often each is in it, [R, I], to [R]."""

RESAMPLES = 2000
CONFIDENCE = 0.95


def iqm(values: Array) -> float:
    """Mean of the middle half of the values, [I]: a quarter of them, rounded down, is cut at either end."""
    return _once(resampled_iqm, values)


def resampled_iqm(values: Array, counts: Counts) -> Array:
    """The interquartile mean of each resample.

    Args:
        values: [R, I], or [1, I] where they are the same in every resample.
        counts: How often each value is in each resample, [R, I].

    Returns:
        [R].
    """
    ordered, counts = _in_order(values, counts)
    end = counts.cumsum(axis=1)
    total = end[:, -1:]
    cut = total // 4
    kept = np.minimum(end, total - cut) - np.maximum(end - counts, cut)
    return _mean(ordered, np.maximum(kept, 0))


def resampled_mean(values: Array, counts: Counts) -> Array:
    """The mean of each resample; see `resampled_iqm`."""
    return _mean(values, counts)


def resampled_worst_decile(values: Array, counts: Counts) -> Array:
    """The mean of the lowest tenth of each resample, rounded up to whole values; see `resampled_iqm`."""
    ordered, counts = _in_order(values, counts)
    before = counts.cumsum(axis=1) - counts
    tenth = -(-counts.sum(axis=1, keepdims=True) // 10)
    return _mean(ordered, np.clip(tenth - before, 0, counts))


def _in_order(values: Array, counts: Counts) -> tuple[Array, Counts]:
    order = np.argsort(values, axis=1)
    counts = counts[:, order[0]] if len(order) == 1 else np.take_along_axis(counts, order, axis=1)
    return np.take_along_axis(values, order, axis=1), counts


def _mean(values: Array, kept: Counts) -> Array:
    means: Array = (kept * values).sum(axis=1) / kept.sum(axis=1)
    return means


def probability_of_improvement(ours: Array, theirs: Array) -> float:
    """Chance that a run of ours has the lower loss than a run of theirs on the same instance; a tie counts half.

    Args:
        ours: Losses, [seeds, I].
        theirs: Losses, [their seeds, I].
    """
    difference = theirs[None] - ours[:, None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Share of the scores, [I], that are at least each threshold, [T]."""
    shares: Array = (scores[None] >= thresholds[:, None]).mean(axis=1)
    return shares


def worst_decile(scores: Array) -> float:
    """Mean of the lowest tenth of the scores, [I], rounded up to whole scores."""
    return _once(resampled_worst_decile, scores)


def _once(statistic: Statistic, values: Array) -> float:
    return float(statistic(values[None], np.ones((1, len(values)), np.int64))[0])


def percentiles(resampled: Array) -> tuple[float, float]:
    """Where the middle 95% of some resampled values lie."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


class Bootstrap:
    """The same resampled instances for everything that is compared on them.

    Args:
        groups: Cluster of each instance, [I]; a resample draws as many clusters as there are, with replacement, and
            takes all their instances.
        seed: Of the draws.
    """

    def __init__(self, groups: Sequence[str], seed: int = 0) -> None:
        self._seed = seed
        names = sorted(set(groups))
        place = [names.index(group) for group in groups]
        self._counts = self._draw(len(names), 0)[:, place]

    def seeds(self, agent: str, count: int) -> Array:
        """Weight of each of an agent's seeds in each resample, [R, seeds], or [1, 1] for one seed; each row sums to 1.

        They follow from the agent's name, so that its interval does not depend on who else is compared.
        """
        if count == 1:
            return np.ones((1, 1))
        return self._draw(count, zlib.crc32(agent.encode())) / count

    def interval(self, values: Array, statistic: Statistic = resampled_iqm) -> tuple[float, float]:
        """Percentile interval of a statistic of values, [R, I] or [1, I]."""
        return percentiles(self.resampled(values, statistic))

    def resampled(self, values: Array, statistic: Statistic = resampled_iqm) -> Array:
        """A statistic of values, [R, I] or [1, I], in each resample, [R]."""
        return statistic(values, self._counts)

    def _draw(self, count: int, stream: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, stream])
        return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)

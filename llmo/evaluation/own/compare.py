"""Two models on the same test examples: how much better one is, and how surely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmo.evaluation.own.scoring import Score

RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """How much less loss one model has than another, in percent of the other's.

    Attributes:
        saved: Percent; positive is better.
        low: Lower end of the 95% interval, a bootstrap over test examples.
        high: Its upper end.
    """

    saved: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.saved:+.1f}% [{self.low:+.1f}, {self.high:+.1f}]"


def compare(one: Score, other: Score) -> Comparison:
    """Compare two scores of the same examples."""
    rng = np.random.default_rng(0)
    count = len(one.losses)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)

    def saved(
        weights: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        ours, theirs = (weights @ (score.losses * score.weights) for score in (one, other))
        result: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = 100 * (1 - ours / theirs)
        return result

    low, high = np.percentile(saved(drawn), (2.5, 97.5))
    return Comparison(float(saved(np.ones((1, count), np.int64))[0]), float(low), float(high))

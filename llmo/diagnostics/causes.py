"""Which bottleneck a run has, named from its observation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics.features import INDEX

CAUSES = ("optimisation", "overfitting", "data", "capacity", "none")

WORSE = 0.03
"""Log ratio of the loss to the best so far from which training counts as unstable."""
FAR_RATE = 0.6
"""Decimal logarithm of the rate over the default from which the rate counts as wrong: a factor of 4."""
OVERFIT = 0.12
"""Log ratio of validation to training loss from which a run without gain overfits."""
EXCESS = 0.08
"""Log ratio by which the mixture lies farther from validation than the best source, from which data are to blame."""
FLAT = 0.005
"""Log-gain of four steps below which a run has stalled."""


def diagnose(observation: NDArray[np.float32]) -> tuple[str, str]:
    """Name the likeliest cause of a poor run, and the evidence.

    In this order: a loss above its best, or a rate far from the default, is optimisation (a low rate counts in the
    first half only, where no decay explains it); a training loss far below validation without gain is overfitting;
    sources in use whose losses lie far from validation, while another's lies near, are data; a plateau with none of
    these is capacity.

    Args:
        observation: Features, [F].

    Returns:
        One of `CAUSES`, and a sentence with the numbers.
    """

    def value(name: str) -> float:
        return float(observation[INDEX[name]])

    worse, rate = value("best_gap") / 20, value("rate")
    if worse > WORSE:
        return "optimisation", f"the loss is {worse:.0%} above its best"
    early = value("spent") < 0 and value("decaying") <= 0
    if rate > FAR_RATE or (early and rate < -FAR_RATE):
        return "optimisation", f"the rate is {10**rate:.2g} of the default"
    below, gain = -value("train_gap") / 3, value("gain_2") / 10
    if below > OVERFIT and gain <= 0:
        return "overfitting", f"the training loss is {below:.0%} below validation, which gained {gain:.1%} in two steps"
    gaps = [abs(value(f"source_{slot}_gap")) / 3 for slot in (1, 2, 3)]
    weights = [(value(f"source_{slot}_weight") + 1) / 3 for slot in (1, 2, 3)]
    excess = sum(weight * gap for weight, gap in zip(weights, gaps, strict=True)) - min(gaps)
    if excess > EXCESS:
        listed = ", ".join(f"{gap:.0%}" for gap in gaps)
        return "data", f"the sources' losses lie {listed} from validation"
    gain = value("gain_4") / 10
    if gain < FLAT and value("stalled") > 0.5:
        return "capacity", f"the loss gained {gain:.1%} in four steps, and nothing else explains it"
    return "none", f"the loss gained {value('gain_1') / 10:.1%} in the last step"

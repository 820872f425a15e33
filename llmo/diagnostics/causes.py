"""Which bottleneck a run has, named from its observation, with the evidence in numbers.

`llmo causes` checks it on runs whose bottleneck was put there on purpose (`llmo/mdp/plants.py`); the thresholds were
set on the train part of those.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics.features import INDEX, WHOLE_NAMES

CAUSES = (
    "forgetting",
    "data quantity",
    "overfitting",
    "instability",
    "optimisation",
    "data quality",
    "capacity",
    "none",
)

FORGOTTEN = 0.02
"""Log ratio of an earlier phase's loss to its lowest from which it counts as forgotten."""
OVERFIT = 0.12
"""Log ratio by which the training loss lies below the validation loss, from which a run without gain overfits."""
FAR_BELOW = 0.3
"""The same where nothing but overfitting explains it, whatever the run gains."""
SMALL = 1500
"""Tokens of the sources in use up to which there are too few of them."""
WORSE = 0.03
"""Log ratio of the loss to the best so far from which training counts as unstable."""
FAR_RATE = 0.6
"""Decimal logarithm of the rate over the default from which the rate counts as wrong: a factor of 4."""
EXCESS = 0.08
"""Log ratio by which the mixture lies farther from validation than the best source, from which data are to blame."""
FLAT, SHARE = 0.03, 0.1
"""Log-gain of four steps, and its share in the whole gain so far, below both of which a run has stalled."""
FALLING = -0.05
"""Log ratio of the gradient's norm to its mean so far below which there is less and less to learn from the data."""


def diagnose(observation: NDArray[np.float32]) -> tuple[str, str]:
    """Name the likeliest cause of a poor run, and the evidence.

    In this order: earlier data whose loss has risen are forgetting. A training loss below validation without gain, or
    far below it, is overfitting, or too few data where the sources in use are tiny. A loss above its best, or a rate
    far above the default, is instability; a rate far below it is slow optimisation (in the first half, or where it is
    extremely low; not where a decay explains it). Sources in use whose losses lie far from validation, while another's
    lies near, are bad data. A run that has stalled after its first quarter for none of these reasons has bad data if
    its gradients shrink, as they do where what is left is noise, and too small a model if they do not.

    Args:
        observation: Features, [F].

    Returns:
        One of `CAUSES`, and a sentence with the numbers.
    """

    def value(name: str) -> float:
        return float(observation[INDEX[name]])

    forgotten = observation[WHOLE_NAMES.index("forgotten")] / 10 if len(observation) == len(WHOLE_NAMES) else 0.0
    if forgotten > FORGOTTEN:
        return "forgetting", f"the loss on earlier data is {forgotten:.1%} above its lowest"
    below, gain = -value("train_gap") / 3, value("gain_2") / 10
    if (below > OVERFIT and gain <= 0) or below > FAR_BELOW:
        told = f"the training loss is {below:.0%} below validation, which gained {gain:.1%} in two steps"
        tokens = _tokens_in_use(value)
        if tokens < SMALL and any(value(f"source_{slot}_size") for slot in (1, 2, 3)):
            return "data quantity", f"{told}; the sources in use hold {tokens:.0f} tokens"
        return "overfitting", told
    worse, rate = value("best_gap") / 20, value("rate")
    if worse > WORSE:
        return "instability", f"the loss is {worse:.0%} above its best"
    if rate > FAR_RATE:
        return "instability", f"the rate is {10**rate:.2g} of the default"
    early = value("spent") < 0 and value("decaying") <= 0
    if (early and rate < -FAR_RATE) or (value("decaying") <= 0 and value("base_rate") < -2 * FAR_RATE):
        return "optimisation", f"the rate is {10**rate:.2g} of the default"
    gaps = [abs(value(f"source_{slot}_gap")) / 3 for slot in (1, 2, 3)]
    weights = [(value(f"source_{slot}_weight") + 1) / 3 for slot in (1, 2, 3)]
    excess = sum(weight * gap for weight, gap in zip(weights, gaps, strict=True)) - min(gaps)
    if excess > EXCESS:
        listed = ", ".join(f"{gap:.0%}" for gap in gaps)
        return "data quality", f"the sources' losses lie {listed} from validation"
    gain, total, trend = value("gain_4") / 10, value("gain_total") / 3, value("norm_trend")
    if gain < min(FLAT, SHARE * total) and value("decaying") <= 0 and value("spent") > -0.5:
        told = f"the loss gained {gain:.1%} in four steps, the gradient's norm is {np.expm1(trend):+.0%} of its mean"
        return ("data quality" if trend < FALLING else "capacity"), told
    return "none", f"the loss gained {value('gain_1') / 10:.1%} in the last step"


def _tokens_in_use(value: Callable[[str], float]) -> float:
    """Tokens of the sources, each counting as its weight in the mixture."""
    sizes = [10 ** (4 + value(f"source_{slot}_size")) for slot in (1, 2, 3)]
    weights = [(value(f"source_{slot}_weight") + 1) / 3 for slot in (1, 2, 3)]
    return sum(weight * size for weight, size in zip(weights, sizes, strict=True))

"""Which bottleneck a run has, named from its observation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics.features import INDEX

CAUSES = ("optimisation", "overfitting", "data", "capacity", "none")


def diagnose(observation: NDArray[np.float32]) -> tuple[str, str]:
    """Name the likeliest cause of a poor run, and the evidence.

    Instability and a rate far from the default point to optimisation; a training loss well below validation to overfitting;
    sources whose losses lie far from validation to data; a plateau with none of these to capacity.

    Args:
        observation: Features, [F].

    Returns:
        One of `CAUSES`, and a sentence with the numbers.
    """

    def value(name: str) -> float:
        return float(observation[INDEX[name]])

    if value("best_gap") > 0.6 or abs(value("base_rate")) > 0.6:
        return "optimisation", f"best_gap {value('best_gap'):.2f}, rate 10^{value('base_rate'):.1f} of the default"
    if value("train_gap") < -0.4 and value("gain_2") <= 0:
        return "overfitting", f"train_gap {value('train_gap'):.2f}, gain_2 {value('gain_2'):.2f}"
    gaps = [abs(value(f"source_{slot}_gap")) for slot in (1, 2, 3)]
    if max(gaps) - min(gaps) > 0.15 and value("mixing_uniform") > 0:
        return "data", "source gaps " + ", ".join(f"{gap:.2f}" for gap in gaps)
    if value("gain_4") < 0.05 and value("stalled") > 0.5:
        return "capacity", f"gain_4 {value('gain_4'):.2f}, stalled {value('stalled'):.2f}"
    return "none", f"gain_1 {value('gain_1'):.2f}"

"""Rewards: pure functions of the measurements before and after one environment step."""

from __future__ import annotations

import math

from llmo.errors import LlmoError
from llmo.measurement import Measurement

SCALE = 10.0
"""Rewards are `SCALE` times a log-ratio of losses, so 1 is about a tenth off the loss."""
DIVERGED = -2.0
"""Added to the reward of a step in which training diverged."""
REWARDS = ("gain", "relative", "final")


def valid_reward(name: str) -> str:
    """The name itself.

    Raises:
        LlmoError: There is no such reward.
    """
    if name not in REWARDS:
        raise LlmoError("reward", name, REWARDS)
    return name


def gain(before: float, after: float) -> float:
    """`SCALE` times log(before / after), for best validation losses; at a discount of 1 it telescopes to the total."""
    return SCALE * math.log(before / after) if 0 < after <= before < math.inf else 0.0


def reward(
    name: str,
    first: Measurement,
    before: Measurement,
    after: Measurement,
    ended: bool,
    reference_gain: float,
    price: float = 0.0,
) -> float:
    """The reward of one step.

    Args:
        name: ``gain``: the step's gain; ``relative``: minus what the reference gained over the same FLOPs, at the end
            over all that were left; ``final``: the episode's whole gain, at its end.
        first: The episode's first measurement.
        before: The one before the step.
        after: The one after it.
        ended: Whether the episode is over.
        reference_gain: What ``relative`` subtracts; no other reward reads it.
        price: Of the whole budget, in log validation loss; every reward is charged for what was spent.
    """
    penalty = DIVERGED if after.diverged else 0.0
    if name == "final":
        whole = gain(first.best, after.best) - SCALE * price * (after.spent - first.spent)
        return penalty + (whole if ended else 0.0)
    value = gain(before.best, after.best) - SCALE * price * (after.spent - before.spent)
    return penalty + value - (reference_gain if name == "relative" else 0.0)

"""Instances of llmo/Frugal-v1: what is left of the budget is worth something, and so is a smaller or faster model.

They are those of llmo/LanguageModel-v1 with a price of the budget, in log validation loss, which every reward is
charged, and prices of size and speed: the best weights are those with the lowest validation loss times powers of their
size and of the FLOPs of a prediction by them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmo.mdp.instances import Instance, draw_rescaled_instance, valid_place

STREAM = 10
"""Apart from the random numbers of other environments."""
PRICES = (0.02, 0.5)
"""Of the whole budget: from next to nothing to as much as a good run gains."""
SIZE_PRICES = WORK_PRICES = (0.02, 0.3)
"""At the least, a model of half the size, or twice as fast, may have a loss that is 1.4% higher; at the most, 23%."""


def draw_frugal_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The instance at one place of a part.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM])
    # Of llmo/LanguageModel-v1 it takes instances that nobody plays there.
    instance = draw_rescaled_instance(part, int(rng.integers(2**31, 2**32)), budget_scale)
    ranges = PRICES, SIZE_PRICES, WORK_PRICES
    price, size_price, work_price = (float(least * (most / least) ** rng.random()) for least, most in ranges)
    return replace(instance, index=int(index), price=price, size_price=size_price, work_price=work_price)

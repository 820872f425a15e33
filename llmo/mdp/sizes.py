"""How large the model and the budget of an instance are, and how a budget is cut into steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from llmo.budget import Cost, sequence_cost
from llmo.engine.models import ModelShape, load_pretrained, model_config

SHAPES = {
    "train": (ModelShape(20, 1), ModelShape(32, 2)),
    "dev": (ModelShape(28, 1), ModelShape(36, 2)),
    "test": (ModelShape(24, 1), ModelShape(40, 2)),
}
"""The small and the large model shape of each part; larger budgets go to larger models, as they should."""
TOKENS = 32
BATCH = 2
VALIDATION_SEQUENCES = 32
STEPS = (14, 24)
"""Least and most environment steps of an episode that only keeps."""
BUDGET_FACTOR = 16.0
"""Ratio of the largest budget to the smallest, which pays 14 steps of 8 optimizer steps of the smallest shape."""
SMALL_UNTIL = 6.0
"""Multiple of the smallest budget from which all models are large."""
LEAST_INTERVAL = 8


@dataclass(frozen=True)
class Sizes:
    """How large models and budgets are.

    Attributes:
        small: Shape of the model where the budget is small.
        large: Where it is large; the two are about as likely.
        least: Smallest budget, in multiples of what pays 14 steps of 8 optimizer steps of the small shape.
        most: Largest budget.
        batches: How many usual batches an optimizer step learns from; no more than `least`, so that it pays for them.
    """

    small: ModelShape
    large: ModelShape
    least: float = 1.0
    most: float = BUDGET_FACTOR
    batches: int = 1


def plain_cost(cost: Cost, interval: int) -> float:
    """FLOPs of one environment step without a teacher, for a model whose sequences have a cost."""
    return interval * BATCH * cost.train + VALIDATION_SEQUENCES * cost.forward


def widened(cost: Cost, batches: int) -> Cost:
    """The cost of as many training sequences as stand for one where a batch is larger; validation costs the same."""
    return Cost(cost.forward, batches * cost.train)


def episode_cost(cost: Cost, teacher: str, steps: int, interval: int) -> float:
    """FLOPs of an episode that only keeps, with its first measurement: of the model and of a teacher, if any."""
    costs = [cost, *([_teacher_cost(teacher)] if teacher else [])]
    first = sum(VALIDATION_SEQUENCES * cost.forward for cost in costs)
    return steps * plain_cost(cost, interval) + first


@lru_cache(maxsize=64)
def model_cost(shape: ModelShape, rank: int = 0, target_modules: tuple[str, ...] = ()) -> Cost:
    """FLOPs of one sequence; see `sequence_cost`."""
    return sequence_cost(model_config(shape), TOKENS, rank, target_modules)


@lru_cache(maxsize=64)
def _teacher_cost(teacher: str) -> Cost:
    return sequence_cost(load_pretrained(teacher).config, TOKENS)


def draw_size(
    rng: np.random.Generator, sizes: Sizes, cost: Callable[[ModelShape], Cost]
) -> tuple[ModelShape, int, int]:
    """Model shape, environment steps, optimizer steps in each: for a budget drawn log-uniformly.

    Args:
        rng: Random numbers.
        sizes: Between which budgets.
        cost: Of a shape's sequence.
    """
    small, large = sizes.small, sizes.large
    factor = sizes.least * (sizes.most / sizes.least) ** rng.random()
    unit = plain_cost(cost(small), LEAST_INTERVAL)
    affordable = plain_cost(widened(cost(large), sizes.batches), LEAST_INTERVAL) / unit
    big = factor >= affordable and (factor >= SMALL_UNTIL or rng.random() < 0.5)
    shape = large if big else small
    steps, interval = draw_steps(rng, factor * STEPS[0] * unit, widened(cost(shape), sizes.batches))
    return shape, steps, interval


def draw_steps(rng: np.random.Generator, total: float, cost: Cost) -> tuple[int, int]:
    """Environment steps, and optimizer steps in each, that about use up some FLOPs."""
    fixed, each = plain_cost(cost, 0), plain_cost(cost, 1) - plain_cost(cost, 0)
    most = int(total / (fixed + LEAST_INTERVAL * each))
    steps = int(rng.integers(STEPS[0], min(STEPS[1], most) + 1))
    return steps, max(LEAST_INTERVAL, round((total / steps - fixed) / each))

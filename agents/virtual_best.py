"""The virtual best of 35 AdamW schedules: what 35 budgets on each instance buy. An upper mark, no rival."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from llmo.agent import KeepingAgent
from llmo.mdp.population import Population
from llmo.registry import agents
from llmo.schedules import cosine, staircase, trapezoid

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Peak rates, as multiples of the default."""
SHAPES: tuple[Callable[[float], float], ...] = (
    lambda spent: 1.0,
    partial(cosine, warmup=0.0),
    partial(cosine, warmup=0.1),
    partial(trapezoid, warmup=0.0, decay=1.0),
    partial(trapezoid, warmup=0.1, decay=0.9),
    partial(trapezoid, warmup=0.1, decay=0.2),
    partial(staircase, factor=0.3, drops=2),
)
"""Constant; cosine and linear without and with warm-up; warm-up, plateau and decay; steps."""


@agents.register("virtual_best")
class VirtualBest(KeepingAgent):
    """Upper mark: every one of 35 schedules on a whole budget each, the best on validation counts."""

    members = len(RATES) * len(SHAPES)

    def attach(self, population: Population, slots: Sequence[int]) -> None:
        """Give each run its schedule.

        Args:
            population: What plays the runs.
            slots: Slot of each; those of one instance stand in the order of its members.
        """
        super().attach(population, slots)
        members: dict[int, int] = {}
        schedules = list(product(RATES, SHAPES))
        for slot in slots:
            index = population.episode(slot).instance.index
            rate, shape = schedules[members.get(index, 0) % len(schedules)]
            members[index] = members.get(index, 0) + 1
            population.run_of(slot).states[slot].schedule = partial(_scaled, rate, shape)


def _scaled(rate: float, shape: Callable[[float], float], spent: float) -> float:
    return rate * shape(spent)

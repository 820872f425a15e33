"""Warm-up and cosine decay: what most language models are trained with (Loshchilov and Hutter 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmo.mdp.population import Population
from llmo.registry import agents
from llmo.rules import share
from llmo.schedules import PEAKS, PlainSchedule, TracksSources, cosine


@agents.register("cosine")
class Cosine(PlainSchedule):
    """Linear warm-up, then half a cosine.

    Args:
        scratch: Peak rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        warmup: Share of the budget that warms up.
        floor: Final rate over peak rate, 0 to 1.
    """

    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "warmup": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5),
        "floor": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
    }

    def __init__(self, scratch: float = 1.0, pretrained: float = 0.5, warmup: float = 0.05, floor: float = 0.1) -> None:
        super().__init__(scratch, pretrained)
        self.warmup, self.floor = share("warmup", warmup, 0.9), share("floor", floor)

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return cosine(spent, self.warmup, self.floor)


@agents.register("tracking_cosine")
class TrackingCosine(TracksSources, Cosine):
    """The tuned cosine with the tracking mixture."""

    grid = {}
    tuned_as = "cosine"


@agents.register("cosine_again")
class CosineAgain(Cosine):
    """The tuned cosine with other random numbers, data in another order: what luck alone is worth."""

    control = True
    grid = {}
    tuned_as = "cosine"

    def attach(self, population: Population, slots: Sequence[int]) -> None:
        """Draw the batches from another seed."""
        super().attach(population, slots)
        for slot in slots:
            state = population.run_of(slot).states[slot]
            state.problem = replace(state.problem, seed=state.problem.seed + 2**62)

"""The reference rule's learning curves, for rewards that compare with it.

The reference is the better of tuned cosine and tuned constant rate, named in `agents/tuned.json` on train instances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmo import catalog
from llmo.catalog.tuned import reference_rule
from llmo.mdp.instances import Instance
from llmo.mdp.reward import SCALE

if TYPE_CHECKING:
    from llmo.mdp.population import Population


class ReferenceCurves:
    """What the reference rule's best validation loss was after each share of the budget, remembered by instance.

    Args:
        population: A population of its own to run the reference in, with the executor of the runs that are compared.
    """

    def __init__(self, population: Population) -> None:
        self._population = population
        self._curves: dict[Instance, tuple[list[float], list[float]]] = {}

    def prepare(self, instances: Sequence[Instance]) -> None:
        """Run the reference on the instances that it has not run on yet."""
        new = [instance for instance in dict.fromkeys(instances) if instance not in self._curves]
        for start in range(0, len(new), self._population.replicas):
            self._run(new[start : start + self._population.replicas])

    def _run(self, instances: list[Instance]) -> None:
        agent = catalog.make_agent(reference_rule())
        schedules = agent.schedules([instance.start for instance in instances])
        population = self._population
        population.reset(dict(enumerate(instances)), dict(enumerate(schedules)))
        keep = population.spec.menu.index("keep")
        going = list(range(len(instances)))
        while going:
            steps = population.step(dict.fromkeys(going, keep))
            going = [slot for slot in going if not steps[slot].terminated]
        for slot, instance in enumerate(instances):
            measurements = population.episode(slot).history.measurements
            spent = [measurement.spent for measurement in measurements]
            self._curves[instance] = spent, [math.log(m.best_validation_loss) for m in measurements]

    def gain(self, instance: Instance, before: float, after: float) -> float:
        """The reference's gain, in units of reward, between two shares of the budget."""
        spent, losses = self._curves[instance]
        start, end = np.interp([before, after], spent, losses)
        return SCALE * float(start - end)

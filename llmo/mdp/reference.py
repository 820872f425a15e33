"""The reference rule's learning curves, for rewards that compare with it.

The reference is the better of tuned cosine and tuned constant rate, named in `agents/tuned.json` on train instances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from llmo import catalog
from llmo.agent import Schedule
from llmo.catalog.tuned import reference_rule, tuned_parameters
from llmo.mdp.instances import Instance
from llmo.mdp.reward import SCALE
from llmo.measurement import Measurement

Keeping = Callable[[Sequence[Instance], Sequence[Schedule | None]], list[list[Measurement]]]
"""Trains instances under schedules to the end and gives their measurements, as `Population.keep_to_the_end` does."""


class ReferenceCurves:
    """What the reference rule's best validation loss was after each share of the budget, remembered by instance.

    Args:
        keep: Trains the instances, with the executor of the runs that are compared.
        at_once: How many it can train together.
    """

    def __init__(self, keep: Keeping, at_once: int) -> None:
        self._keep, self._at_once = keep, at_once
        self._curves: dict[Instance, tuple[list[float], list[float]]] = {}

    def prepare(self, instances: Sequence[Instance]) -> None:
        """Run the reference on the instances that it has not run on yet."""
        new = [instance for instance in dict.fromkeys(instances) if instance not in self._curves]
        rule = reference_rule()
        agent = catalog.make_agent(rule, **tuned_parameters(rule))
        for first in range(0, len(new), self._at_once):
            part = new[first : first + self._at_once]
            curves = self._keep(part, agent.schedules([instance.start for instance in part]))
            for instance, measured in zip(part, curves, strict=True):
                losses = [math.log(measurement.best_validation_loss) for measurement in measured]
                self._curves[instance] = [measurement.spent for measurement in measured], losses

    def gain(self, instance: Instance, before: float, after: float) -> float:
        """The reference's gain, in units of reward, between two shares of the budget."""
        spent, losses = self._curves[instance]
        start, end = np.interp([before, after], spent, losses)
        return SCALE * float(start - end)

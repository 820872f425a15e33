"""Learning curves to compare with: what a rule's best validation loss was along an instance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmo import catalog
from llmo.agent import Schedule
from llmo.catalog.tuned import reference_rule, tuned_parameters
from llmo.mdp.instances import Instance
from llmo.mdp.reward import SCALE
from llmo.measurement import Measurement

Keeping = Callable[[Sequence[Instance], Sequence[Schedule | None]], list[list[Measurement]]]
"""Trains instances under schedules to the end and gives their measurements, as `Population.keep_to_the_end` does."""


@dataclass(frozen=True)
class Curve:
    """One episode's best validation loss so far.

    Attributes:
        spent: Shares of the budget, rising.
        losses: Logarithm of the best validation loss after each, nats per token.
    """

    spent: tuple[float, ...]
    losses: tuple[float, ...]

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> Curve:
        """That of an episode's measurements."""
        losses = (math.log(measurement.best) for measurement in measurements)
        return cls(tuple(measurement.spent for measurement in measurements), tuple(losses))

    def at(self, share: float) -> float:
        """Logarithm of the best loss after a share of the budget, linear between the measurements."""
        return float(np.interp(share, self.spent, self.losses))

    def gain(self, before: float, after: float) -> float:
        """What was gained between two shares of the budget, in units of reward."""
        return SCALE * (self.at(before) - self.at(after))


class ReferenceCurves:
    """Learning curves by instance: those that are given, and elsewhere those of the tuned reference rule.

    The reference rule is the better of tuned cosine and tuned constant rate, named in `agents/tuned.json` on train
    instances.

    Args:
        env: Registered name of the environment.
        keep: Trains the instances, with the executor of the runs that are compared.
        at_once: How many it can train together.
        known: Curves by index of the instance.
    """

    def __init__(self, env: str, keep: Keeping, at_once: int, known: Mapping[int, Curve] | None = None) -> None:
        self._env, self._keep, self._at_once, self._known = env, keep, at_once, known or {}
        self._curves: dict[Instance, Curve] = {}

    def prepare(self, instances: Sequence[Instance]) -> None:
        """Run the reference on the instances that have no curve yet."""
        new = [
            instance
            for instance in dict.fromkeys(instances)
            if instance.index not in self._known and instance not in self._curves
        ]
        if not new:
            return
        rule = reference_rule(self._env)
        agent = catalog.make_agent(rule, **tuned_parameters(rule, self._env))
        for first in range(0, len(new), self._at_once):
            part = new[first : first + self._at_once]
            measured = self._keep(part, agent.schedules([instance.start for instance in part]))
            self._curves |= dict(zip(part, map(Curve.of, measured), strict=True))

    def of(self, instance: Instance) -> Curve:
        """An instance's curve; see `prepare`."""
        known = self._known.get(instance.index)
        return self._curves[instance] if known is None else known

    def gain(self, instance: Instance, before: float, after: float) -> float:
        """What the reference gained on an instance between two shares of the budget, in units of reward."""
        return self.of(instance).gain(before, after)

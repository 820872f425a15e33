"""What has happened in one episode so far: what features and rewards are computed from."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmo.hyperparameters import Adapter, Hyperparameters, Start
from llmo.measurement import Measurement


@dataclass
class History:
    """One episode, seen from outside the engine.

    Attributes:
        start: From scratch, or pre-trained.
        vocabulary: How many tokens or classes there are; a uniform guess has a loss of log(vocabulary).
        default_rate: The published default rate of the current adapter.
        hyperparameters: Current settings.
        adapter: What is trained now.
        rank: Rank of the adapter, 0 without one.
        measurements: All so far, the one before any training first.
        actions: Names of the actions taken.
        neutral: Feature groups that this run cannot see; they read as zero.
    """

    start: Start
    vocabulary: int
    default_rate: float
    hyperparameters: Hyperparameters
    adapter: Adapter = "full"
    rank: int = 0
    measurements: list[Measurement] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    neutral: frozenset[str] = frozenset()

    @property
    def last(self) -> Measurement:
        """The newest measurement."""
        return self.measurements[-1]

"""Warm-up and linear decay to zero, which often beats the cosine (Bergsma et al. 2025, "Straight to zero")."""

from __future__ import annotations

from llmo.registry import agents
from llmo.rules import share
from llmo.schedules import PEAKS, PlainSchedule, TracksSources, trapezoid


@agents.register("linear")
class Linear(PlainSchedule):
    """Linear warm-up, then linear decay to zero.

    Args:
        scratch: Peak rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        warmup: Share of the budget that warms up.
    """

    grid = {"scratch": PEAKS, "pretrained": PEAKS, "warmup": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)}

    def __init__(self, scratch: float = 1.0, pretrained: float = 0.5, warmup: float = 0.05) -> None:
        super().__init__(scratch, pretrained)
        self.warmup = share("warmup", warmup, 0.9)

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return trapezoid(spent, self.warmup, 1 - self.warmup)


@agents.register("tracking_linear")
class TrackingLinear(TracksSources, Linear):
    """The tuned linear decay with the tracking mixture."""

    grid = {}
    tuned_as = "linear"

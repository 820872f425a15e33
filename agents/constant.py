"""A constant learning rate."""

from __future__ import annotations

from llmo.registry import agents
from llmo.schedules import PEAKS, PlainSchedule, TracksSources


@agents.register("constant")
class Constant(PlainSchedule):
    """A constant rate."""

    grid = {"scratch": PEAKS, "pretrained": PEAKS}

    def __init__(self, scratch: float = 1.0, pretrained: float = 0.5) -> None:
        super().__init__(scratch, pretrained)

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return 1.0


@agents.register("tracking_constant")
class TrackingConstant(TracksSources, Constant):
    """The tuned constant rate with the tracking mixture."""

    grid = {}
    tuned_as = "constant"

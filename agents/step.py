"""Step decay: the rate falls by a factor at equal distances."""

from __future__ import annotations

from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import positive
from llmo.schedules import PEAKS, PlainSchedule, TracksSources, staircase


@agents.register("step")
class Step(PlainSchedule):
    """Falls by a factor at equal shares of the budget.

    Args:
        scratch: First rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        factor: What the rate is multiplied by at each drop.
        drops: How many drops there are.

    Raises:
        LlmoError: A value is out of range.
    """

    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "factor": (0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
        "drops": (1, 2, 3, 4),
    }

    def __init__(self, scratch: float = 1.0, pretrained: float = 0.5, factor: float = 0.5, drops: int = 2) -> None:
        super().__init__(scratch, pretrained)
        self.factor = positive("factor", factor)
        if drops < 1:
            raise LlmoError("drops", drops, "at least 1")
        self.drops = drops

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return staircase(spent, self.factor, self.drops)


@agents.register("tracking_step")
class TrackingStep(TracksSources, Step):
    """The tuned step decay with the tracking mixture."""

    grid = {}
    tuned_as = "step"

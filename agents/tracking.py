"""The loss-tracking mixture under a schedule: the three-line rule that anything learned about sources has to beat."""

from __future__ import annotations

from llmo.registry import agents
from llmo.rules import share
from llmo.schedules import PEAKS, TracksSources, trapezoid


@agents.register("tracking")
class Tracking(TracksSources):
    """The tracking mixture from the start; a constant rate, then linear decay to zero.

    Args:
        scratch: Rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        decay: Share of the budget, at its end, over which the rate decays.
    """

    grid = {"scratch": PEAKS, "pretrained": PEAKS, "decay": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)}

    def __init__(self, scratch: float = 1.0, pretrained: float = 0.5, decay: float = 0.35) -> None:
        super().__init__(scratch, pretrained)
        self.decay = share("decay", decay)

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return trapezoid(spent, 0.0, self.decay)

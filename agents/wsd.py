"""Warm-up, stable, decay: a plateau and a late linear decay to zero (Hu et al. 2024, MiniCPM)."""

from __future__ import annotations

from llmo.registry import agents
from llmo.rules import share
from llmo.schedules import PEAKS, PlainSchedule, TracksSources, trapezoid


@agents.register("wsd")
class WarmupStableDecay(PlainSchedule):
    """Linear warm-up, constant, then linear decay to zero.

    Args:
        scratch: Rate of the plateau from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        warmup: Share of the budget that warms up.
        decay: Share of the budget, at its end, over which the rate decays.
    """

    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "decay": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
        "warmup": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5),
    }

    def __init__(
        self, scratch: float = 1.0, pretrained: float = 0.5, warmup: float = 0.05, decay: float = 0.35
    ) -> None:
        super().__init__(scratch, pretrained)
        self.warmup, self.decay = share("warmup", warmup, 0.9), share("decay", decay)

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return trapezoid(spent, self.warmup, self.decay)


@agents.register("tracking_wsd")
class TrackingWarmupStableDecay(TracksSources, WarmupStableDecay):
    """The tuned plateau and decay with the tracking mixture."""

    grid = {}
    tuned_as = "wsd"

"""Learning-rate schedules over the share of the budget spent, and the base of the rules that follow one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

import numpy as np

from llmo.agent import Schedule
from llmo.rules import M, Rule, View, positive

PEAKS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Peak rates that rules are tuned over, as multiples of the default."""


def cosine(spent: float, warmup: float, floor: float = 0.0) -> float:
    """A linear warm-up from zero, then half a cosine from 1 to `floor` (Loshchilov and Hutter 2017).

    Args:
        spent: Share of the budget spent, 0 to 1.
        warmup: Share of the budget that warms up, in [0, 1).
        floor: Where it ends, 0 to 1.
    """
    if spent < warmup:
        return spent / warmup
    return floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * (spent - warmup) / (1 - warmup)))


def trapezoid(spent: float, warmup: float, decay: float) -> float:
    """A linear warm-up from zero, a plateau at 1, a linear decay to zero over the last share `decay` of the budget."""
    rising = spent / warmup if spent < warmup else 1.0
    falling = (1 - spent) / decay if spent > 1 - decay else 1.0
    return min(rising, falling)


def staircase(spent: float, factor: float, drops: int) -> float:
    """Equal stretches of the budget, the rate times `factor` after each of them; `drops` times in all."""
    return float(factor ** min(drops, int(spent * (drops + 1))))


class ScheduleRule(Rule[M]):
    """A rule whose rate follows a schedule, set at every optimizer step.

    Args:
        scratch: Peak rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.

    Raises:
        LlmoError: A peak is not positive.
    """

    def __init__(self, scratch: float, pretrained: float) -> None:
        self.scratch, self.pretrained = positive("scratch", scratch), positive("pretrained", pretrained)

    @abstractmethod
    def shape(self, spent: float) -> float:
        """Share of the peak rate, 0 to 1, when a share `spent` of the budget is spent."""

    def rate(self, start: str, spent: float) -> float:
        """Multiple of the default rate."""
        return (self.pretrained if start == "pretrained" else self.scratch) * self.shape(spent)

    def schedules(self, starts: Sequence[str]) -> list[Schedule | None]:
        """See `Agent.schedules`."""
        return [partial(self.rate, start) for start in starts]

    def rate_now(self, view: View) -> str:
        """Where the schedule stands, in words."""
        return f"the rate is {self.rate(view.start, view.spent):.2g} of the default at {view.spent:.0%} of the budget"


class PlainSchedule(ScheduleRule[None]):
    """A schedule and nothing else: every action is `keep`."""

    def begin(self, random: np.random.Generator) -> None:
        """Nothing is remembered."""

    def choose(self, view: View, memory: None) -> tuple[str, str]:
        """See `Rule.choose`."""
        return "keep", self.rate_now(view)


TRACKS = "the sources are mixed by how near their losses are to the validation loss"


class TracksSources(PlainSchedule):
    """Mixes the sources by how near their losses are to the validation loss, under the schedule it is put before."""

    def choose(self, view: View, memory: None) -> tuple[str, str]:
        """See `Rule.choose`."""
        return ("source_tracking", TRACKS) if tracks_not_yet(view) else super().choose(view, memory)


def tracks_not_yet(view: View) -> bool:
    """Whether a run could have the tracking mixture and has it not."""
    return view.value("mixing_tracking") <= 0 and view.allows("source_tracking")

"""Explore-then-commit over the sources, under a cosine: the control for policies that choose data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import SOURCES, View, share
from llmo.schedules import PEAKS, ScheduleRule, cosine


@dataclass
class Trial:
    """What is remembered of one run.

    Attributes:
        order: In which order the sources are tried.
        gains: Summed log-gain of the validation loss on each source, in that order.
        step: Environment steps so far.
    """

    order: list[int]
    gains: list[float] = field(default_factory=lambda: [0.0] * len(SOURCES))
    step: int = 0


@agents.register("explore_then_commit")
class ExploreThenCommit(ScheduleRule[Trial]):
    """Tries each source in turn, then stays with the one that gained most, under a cosine.

    Args:
        scratch: Peak rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        warmup: Share of the budget that warms up.
        floor: Final rate over peak rate, 0 to 1.
        rounds: How often each source is tried, one environment step each time.

    Raises:
        LlmoError: A value is out of range.
    """

    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "floor": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        "rounds": (1, 2, 3, 4, 5),
    }

    def __init__(
        self,
        scratch: float = 1.0,
        pretrained: float = 0.5,
        warmup: float = 0.05,
        floor: float = 0.1,
        rounds: int = 1,
    ) -> None:
        super().__init__(scratch, pretrained)
        self.warmup, self.floor = share("warmup", warmup, 0.9), share("floor", floor)
        if rounds < 1:
            raise LlmoError("rounds", rounds, "at least 1")
        self.rounds = rounds

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return cosine(spent, self.warmup, self.floor)

    def begin(self, random: np.random.Generator) -> Trial:
        """The sources are tried in random order: early steps gain more than later ones."""
        return Trial([SOURCES[place] for place in random.permutation(len(SOURCES))])

    def choose(self, view: View, memory: Trial) -> tuple[str, str]:
        """See `Rule.choose`."""
        step, trials = memory.step, self.rounds * len(SOURCES)
        memory.step += 1
        if 0 < step <= trials:
            memory.gains[self._turn(step - 1)] += view.value("gain_1") / 10
        if step < trials:
            source = memory.order[self._turn(step)]
            return view.or_keep(f"source_{source}"), f"trial {step + 1} of {trials}: source {source}"
        if step > trials:
            return "keep", self.rate_now(view)
        best = max(range(len(SOURCES)), key=lambda turn: memory.gains[turn])
        listed = ", ".join(f"{slot}: {gain:.1%}" for slot, gain in zip(memory.order, memory.gains, strict=True))
        why = f"source {memory.order[best]} gained most of the validation loss ({listed})"
        return view.or_keep(f"source_{memory.order[best]}"), why

    def _turn(self, step: int) -> int:
        """Whose turn it is; every other round goes backwards, so that no source is always the first."""
        turn_round, turn = divmod(step, len(SOURCES))
        return turn if turn_round % 2 == 0 else len(SOURCES) - 1 - turn

"""A scripted curriculum: try each source, stay with the best, average at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import SOURCES, View, share
from llmo.schedules import PEAKS, ScheduleRule, trapezoid


@dataclass
class Progress:
    """What is remembered of one run.

    Attributes:
        step: Environment steps so far.
        chosen: Whether a source has been chosen.
        averaged: Whether the averaged weights have been loaded.
    """

    step: int = 0
    chosen: bool = False
    averaged: bool = False


@agents.register("curriculum")
class Curriculum(ScheduleRule[Progress]):
    """Probes each source, stays with the one whose loss is nearest to validation, loads averaged weights late.

    Args:
        scratch: Rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        decay: Share of the budget, at its end, over which the rate decays linearly to zero.
        probe: Environment steps on each source before one is chosen.
        average_from: Share of the budget after which averaged weights are loaded, once; 1 never does.

    Raises:
        LlmoError: A value is out of range.
    """

    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "decay": (0.05, 0.1, 0.2, 0.35, 0.5, 0.7),
        "probe": (1, 2, 3),
        "average_from": (0.7, 0.8, 0.9, 1.0),
    }

    def __init__(
        self,
        scratch: float = 1.0,
        pretrained: float = 1.0,
        decay: float = 0.35,
        probe: int = 1,
        average_from: float = 0.9,
    ) -> None:
        super().__init__(scratch, pretrained)
        self.decay, self.average_from = share("decay", decay), share("average_from", average_from)
        if probe < 1:
            raise LlmoError("probe", probe, "at least 1")
        self.probe = probe

    def shape(self, spent: float) -> float:
        """See `ScheduleRule.shape`."""
        return trapezoid(spent, 0.0, self.decay)

    def begin(self, random: np.random.Generator) -> Progress:
        """Nothing is tried yet."""
        return Progress()

    def choose(self, view: View, memory: Progress) -> tuple[str, str]:
        """See `Rule.choose`."""
        turn, steps_in = divmod(memory.step, self.probe)
        memory.step += 1
        if turn < len(SOURCES):
            if steps_in:
                return "keep", f"source {SOURCES[turn]} is still being tried"
            return f"source_{SOURCES[turn]}", f"source {SOURCES[turn]} is tried for {self.probe} steps"
        if not memory.chosen:
            memory.chosen = True
            return self._nearest(view)
        if not memory.averaged and view.spent >= self.average_from and view.allows("load_averaged"):
            memory.averaged = True
            return "load_averaged", f"{view.spent:.0%} of the budget is spent: the average of late weights is loaded"
        return "keep", self.rate_now(view)

    @staticmethod
    def _nearest(view: View) -> tuple[str, str]:
        """Stay with the source whose loss is nearest to the validation loss."""
        if not view.sees_sources:
            return "source_uniform", "the sources cannot be told apart"
        gaps = view.source_gaps
        best = min(range(len(gaps)), key=lambda slot: abs(gaps[slot]))
        listed = ", ".join(f"{gap:+.0%}" for gap in gaps)
        why = f"source {best + 1} is nearest to validation: log ratios of the losses are {listed}"
        return view.or_keep(f"source_{best + 1}"), why

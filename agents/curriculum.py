"""A scripted curriculum: try each source, stay with the best, average at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        gaps: log(training loss / validation loss) of each source tried, at the end of its trial.
        averaged: Whether the averaged weights have been loaded.
    """

    step: int = 0
    gaps: list[float] = field(default_factory=list)
    averaged: bool = False


@agents.register("curriculum")
class Curriculum(ScheduleRule[Progress]):
    """Probes each source, stays with the one that looks best by loss and size, loads averaged weights late.

    From scratch the lowest training loss looks best, since only text with structure can be learned. A pre-trained model
    may know another domain well, so there the loss nearest to validation does. Small sources are learned by heart, so a
    larger one is preferred.

    Args:
        scratch: Rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        decay: Share of the budget, at its end, over which the rate decays linearly to zero.
        probe: Environment steps on each source before one is chosen.
        prefer_large: What a source ten times as large is worth, as a log ratio of losses.
        average_from: Share of the budget after which averaged weights are loaded, once; 1 never does.

    Raises:
        LlmoError: A value is out of range.
    """

    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "decay": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
        "probe": (1, 2, 3),
        "prefer_large": (0.0, 0.02, 0.05, 0.1, 0.2, 0.5),
        "average_from": (0.7, 0.8, 0.9, 1.0),
    }

    def __init__(
        self,
        scratch: float = 1.0,
        pretrained: float = 0.5,
        decay: float = 0.35,
        probe: int = 1,
        prefer_large: float = 0.05,
        average_from: float = 0.9,
    ) -> None:
        super().__init__(scratch, pretrained)
        self.decay, self.average_from = share("decay", decay), share("average_from", average_from)
        if probe < 1:
            raise LlmoError("probe", probe, "at least 1")
        self.probe, self.prefer_large = probe, share("prefer_large", prefer_large)

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
        if 0 < turn <= len(SOURCES) and not steps_in:
            memory.gaps.append(view.source_gaps[turn - 1])
            if turn == len(SOURCES):
                return self._best(view, memory.gaps)
        if turn < len(SOURCES):
            if steps_in:
                return "keep", f"source {SOURCES[turn]} is still being tried"
            return f"source_{SOURCES[turn]}", f"source {SOURCES[turn]} is tried for {self.probe} steps"
        if not memory.averaged and view.spent >= self.average_from and view.allows("load_averaged"):
            memory.averaged = True
            return "load_averaged", f"{view.spent:.0%} of the budget is spent: the average of late weights is loaded"
        return "keep", self.rate_now(view)

    def _best(self, view: View, gaps: list[float]) -> tuple[str, str]:
        """Stay with the source that looks best."""
        if not view.sees_sources:
            return "source_uniform", "the sources cannot be told apart"
        sizes = [view.value(f"source_{slot}_size") for slot in SOURCES]
        distances = gaps if view.start == "scratch" else [abs(gap) for gap in gaps]
        scores = [distance - self.prefer_large * size for distance, size in zip(distances, sizes, strict=True)]
        best = SOURCES[scores.index(min(scores))]
        listed = ", ".join(
            f"{gap:+.0%} at {10 ** (size + 4):.0f} tokens" for gap, size in zip(gaps, sizes, strict=True)
        )
        return view.or_keep(f"source_{best}"), f"source {best} looks best: losses against validation are {listed}"

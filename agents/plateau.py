"""Reduce on plateau, as `torch.optim.lr_scheduler.ReduceLROnPlateau` does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Agent, Schedule
from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import View, positive
from llmo.schedules import PEAKS, TRACKS, tracks_not_yet

THRESHOLD = 1e-4
"""Share by which a loss must fall below the best one to count as better."""


class PlateauRate:
    """The rate of one run, which falls whenever its validation loss has stopped falling.

    Args:
        peak: First rate, as a multiple of the default.
        factor: What the rate is multiplied by.
        patience: How many losses in a row may be no better before the rate falls.

    Attributes:
        rate: The rate now.
        stalled: How many losses in a row were no better.
    """

    def __init__(self, peak: float, factor: float, patience: int) -> None:
        self.rate, self.stalled = peak, 0
        self._peak, self._factor, self._patience = peak, factor, patience
        self._best = math.inf

    def __call__(self, spent: float) -> float:
        """The rate at any share of the budget."""
        return self.rate

    def begin(self) -> None:
        """Forget the run so far."""
        self.rate, self.stalled, self._best = self._peak, 0, math.inf

    def see(self, loss: float) -> str:
        """Take one loss into account, in any unit; says what follows from it."""
        if loss < self._best * (1 - THRESHOLD):
            self._best, self.stalled = loss, 0
        else:
            self.stalled += 1
        if self.stalled <= self._patience:
            return f"the rate stays at {self.rate:.2g} of the default, {self.stalled} losses without a new best"
        self.rate *= self._factor
        waited, self.stalled = self.stalled, 0
        return f"the rate falls to {self.rate:.2g} of the default after {waited} losses without a new best"


@agents.register("plateau")
class Plateau(Agent):
    """A constant rate that falls when the validation loss stops falling.

    Args:
        scratch: First rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        factor: What the rate is multiplied by, in (0, 1].
        patience: How many validation losses in a row may be no better before the rate falls.

    Raises:
        LlmoError: A value is out of range.
    """

    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "factor": (0.1, 0.2, 0.35, 0.5, 0.7, 1.0),
        "patience": (0, 1, 2, 3, 4),
    }

    def __init__(self, scratch: float = 1.0, pretrained: float = 0.5, factor: float = 0.5, patience: int = 1) -> None:
        self.scratch, self.pretrained = positive("scratch", scratch), positive("pretrained", pretrained)
        self.factor = positive("factor", factor)
        if factor > 1:
            raise LlmoError("factor", factor, "a number in (0, 1]")
        if patience < 0:
            raise LlmoError("patience", patience, "at least 0")
        self.patience = patience

    def schedules(self, starts: Sequence[str]) -> list[Schedule | None]:
        """See `Agent.schedules`; these change as the losses come in."""
        peaks = [self.pretrained if start == "pretrained" else self.scratch for start in starts]
        self._rates = [PlateauRate(peak, self.factor, self.patience) for peak in peaks]
        self._reasons = [""] * len(starts)
        return list(self._rates)

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`: always `keep`."""
        for run, rate in enumerate(self._rates):
            if episode_start[run]:
                rate.begin()
            view = View(self.space, observation[run], mask[run])
            # The loss itself is not observed, only its ratio to the first one.
            self._reasons[run] = rate.see(math.exp(-view.value("gain_total") / 3))
        return np.full(len(observation), self.space.action("keep"))

    def explain(self) -> list[str]:
        """See `Agent.explain`."""
        return self._reasons


@agents.register("tracking_plateau")
class TrackingPlateau(Plateau):
    """The tuned reduction on plateau with the tracking mixture."""

    grid = {}
    tuned_as = "plateau"

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`: the mixture first, then always `keep`."""
        chosen = super().act(observation, mask, episode_start)
        for run in range(len(chosen)):
            if tracks_not_yet(View(self.space, observation[run], mask[run])):
                chosen[run], self._reasons[run] = self.space.action("source_tracking"), TRACKS
        return chosen

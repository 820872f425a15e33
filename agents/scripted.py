"""A scripted teacher that plays the menu: the decisions that usually pay, in the order in which they pay.

It is what `ppo` imitates before it learns on its own, and a rule like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Agent
from llmo.registry import agents


@agents.register("scripted")
class Scripted(Agent):
    """Default rate, tracking mixture, the teacher until it is passed, roll back when worse, decay at the end.

    Args:
        decay_from: Share of the budget after which the rate decays to zero, 0 to 1.
        teacher_gap: Distil while log(student loss / teacher loss) is above this.
        worse: Roll back when log(loss / best loss) is above this.
    """

    grid = {
        "decay_from": (0.2, 0.35, 0.5, 0.65, 0.8),
        "teacher_gap": (-0.02, 0.02, 0.06, 0.12, 0.25),
        "worse": (0.02, 0.05, 0.1, 0.2),
    }

    def __init__(self, decay_from: float = 0.5, teacher_gap: float = 0.06, worse: float = 0.05) -> None:
        self.decay_from, self.teacher_gap, self.worse = decay_from, teacher_gap, worse

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Agent.reset`."""
        self._why = [""] * len(seeds)

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        chosen = np.empty(len(observation), np.int64)
        for run in range(len(observation)):
            name, self._why[run] = self._move(observation[run], mask[run])
            chosen[run] = self.space.action(name)
        return chosen

    def explain(self) -> list[str]:
        """See `Agent.explain`."""
        return self._why

    def _move(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[str, str]:
        """The first move of the list that applies and is allowed."""

        def value(name: str) -> float:
            return float(observation[self.space.feature(name)])

        spent = (value("spent") + 1) / 2
        gap = value("teacher_gap") / 5
        worse = value("best_gap") / 20
        moves = (
            ("rate_default", abs(value("base_rate")) > 0.02 and spent < 0.1, "the rate was drawn"),
            ("rollback", worse > self.worse, f"the loss is {100 * worse:.0f}% above its best"),
            ("source_tracking", spent < 0.5, "the sources are unknown"),
            (
                "distil_teacher",
                value("has_teacher") > 0 and gap > self.teacher_gap,
                f"{100 * gap:.0f}% above the teacher",
            ),
            ("distil_off", gap <= self.teacher_gap, "the teacher is passed"),
            ("rate_decay", spent >= self.decay_from, f"{100 * spent:.0f}% of the budget is spent"),
        )
        for name, applies, why in moves:
            if applies and mask[self.space.action(name)]:
                return name, why
        return "keep", "nothing on the list applies"

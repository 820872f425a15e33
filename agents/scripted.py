"""A scripted teacher that plays the menu: the decisions that usually pay, in the order in which they pay.

It is what `ppo` imitates before it learns on its own, and a rule like any other.
"""

from __future__ import annotations

import numpy as np

from llmo.registry import agents
from llmo.rules import Rule, View, share


@agents.register("scripted")
class Scripted(Rule[None]):
    """Default rate, tracking mixture, the teacher until it is passed, roll back when worse, decay at the end.

    Args:
        decay_from: Share of the budget after which the rate decays linearly to zero.
        teacher_gap: Distil while log(student's loss / teacher's loss) is above this.
        worse: Roll back when log(loss / best loss) is above this.

    Raises:
        LlmoError: `decay_from` is no share.
    """

    grid = {
        "decay_from": (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0),
        "teacher_gap": (-0.5, -0.25, -0.1, -0.05, 0.0, 0.06, 0.12, 0.25),
        "worse": (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    }

    def __init__(self, decay_from: float = 0.5, teacher_gap: float = 0.06, worse: float = 0.05) -> None:
        self.decay_from = share("decay_from", decay_from)
        self.teacher_gap, self.worse = teacher_gap, worse

    def begin(self, random: np.random.Generator) -> None:
        """Nothing is remembered."""

    def choose(self, view: View, memory: None) -> tuple[str, str]:
        """The first move of the list that applies and is allowed."""
        spent = view.spent
        gap, worse = view.value("teacher_gap") / 5, view.value("best_gap") / 20
        passed = gap <= self.teacher_gap
        moves = (
            ("rate_default", spent < 0.1, f"the drawn rate is {10 ** view.value('base_rate'):.2g} of the default"),
            ("rollback", worse > self.worse, f"the loss is {worse:.1%} above its best"),
            ("source_tracking", spent < 0.5, "nobody knows which source is clean"),
            ("distil_teacher", view.value("has_teacher") > 0 and not passed, f"the teacher is {gap:.1%} better"),
            ("distil_off", passed, f"the teacher is only {gap:.1%} better"),
            ("rate_decay", spent >= self.decay_from, f"{spent:.0%} of the budget is spent"),
        )
        for name, applies, why in moves:
            if applies and view.allows(name):
                return name, why
        return "keep", f"nothing to do at {spent:.0%} of the budget"

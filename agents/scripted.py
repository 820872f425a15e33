"""Scripted players of the menu: the decisions that usually pay, in the order in which they pay.

`tutor` is what `ppo` imitates before it learns on its own, and a rule like any other.
"""

from __future__ import annotations

import math

import numpy as np

from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import Rule, View, positive, share

TURNS = {0.2: "rate_x0.2", 0.5: "rate_x0.5", 1.0: "rate_default", 2.0: "rate_x2", 5.0: "rate_x5"}
"""Rates, as multiples of the default, by the action that leads there from it."""


@agents.register("scripted")
class Scripted(Rule[None]):
    """Default rate, tracking mixture, the teacher until it is passed, roll back when worse, decay at the end.

    Args:
        decay_from: Share of the budget after which the rate decays linearly to zero.
        teacher_gap: Distil while log(student's loss / teacher's loss) is above this.
        worse: Roll back when log(loss / best loss) is above this.
        scratch: Rate from scratch, as a multiple of the default: 1, or one that an action of the menu leads to from it.
        pretrained: The same from pre-trained weights.

    Raises:
        LlmoError: `decay_from` is no share, or there is no action for a rate.
    """

    grid = {
        "scratch": tuple(TURNS),
        "pretrained": tuple(TURNS),
        "decay_from": (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0),
        "teacher_gap": (-0.5, -0.25, -0.1, -0.05, 0.0, 0.06, 0.12, 0.25),
        "worse": (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    }

    def __init__(
        self,
        decay_from: float = 0.5,
        teacher_gap: float = 0.06,
        worse: float = 0.05,
        scratch: float = 1.0,
        pretrained: float = 1.0,
    ) -> None:
        self.decay_from = share("decay_from", decay_from)
        self.teacher_gap, self.worse = teacher_gap, worse
        for name, rate in (("scratch", scratch), ("pretrained", pretrained)):
            if rate not in TURNS:
                raise LlmoError(name, rate, [f"{turn:g}" for turn in TURNS])
        self.scratch, self.pretrained = scratch, pretrained

    def begin(self, random: np.random.Generator) -> None:
        """Nothing is remembered."""

    def choose(self, view: View, memory: None) -> tuple[str, str]:
        """The first move of the list that applies and is allowed."""
        spent = view.spent
        gap, worse = view.value("teacher_gap") / 5, view.value("best_gap") / 20
        passed = gap <= self.teacher_gap
        moves = (
            self.turn(view),
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

    def turn(self, view: View) -> tuple[str, bool, str]:
        """How the rate is turned: the action, whether it applies, and why."""
        wanted, rate = getattr(self, view.start), 10 ** view.value("base_rate")
        early = view.spent < 0.1 and not math.isclose(rate, wanted, rel_tol=0.01)
        action = TURNS[wanted] if math.isclose(rate, 1, rel_tol=0.01) else "rate_default"
        return action, early, f"the rate is {rate:.2g} of the default, wanted is {wanted:g}"


@agents.register("update_ratio")
class UpdateRatio(Scripted):
    """The same with the rate turned until the weights change by a wanted share of their norm, as LARS does by layer.

    You et al. (2017), "Large batch training of convolutional networks".

    Args:
        scratch: Wanted change from scratch, in one optimizer step, relative to the weights.
        pretrained: The same from pre-trained weights.
        first: Wanted change in the first step, in multiples of that: before any step, Adam moves every weight by the
            rate, and later by less.
        turn_until: Share of the budget after which the rate is turned no more.
        decay_from: See `Scripted`.
        teacher_gap: See `Scripted`.
        worse: See `Scripted`.
    """

    grid = {
        "scratch": (0.005, 0.01, 0.015, 0.02, 0.03, 0.045, 0.06, 0.09, 0.15),
        "pretrained": (0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
        "first": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
        "turn_until": (0.0, 0.1, 0.2, 0.3, 0.5, 0.8),
        **{name: values for name, values in Scripted.grid.items() if name not in ("scratch", "pretrained")},
    }

    def __init__(
        self,
        scratch: float = 0.06,
        pretrained: float = 0.015,
        first: float = 1.0,
        turn_until: float = 0.2,
        decay_from: float = 1.0,
        teacher_gap: float = 0.0,
        worse: float = 0.02,
    ) -> None:
        super().__init__(decay_from, teacher_gap, worse)
        self.scratch, self.pretrained = positive("scratch", scratch), positive("pretrained", pretrained)
        self.first, self.turn_until = positive("first", first), share("turn_until", turn_until)

    def turn(self, view: View) -> tuple[str, bool, str]:
        """See `Scripted.turn`: to the rate that an action leads to and that is nearest to what is wanted."""
        rate, ratio, wanted = 10 ** view.value("base_rate"), view.value("update_ratio"), getattr(self, view.start)
        untrained = not view.value("step_share")
        if not ratio:
            return "rate_default", untrained and not math.isclose(rate, 1, rel_tol=0.01), "nothing is measured"
        change, wanted = 10 ** (ratio - 2), wanted * (self.first if untrained else 1)
        factors = {"rate_default": 1 / rate, **{name: turn for turn, name in TURNS.items() if turn != 1}, "keep": 1.0}
        action = min(filter(view.allows, factors), key=lambda name: abs(math.log(factors[name] * change / wanted)))
        why = f"the weights change by {change:.2%} in a step, wanted are {wanted:.2%}"
        return action, action != "keep" and (untrained or view.spent < self.turn_until), why


@agents.register("tutor")
class Tutor(UpdateRatio):
    """The same as one teaches it: it distils for long, rolls back soon and always decays in the end.

    It scores less than the tuned `update_ratio`, which never decays. But a policy that has only seen that rule play
    hardly comes to try what the rule never does, and learns less from the same number of steps.
    """

    grid = {}

    def __init__(self) -> None:
        super().__init__(scratch=0.045, decay_from=0.8, teacher_gap=-0.1, worse=0.005)

"""The best sequence of actions that looks at nothing: what is left of a policy when all it knows is the time."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import Rule, View

CHOICES = (
    "keep",
    "rate_default",
    "rate_x0.5",
    "rate_x2",
    "rate_decay",
    "source_tracking",
    "distil_teacher",
    "distil_averaged",
    "distil_off",
    "load_averaged",
    "rollback",
)
LATER = {"at_40": 0.4, "at_60": 0.6, "at_80": 0.8, "at_90": 0.9}
"""Shares of the budget from which an action is taken once, by parameter."""


@agents.register("open_loop")
class OpenLoop(Rule[dict[str, Any]]):
    """The same actions on every instance: four at the start, four at shares of the budget.

    Args:
        first: Action of the first environment step.
        second: Of the second.
        third: Of the third.
        fourth: Of the fourth.
        at_40: Action once 40% of the budget are spent.
        at_60: Once 60% are.
        at_80: Once 80% are.
        at_90: Once 90% are.

    Raises:
        LlmoError: It is no action that is tried here.
    """

    control = True
    trials = 48
    grid = dict.fromkeys(("first", "second", "third", "fourth", *LATER), CHOICES)

    def __init__(
        self,
        first: str = "rate_default",
        second: str = "source_tracking",
        third: str = "distil_teacher",
        fourth: str = "keep",
        at_40: str = "keep",
        at_60: str = "distil_off",
        at_80: str = "rate_decay",
        at_90: str = "keep",
    ) -> None:
        given = {"first": first, "second": second, "third": third, "fourth": fourth}
        given |= {"at_40": at_40, "at_60": at_60, "at_80": at_80, "at_90": at_90}
        for name, action in given.items():
            if action not in CHOICES:
                raise LlmoError(name, action, CHOICES)
        self.actions = given

    def begin(self, random: np.random.Generator) -> dict[str, Any]:
        """What is still to be done."""
        return dict(self.actions)

    def choose(self, view: View, memory: dict[str, Any]) -> tuple[str, str]:
        """See `Rule.choose`: one action at a time, in their order."""
        if not memory:
            return "keep", "nothing is left of the sequence"
        name = next(iter(memory))
        if view.spent < LATER.get(name, 0.0):
            return "keep", f"{name} has not come"
        return view.or_keep(memory.pop(name)), f"{name} of the sequence"

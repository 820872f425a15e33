"""The agent that knows nothing."""

from __future__ import annotations

import numpy as np

from llmo.registry import agents
from llmo.rules import Rule, View


@agents.register("random")
class RandomActions(Rule[np.random.Generator]):
    """Any allowed action, all alike."""

    drawn_rate = True

    def begin(self, random: np.random.Generator) -> np.random.Generator:
        """Remember the run's stream."""
        return random

    def choose(self, view: View, memory: np.random.Generator) -> tuple[str, str]:
        """See `Rule.choose`."""
        allowed = view.allowed
        place = int(memory.integers(len(allowed)))
        return allowed[place], f"drawn as number {place + 1} of {len(allowed)} allowed actions"

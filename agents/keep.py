"""The agent that changes nothing."""

from __future__ import annotations

import numpy as np

from llmo.registry import agents
from llmo.rules import Rule, View


@agents.register("keep")
class Keep(Rule[None]):
    """Change nothing: the drawn rate, all sources alike."""

    drawn_rate = True

    def begin(self, random: np.random.Generator) -> None:
        """Nothing is remembered."""

    def choose(self, view: View, memory: None) -> tuple[str, str]:
        """See `Rule.choose`."""
        return "keep", f"nothing is ever changed; the rate is {10 ** view.value('rate'):.2g} of the default"

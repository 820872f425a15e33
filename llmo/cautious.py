"""An agent that is trusted as far as it knows its way: elsewhere the usual recipe goes on.

That is the default rate, which decays linearly to zero, and noise on the tokens of a model that overfits early.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmo import catalog
from llmo.agent import Agent, LearningAgent, Space
from llmo.errors import LlmoError
from llmo.familiar import Familiar

USUAL = "the usual recipe"
"""How the reason begins where the agent was not asked."""
OFF = 0.1
"""Decimal logarithm of the rate over the default from which it is another one."""
OVERFITS = -0.5
"""Of the feature `train_gap`: a training loss 15% below that of validation."""
REMEDY = "augment_noise"


class CautiousAgent(Agent):
    """Lets an agent choose where what it observes is familiar to it; else goes on as people do.

    In the first half of the budget another rate is set to the default before it decays; later it decays as it is. If by
    then the training loss is far below that of validation, tokens are noised, where the menu has it; noise that begins
    late takes more than it gives.

    Args:
        agent: Who chooses.
        familiar: What it knows.
    """

    def __init__(self, agent: Agent, familiar: Familiar) -> None:
        self._agent, self._familiar = agent, familiar

    def bind(self, space: Space) -> None:
        """See `Agent.bind`."""
        super().bind(space)
        self._agent.bind(space)
        if len(self._familiar.mean) > len(space.features):
            raise LlmoError("policy", type(self._agent).__name__, "one learned with features that are seen here")

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Agent.reset`."""
        super().reset(seeds)
        self._agent.reset(seeds)

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        chosen = self._agent.act(observation, mask, episode_start)
        self._reasons = self._agent.explain()
        # What only the whole menu shows stands behind the rest.
        known = observation[:, : len(self._familiar.mean)]
        for run in np.flatnonzero(self._familiar.distances(known) > self._familiar.limit):
            feature = self._familiar.strangest(known[run])
            chosen[run] = self._usual(observation[run], mask[run])
            value = f"{self.space.features[feature]} is {observation[run, feature]:.2g}"
            self._reasons[run] = f"{USUAL}, as the policy knows nothing like it: {value}"
        return chosen

    def _usual(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
        """What the usual recipe does next."""
        seen = ("spent", "base_rate", "decaying", "train_gap")
        spent, rate, decaying, gap = (observation[self.space.feature(name)] for name in seen)
        default, decay = self.space.action("rate_default"), self.space.action("rate_decay")
        if not decaying and spent < 0 and abs(rate) > OFF and mask[default]:
            return default
        if mask[decay]:
            return decay
        overfits = spent < 0 and gap < OVERFITS and REMEDY in self.space.actions
        return self.space.action(REMEDY if overfits and mask[self.space.action(REMEDY)] else "keep")

    def explain(self) -> list[str]:
        """See `Agent.explain`."""
        return self._reasons


def tuning_agent(name: str, policy: str = "") -> Agent:
    """An agent that is to train somebody's model: a learned one with caution.

    Args:
        name: Its registered name.
        policy: Folder of its policy, if it has learned; by default the one that comes with it.

    Raises:
        LlmoError: There is no such agent, or none of its policies.
    """
    kind = catalog.get("agents", name)
    if not issubclass(kind, LearningAgent):
        agent: Agent = catalog.make_agent(name)
        return agent
    folder = policy or str(kind.shipped_own or kind.shipped or "")
    agent = catalog.make_agent(name, policy=folder)
    familiar = Familiar.load(Path(folder)) if folder else None
    return agent if familiar is None else CautiousAgent(agent, familiar)

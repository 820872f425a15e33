"""A bandit over actions: Thompson sampling (Thompson 1933) with the step's gain as reward, learned anew in each run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from llmo.registry import agents
from llmo.rules import Rule, View, positive


@dataclass
class Beliefs:
    """What is remembered of one run.

    Attributes:
        random: The run's stream.
        rewards: What each action gave so far, by name.
        gains: Gain of every step so far, in units of reward.
        last: The action of the last step; empty before the first.
    """

    random: np.random.Generator
    rewards: dict[str, list[float]] = field(default_factory=dict)
    gains: list[float] = field(default_factory=list)
    last: str = ""


@agents.register("bandit")
class Bandit(Rule[Beliefs]):
    """Thompson sampling over the actions; the reward is a step's gain less the mean gain so far.

    Args:
        exploration: Standard deviation of the belief about an action never tried, in units of reward.

    Raises:
        LlmoError: It is not positive.
    """

    drawn_rate = True
    grid = {"exploration": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)}

    def __init__(self, exploration: float = 0.3) -> None:
        self.exploration = positive("exploration", exploration)

    def begin(self, random: np.random.Generator) -> Beliefs:
        """Every action is believed to be average."""
        return Beliefs(random)

    def choose(self, view: View, memory: Beliefs) -> tuple[str, str]:
        """See `Rule.choose`."""
        if memory.last:
            gain = view.value("gain_1")
            usual = sum(memory.gains) / len(memory.gains) if memory.gains else gain
            memory.gains.append(gain)
            memory.rewards.setdefault(memory.last, []).append(gain - usual)
        allowed = view.allowed
        counts = np.array([1 + len(memory.rewards.get(name, ())) for name in allowed])
        means = np.array([sum(memory.rewards.get(name, ())) for name in allowed]) / counts
        samples = means + self.exploration / np.sqrt(counts) * memory.random.standard_normal(len(allowed))
        best = int(samples.argmax())
        memory.last = allowed[best]
        why = f"drew {samples[best]:+.2f} of a belief of {means[best]:+.2f} after {counts[best] - 1} trials"
        return memory.last, f"{why}, the highest of {len(allowed)}"

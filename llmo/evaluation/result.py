"""What one scored episode left behind: the unit that every table and plot is made from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EpisodeResult:
    """One agent on one instance.

    Attributes:
        agent: Registered name of the agent.
        agent_seed: Seed of the agent (for `ppo`, of its training).
        env: Registered name of the environment.
        split: Instance part: ``train``, ``dev`` or ``test``.
        index: Index of the instance in its part.
        start: ``scratch`` or ``pretrained``.
        text_group: Name of the instance's text group; results of one group are not independent.
        budget: Budget scale: 1 for the instance's own budget, 0.5 for half of it.
        test_loss: Mean cross-entropy of the delivered weights on the test split, nats per token.
        validation_loss: The same on the validation split.
        initial_validation_loss: The same before the first step.
        budget_flops: FLOPs the episode could spend.
        spent_flops: FLOPs it did spend.
        search_flops: FLOPs spent looking ahead, outside the budget; 0 for all but search agents.
        wall_s: Wall time of the episode's share of its population, seconds.
        diverged: Whether training ended in NaN or Inf.
        masked: How many chosen actions were masked and ran as `keep`.
        total_reward: Sum of the rewards.
        curve: `(share of the budget spent, best validation loss so far)` after each step, the start first.
        actions: Names of the actions taken, one a step.
    """

    agent: str
    agent_seed: int
    env: str
    split: str
    index: int
    start: str
    text_group: str
    budget: float
    test_loss: float
    validation_loss: float
    initial_validation_loss: float
    budget_flops: float
    spent_flops: float
    search_flops: float
    wall_s: float
    diverged: bool
    masked: int
    total_reward: float
    curve: tuple[tuple[float, float], ...]
    actions: tuple[str, ...]

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EpisodeResult:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        fields["curve"] = tuple((float(x), float(y)) for x, y in fields["curve"])
        fields["actions"] = tuple(fields["actions"])
        return cls(**fields)


def load_results(folder: Path) -> list[EpisodeResult]:
    """Every result below `folder` (one file an episode), ordered by agent, seed, budget and index."""
    results = [EpisodeResult.from_json(path.read_text()) for path in sorted(folder.rglob("*.json"))]
    return sorted(results, key=lambda r: (r.agent, r.agent_seed, r.budget, r.index))

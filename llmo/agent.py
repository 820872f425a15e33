"""The contract of an agent: it sees observations and masks, and chooses actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmo.errors import LlmoError, needs_extra

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from stable_baselines3.common.vec_env import VecEnv

    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.run_dir import RunDir

Schedule = Callable[[float], float]
"""Share of the budget spent to the learning rate, as a multiple of the default rate."""


@dataclass(frozen=True)
class Space:
    """What an agent plays on.

    Attributes:
        actions: Names of the menu's actions, in order.
        features: Names of the observation's entries, in order.
    """

    actions: tuple[str, ...]
    features: tuple[str, ...]

    def action(self, name: str) -> int:
        """Index of an action.

        Raises:
            LlmoError: The menu lacks it.
        """
        if name not in self.actions:
            raise LlmoError("action", name, self.actions)
        return self.actions.index(name)

    def feature(self, name: str) -> int:
        """Index of a feature.

        Raises:
            LlmoError: The observation lacks it.
        """
        if name not in self.features:
            raise LlmoError("feature", name, self.features)
        return self.features.index(name)


class Agent(ABC):
    """Chooses one action for each of n runs at once.

    Attributes:
        search: Whether it looks ahead by snapshots, outside the budget.
        search_flops: FLOPs that a search agent has spent looking ahead, by run; set by `attach`.
        members: How many runs of an instance it plays together; the one that validates best counts.
        share: Budget of each, as a multiple of the instance's own.
        control: Whether it is no rival, but shows what something is worth.
        drawn_rate: Whether it starts from the instance's drawn rate, not from a tuned one.
        grid: Values of each parameter that `tune` tries, by name.
        trials: How many settings of all of them together it lets Optuna draw; 0 to climb along one after another.
        tuned_as: Name of the agent whose tuned values it has; empty for its own.
        space: Set by `bind`.
        seeds: Set by `reset`, one a run.
    """

    search: bool = False
    members: int = 1
    share: float = 1.0
    control: bool = False
    drawn_rate: bool = False
    grid: dict[str, tuple[Any, ...]] = {}
    trials: int = 0
    tuned_as: str = ""
    search_flops: list[float]
    space: Space

    def bind(self, space: Space) -> None:
        """Say what it plays on; called once, before the first `reset`."""
        self.space = space

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin with one run a seed, all at the start of an episode.

        Args:
            seeds: Of whatever is random in the agent, one a run: what it does to a run depends on no other run.
        """
        self.seeds = tuple(seeds)

    def schedules(self, starts: Sequence[str]) -> list[Schedule | None]:
        """The rate schedules it sets at every optimizer step: share of budget spent to multiple of the default rate.

        Args:
            starts: ``scratch`` or ``pretrained`` for each run.

        Returns:
            One a run; None for agents that turn the rate by actions.
        """
        return [None] * len(starts)

    @property
    def menu_alone(self) -> bool:
        """Whether choosing actions is all that it does to a run: then its moves can be imitated, or taken again."""
        return self.members == 1 and self.schedules(["scratch"]) == [None]

    def attach(self, population: Any, slots: Sequence[int]) -> None:
        """Say where its runs are, for an agent that does more than to choose actions; called before the first `act`.

        Args:
            population: The `llmo.mdp.population.Population` that plays them.
            slots: Slot of each run.
        """
        self.search_flops = [0.0] * len(slots)

    @abstractmethod
    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose.

        Args:
            observation: Features, [n, F].
            mask: Which actions are allowed, [n, A].
            episode_start: Which runs have just begun, [n]; state kept for them is stale.

        Returns:
            Action indices, [n].
        """

    def explain(self) -> list[str]:
        """Why, for each run, in one sentence; of the last `act`."""
        return []


class KeepingAgent(Agent):
    """An agent whose every action is `keep`: what it changes is changed elsewhere."""

    menu_alone = False

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`."""
        return np.full(len(observation), self.space.action("keep"))


class OptimizerAgent(KeepingAgent):
    """A rival that changes nothing but the optimizer.

    Attributes:
        package: Name of the package that its optimizer comes from.
    """

    package: str

    def bind(self, space: Space) -> None:
        """See `Agent.bind`.

        Raises:
            LlmoError: Its package is not installed.
        """
        super().bind(space)
        needs_extra("optimizer", self.package, "rivals")

    @abstractmethod
    def optimizer(self, parameters: Iterable[torch.Tensor], start: str, rate: float) -> torch.optim.Optimizer:
        """The optimizer that trains a run.

        Args:
            parameters: Of the model.
            start: ``scratch`` or ``pretrained``.
            rate: The default rate of AdamW for this model.
        """


class LearningAgent(Agent):
    """An agent that learns a policy, keeps it in a folder, and plays it.

    Attributes:
        policy: Folder of the policy that it plays, loaded by `bind`; empty for the shipped one.
        shipped: Folder of the policy that comes with the agent; None where none does.
        shipped_own: The same for people's own models, if another one is better for them.
        goes_on: Whether `learn` begins with the policy that it was given, rather than with nothing.
    """

    policy: str
    shipped: Path | None = None
    shipped_own: Path | None = None
    goes_on: bool = False

    @abstractmethod
    def learn(
        self,
        space: Space,
        env: VecEnv,
        steps: int,
        run: RunDir,
        demonstrations: Demonstrations | None,
        on_update: Callable[[dict[str, Any]], None],
        *,
        seed: int = 0,
        gamma: float = 1.0,
    ) -> None:
        """Learn from environments; continues from the newest checkpoint of the run folder.

        Args:
            space: Names of actions and features.
            env: Environments, with `action_masks`.
            steps: Environment steps in all.
            run: Where checkpoints and the record `progress.jsonl` go.
            demonstrations: Moves to imitate first, or None.
            on_update: Called after every update with its line of the record.
            seed: Of everything random.
            gamma: Discount of rewards, in an environment step; above 0, at most 1.
        """

    @abstractmethod
    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write what was learned, with a card that says how, for `bind` to load."""

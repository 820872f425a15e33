"""The base of hand rules: each run is decided by itself, from what is seen of it and what is remembered of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmo.agent import Agent, Space
from llmo.errors import LlmoError

M = TypeVar("M")

SOURCES = (1, 2, 3)
"""Numbers of the source slots, as in the action `source_1`."""


@dataclass(frozen=True)
class View:
    """What a rule sees of one run.

    Attributes:
        space: Names of actions and features.
        observation: Features, [F].
        mask: Which actions are allowed, [A].
    """

    space: Space
    observation: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def value(self, feature: str) -> float:
        """A feature, by name."""
        return float(self.observation[self.space.feature(feature)])

    def allows(self, action: str) -> bool:
        """Whether an action is on the menu and allowed."""
        return action in self.space.actions and bool(self.mask[self.space.action(action)])

    def or_keep(self, action: str) -> str:
        """An action, or `keep` where it is not allowed because what it sets is set already."""
        return action if self.allows(action) else "keep"

    @property
    def allowed(self) -> list[str]:
        """Names of the allowed actions, in the menu's order."""
        return [name for name, allowed in zip(self.space.actions, self.mask, strict=True) if allowed]

    @property
    def spent(self) -> float:
        """Share of the budget spent, 0 to 1."""
        return (self.value("spent") + 1) / 2

    @property
    def start(self) -> str:
        """``scratch`` or ``pretrained``."""
        return "pretrained" if self.value("pretrained") > 0 else "scratch"

    @property
    def source_gaps(self) -> tuple[float, ...]:
        """log(source's training loss / validation loss) of each source; zeros where sources cannot be seen."""
        return tuple(self.value(f"source_{slot}_gap") / 3 for slot in SOURCES)

    @property
    def sees_sources(self) -> bool:
        """Whether the run shows how its sources are used; their features are all zero where it does not."""
        return any(self.value(f"source_{slot}_age") for slot in SOURCES)


class Rule(Agent, Generic[M]):
    """An agent that decides each run by itself; subclasses say what is remembered of a run and how it is decided."""

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Agent.reset`."""
        super().reset(seeds)
        self._randoms = [np.random.default_rng(seed) for seed in seeds]
        self._memories: list[Any] = [None] * len(seeds)
        self._reasons = [""] * len(seeds)

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], episode_start: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See `Agent.act`; what is chosen but not allowed becomes `keep`."""
        chosen = np.empty(len(observation), np.int64)
        for run in range(len(observation)):
            if episode_start[run]:
                self._memories[run] = self.begin(self._randoms[run])
            view = View(self.space, observation[run], mask[run])
            name, why = self.choose(view, self._memories[run])
            if not view.allows(name):
                name, why = "keep", f"{why}; {name} is not allowed"
            chosen[run], self._reasons[run] = self.space.action(name), why
        return chosen

    def explain(self) -> list[str]:
        """See `Agent.explain`."""
        return self._reasons

    @abstractmethod
    def begin(self, random: np.random.Generator) -> M:
        """What is remembered of a run that begins.

        Args:
            random: The run's own stream, for whatever is random in the rule.
        """

    @abstractmethod
    def choose(self, view: View, memory: M) -> tuple[str, str]:
        """Name of the action for one run, and why, in one sentence; `memory` is changed in place."""


def share(name: str, value: float, most: float = 1.0) -> float:
    """The value itself.

    Raises:
        LlmoError: It is not in [0, most].
    """
    if not 0 <= value <= most:
        raise LlmoError(name, value, f"a share in [0, {most:g}]")
    return value


def positive(name: str, value: float) -> float:
    """The value itself.

    Raises:
        LlmoError: It is not positive and finite.
    """
    if not 0 < value < float("inf"):
        raise LlmoError(name, value, "a positive finite number")
    return value

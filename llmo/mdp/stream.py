"""Episode after episode in every slot of a population: what both vector adapters are made of.

An ended episode is followed by the next one in the same step. Which instance a slot plays next follows from the seed,
the slot's number and how many episodes it has begun, so slots spread over processes play what they would play in one.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.errors import LlmoError
from llmo.mdp.env import DRAWN, step_info
from llmo.mdp.population import Population
from llmo.mdp.reference import Curve
from llmo.mdp.spec import EnvSpec


@dataclass(frozen=True)
class Transition:
    """What one step of one slot gave.

    Attributes:
        reward: A finite number.
        terminated: Whether the episode has ended, so that the slot is in its next one now.
        info: Of the step.
        final_observation: The ended episode's last observation [F]; None if it goes on.
        reset_info: The info of the next episode's reset; None if it goes on.
    """

    reward: float
    terminated: bool
    info: dict[str, Any]
    final_observation: NDArray[np.float32] | None
    reset_info: dict[str, Any] | None


class Stream:
    """A population whose slots never stand still.

    Args:
        spec: The environment.
        replicas: N slots, at least 1.
        split: Which instances are drawn.
        reward: ``gain``, ``relative`` or ``final``.
        budget_scale: Multiplies every instance's budget.
        first_slot: Number of the first slot, where this is a part of a larger population.
        executor: ``single``, ``batched`` or ``compiled``.
        device: Where the runs lie, such as ``cuda``.
        curves: Learning curves of a teacher by index of the instance: these instances are played and no others, the
            shorter their intervals the more often, so that costly ones take no more time than cheap ones; rewards
            compare with them, and observations get what a critic may know besides.

    Raises:
        LlmoError: No such split, reward, executor or device, or a number is out of its range.
    """

    def __init__(
        self,
        spec: EnvSpec,
        replicas: int,
        split: str,
        reward: str,
        budget_scale: float = 1.0,
        first_slot: int = 0,
        executor: str = "batched",
        device: str = "cpu",
        curves: Mapping[int, Curve] | None = None,
    ) -> None:
        if replicas < 1:
            raise LlmoError("replicas", replicas, "at least 1")
        if first_slot < 0:
            raise LlmoError("first slot", first_slot, "a number from 0")
        spec.draw(split, 0, budget_scale)
        self.population = Population(spec, replicas, reward, executor=executor, device=device, curves=curves)
        self._pool = sorted(curves or {})
        self._chances = _chances([spec.draw(split, index, budget_scale).interval for index in self._pool])
        self.split, self.budget_scale, self.first_slot = split, budget_scale, first_slot
        self._seed = 0
        self._begun = [0] * replicas

    def seed(self, seed: int, begun: Sequence[int] | None = None) -> None:
        """Draw the instances of the episodes to come from another seed.

        Args:
            seed: An integer from 0.
            begun: How many episodes each slot has begun with it already, here or elsewhere; none by default.

        Raises:
            LlmoError: It is no integer from 0.
        """
        self._seed = valid_seed(seed)
        self._begun = [0] * self.population.replicas if begun is None else list(begun)

    def reset(self) -> list[dict[str, Any]]:
        """Begin an episode in every slot; the infos."""
        slots = range(self.population.replicas)
        self._begin(slots)
        return [step_info(self.population, slot, None) for slot in slots]

    def step(self, actions: Sequence[Any] | NDArray[Any]) -> list[Transition]:
        """One environment step of every slot.

        Args:
            actions: Action index by slot, [N].

        Raises:
            LlmoError: There are not N actions, one is no index of the menu, or nothing was reset; nothing has changed.
        """
        if len(actions) != self.population.replicas:
            raise LlmoError("number of actions", len(actions), f"{self.population.replicas}, one for each slot")
        steps = self.population.step(dict(enumerate(actions)))
        infos = [step_info(self.population, slot, step) for slot, step in steps.items()]
        final = {slot: self._observe(slot) for slot, step in steps.items() if step.terminated}
        self._begin(final)
        return [
            Transition(
                step.reward,
                step.terminated,
                infos[slot],
                final.get(slot),
                step_info(self.population, slot, None) if step.terminated else None,
            )
            for slot, step in steps.items()
        ]

    def observations(self) -> NDArray[np.float32]:
        """What every slot shows now, [N, F], and [N, F + K] with what a critic may know besides."""
        return np.stack([self._observe(slot) for slot in range(self.population.replicas)])

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each slot may take, [N, A]."""
        return np.stack([self.population.mask(slot) for slot in range(self.population.replicas)])

    def _observe(self, slot: int) -> NDArray[np.float32]:
        seen = self.population.observe(slot)
        return np.concatenate([seen, self.population.privileged(slot)]) if self._pool else seen

    def _begin(self, slots: Iterable[int]) -> None:
        instances = {}
        for slot in slots:
            drawn = drawn_number(self._seed, self.first_slot + slot, self._begun[slot], self._chances)
            index = self._pool[drawn] if self._pool else drawn
            instances[slot] = self.population.spec.draw(self.split, index, self.budget_scale)
            self._begun[slot] += 1
        self.population.reset(instances)


def valid_seed(seed: Any) -> int:
    """A seed of instances.

    Raises:
        LlmoError: It is no integer from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise LlmoError("seed", seed, "an integer from 0")
    return int(seed)


def drawn_number(seed: int, slot: int, episode: int, chances: NDArray[np.float64] | None = None) -> int:
    """Number of the instance that a slot plays in one of its episodes, counted from 0.

    Args:
        seed: Of the stream.
        slot: Number of the slot.
        episode: How many it has begun.
        chances: Of each number; None for all below `DRAWN` alike.
    """
    rng = np.random.default_rng([seed, slot, episode])
    return int(rng.integers(DRAWN) if chances is None else rng.choice(len(chances), p=chances))


def _chances(intervals: Sequence[int]) -> NDArray[np.float64] | None:
    """In inverse proportion to the intervals; None for none."""
    shares = 1 / np.array(intervals, float)
    return shares / shares.sum() if intervals else None

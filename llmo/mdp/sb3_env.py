"""A population as stable-baselines3's `VecEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from llmo.diagnostics.features import LIMIT
from llmo.mdp.env import DRAWN, step_info
from llmo.mdp.population import Population
from llmo.mdp.spec import env_spec


class PopulationVecEnv(VecEnv):
    """N training runs behind SB3's interface; an ended episode is followed by the next one in the same step.

    The instances that a slot plays follow from the seed and the slot's number alone, so that slots spread over several
    processes play what they would play in one.

    Args:
        env: Registered name of the environment.
        replicas: N.
        split: Which instances are drawn.
        seed: Of the instances drawn.
        reward: ``gain``, ``relative`` or ``final``.
        first_slot: Number of the first slot, where this is a part of a larger population.
    """

    def __init__(
        self,
        env: str,
        replicas: int,
        split: str = "train",
        seed: int = 0,
        reward: str = "gain",
        first_slot: int = 0,
    ) -> None:
        spec = env_spec(env)
        self.population = Population(spec, replicas, reward, executor="vmap")
        self.split = split
        self.first_slot = first_slot
        self._seed = seed
        self._episodes = [0] * replicas
        self._returns = np.zeros(replicas)
        self._actions: NDArray[np.int64] = np.zeros(replicas, np.int64)
        observations = gymnasium.spaces.Box(-LIMIT, LIMIT, (len(spec.space.features),), np.float32)
        super().__init__(replicas, observations, gymnasium.spaces.Discrete(len(spec.menu)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of the instances that come after the next reset."""
        self._seed = 0 if seed is None else seed
        self._episodes = [0] * self.num_envs
        return [self._seed] * self.num_envs

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every slot; observations [N, F]."""
        self._begin(range(self.num_envs))
        return self._observations()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take note of the actions, [N]."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every slot; see SB3's `VecEnv.step_wait`."""
        steps = self.population.step(dict(enumerate(self._actions)))
        infos = [step_info(self.population, slot, step) for slot, step in steps.items()]
        ended = [slot for slot, step in steps.items() if step.terminated]
        for slot, step in steps.items():
            self._returns[slot] += step.reward
        for slot in ended:
            infos[slot]["terminal_observation"] = self.population.observe(slot)
            history = self.population.episode(slot).history
            infos[slot]["episode"] = {"r": float(self._returns[slot]), "l": len(history.actions), "t": 0.0}
        self._begin(ended)
        rewards = np.array([step.reward for step in steps.values()], np.float32)
        dones = np.array([step.terminated for step in steps.values()])
        return self._observations(), rewards, dones, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each slot may take, [N, A]."""
        return np.stack([self.population.mask(slot) for slot in range(self.num_envs)])

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute of this object for each index."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of this object."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of this object that gives a row for each slot."""
        rows = getattr(self, method_name)(*args, **kwargs)
        return [rows[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No slot is."""
        return [False] * len(list(self._get_indices(indices)))

    def _begin(self, slots: Sequence[int]) -> None:
        instances = {}
        for slot in slots:
            draw = np.random.default_rng([self._seed, self.first_slot + slot, self._episodes[slot]])
            instances[slot] = self.population.spec.draw(self.split, int(draw.integers(DRAWN)), 1.0)
            self._episodes[slot] += 1
            self._returns[slot] = 0.0
        self.population.reset(instances)

    def _observations(self) -> NDArray[np.float32]:
        return np.stack([self.population.observe(slot) for slot in range(self.num_envs)])

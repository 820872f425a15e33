"""A population as Gymnasium's `VectorEnv`: what `gymnasium.make_vec` gives."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from llmo.errors import LlmoError
from llmo.mdp.env import known_parameters, spaces
from llmo.mdp.spec import EnvSpec, env_spec
from llmo.mdp.stream import Stream


class PopulationVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """N training runs in one program, with autoreset in the same step; see `Stream`.

    Args:
        spec: Problems and menu.
        num_envs: N, at least 1.
        split: ``train``, ``dev`` or ``test``: which instances are drawn.
        reward: ``gain``, ``relative`` or ``final``.
        budget_scale: Multiplies every instance's budget.

    Raises:
        LlmoError: No such split or reward, or a number is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self, spec: EnvSpec, num_envs: int = 1, split: str = "train", reward: str = "gain", budget_scale: float = 1.0
    ) -> None:
        self._stream = Stream(spec, num_envs, split, reward, budget_scale)
        self._seeded = False
        self.num_envs = num_envs
        self.action_names, self.feature_names = spec.space.actions, spec.space.features
        self.single_observation_space, self.single_action_space = spaces(spec)
        self.observation_space: gymnasium.Space[Any] = batch_space(self.single_observation_space, num_envs)
        self.action_space: gymnasium.Space[Any] = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode in every slot.

        Args:
            seed: Of the instances drawn, from the first again; None goes on with the seed that is set, or a random one.
            options: None, or empty.

        Returns:
            Observations [N, F], and infos as Gymnasium's vector environments give them.

        Raises:
            LlmoError: There are options.
        """
        for option in options or ():
            raise LlmoError("reset option", option, "none for a vector environment")
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._stream.seed(self.np_random_seed or 0)
            self._seeded = True
        infos: dict[str, Any] = {}
        for slot, info in enumerate(self._stream.reset()):
            infos = self._add_info(infos, info, slot)
        return self._stream.observations(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every slot.

        Args:
            actions: Action indices, [N].

        Returns:
            Observations [N, F], rewards, terminations and truncations [N], and infos: where an episode has ended, the
            observation is the next episode's first, and ``final_obs`` and ``final_info`` hold its own last ones.

        Raises:
            LlmoError: There are not N actions, one is no index of the menu, or nothing was reset; nothing has changed.
        """
        transitions = self._stream.step(actions)
        infos: dict[str, Any] = {}
        for slot, transition in enumerate(transitions):
            info = transition.info
            if transition.reset_info is not None:
                final = {"final_obs": transition.final_observation, "final_info": info}
                infos = self._add_info(infos, final, slot)
                info = transition.reset_info
            infos = self._add_info(infos, info, slot)
        rewards = np.array([transition.reward for transition in transitions])
        terminations = np.array([transition.terminated for transition in transitions])
        return self._stream.observations(), rewards, terminations, np.zeros(self.num_envs, np.bool_), infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each slot may take, [N, A]."""
        return self._stream.action_masks()


def make(name: str, **parameters: Any) -> PopulationVectorEnv:
    """The vector environment of a registered name: what `gymnasium.make_vec` calls.

    Raises:
        LlmoError: No such environment, or it has no such parameter.
    """
    spec = env_spec(name)
    return PopulationVectorEnv(spec, **known_parameters(name, PopulationVectorEnv, parameters))

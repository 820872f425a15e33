"""A population as stable-baselines3's `VecEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from llmo.mdp.env import spaces
from llmo.mdp.privileged import PRIVILEGED
from llmo.mdp.reference import Curve
from llmo.mdp.spec import env_spec
from llmo.mdp.stream import Stream, valid_seed


class SlotVecEnv(VecEnv):
    """What SB3 asks of an object that holds all slots itself, instead of one environment a slot.

    Attributes:
        lost_episodes: How many episodes were truncated because the worker that held them was lost.
    """

    lost_episodes = 0
    # SB3 asks for it before its own constructor sets it.
    render_mode: str | None = None

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute of this object for each index."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of this object."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of this object that gives a row for each slot."""
        rows = getattr(self, method_name)(*args, **kwargs)
        return [rows[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No slot is."""
        return [False for _ in self._get_indices(indices)]


class PopulationVecEnv(SlotVecEnv):
    """N training runs behind SB3's interface; see `Stream` for what follows an ended episode.

    Args:
        env: Registered name of the environment.
        replicas: N.
        split: Which instances are drawn.
        seed: Of the instances drawn.
        reward: ``gain``, ``relative`` or ``final``.
        first_slot: Number of the first slot, where this is a part of a larger population.
        budget_scale: Multiplies every instance's budget.
        executor: ``single``, ``batched`` or ``compiled``.
        device: Where the runs lie, such as ``cuda``.
        curves: See `Stream`.

    Raises:
        LlmoError: No such environment, split, reward, executor or device, or a number is out of its range.
    """

    def __init__(
        self,
        env: str,
        replicas: int,
        split: str = "train",
        seed: int = 0,
        reward: str = "gain",
        first_slot: int = 0,
        budget_scale: float = 1.0,
        executor: str = "batched",
        device: str = "cpu",
        curves: Mapping[int, Curve] | None = None,
    ) -> None:
        spec = env_spec(env)
        self._stream = Stream(spec, replicas, split, reward, budget_scale, first_slot, executor, device, curves)
        self._next_seed: int | None = valid_seed(seed)
        self._returns = np.zeros(replicas)
        self._lengths = np.zeros(replicas, np.int64)
        self._actions: NDArray[np.int64] = np.zeros(replicas, np.int64)
        super().__init__(replicas, *spaces(spec, len(PRIVILEGED) if curves else 0))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of the instances that come after the next reset; None for 0."""
        self._next_seed = valid_seed(seed or 0)
        return [self._next_seed] * self.num_envs

    def continue_from(self, seed: int, begun: Sequence[int]) -> None:
        """Go on with a seed after the episodes that each slot has begun with it elsewhere, from the next reset."""
        self._next_seed = None
        self._stream.seed(seed, begun)

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every slot; observations [N, F]."""
        if self._next_seed is not None:
            self._stream.seed(self._next_seed)
            self._next_seed = None
        self.reset_infos = self._stream.reset()
        self._returns[:] = 0
        self._lengths[:] = 0
        return self._stream.observations()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take note of the actions, [N]."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every slot; see SB3's `VecEnv.step_wait`."""
        transitions = self._stream.step(self._actions)
        rewards = np.array([transition.reward for transition in transitions])
        self._returns += rewards
        self._lengths += 1
        for slot, transition in enumerate(transitions):
            if transition.reset_info is not None:
                transition.info["terminal_observation"] = transition.final_observation
                transition.info["TimeLimit.truncated"] = False
                episode = {"r": float(self._returns[slot]), "l": int(self._lengths[slot]), "t": 0.0}
                transition.info["episode"] = episode
                self.reset_infos[slot] = transition.reset_info
                self._returns[slot], self._lengths[slot] = 0, 0
        dones = np.array([transition.terminated for transition in transitions])
        infos = [transition.info for transition in transitions]
        return self._stream.observations(), rewards.astype(np.float32), dones, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each slot may take, [N, A]."""
        return self._stream.action_masks()

    def close(self) -> None:
        """Nothing to close."""

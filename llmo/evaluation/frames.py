"""The last few observations instead of the newest alone, for policies that judge by how a run answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


def stacked_names(features: Sequence[str], frames: int) -> list[str]:
    """Names of the entries of stacked observations, the newest first."""
    return [f"{name}, {age} steps ago" if age else name for age in range(frames) for name in features]


class Frames:
    """The last observations of n runs.

    Args:
        count: How many frames.
        runs: n.
        features: Entries in each of them.

    Attributes:
        held: The newest first, zeros before the episode's first, float32 [n, count x features].
    """

    def __init__(self, count: int, runs: int, features: int) -> None:
        self.held = np.zeros((runs, count * features), np.float32)
        self._features = features

    def push(self, observations: NDArray[np.float32], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Take the newest observations; what is held then.

        Args:
            observations: [n, features].
            starts: Which of them are an episode's first, [n].
        """
        self.held = self.after(observations, np.where(starts[:, None], np.float32(0), self.held))
        return self.held

    def after(self, observations: NDArray[np.float32], held: NDArray[np.float32]) -> NDArray[np.float32]:
        """Some frames with newer ones before them, as many as there were."""
        return np.concatenate([observations, held[:, : held.shape[1] - self._features]], 1)


class FrameStack(VecEnvWrapper):
    """Stacks what a policy sees; what only the critic sees stays single, behind it.

    Args:
        venv: Environments with a box of observations.
        seen: How many entries, the first, the policy sees.
        frames: How many of the last observations.
    """

    def __init__(self, venv: VecEnv, seen: int, frames: int) -> None:
        box = venv.observation_space
        assert isinstance(box, Box)
        low, high = (np.concatenate([np.tile(bound[:seen], frames), bound[seen:]]) for bound in (box.low, box.high))
        super().__init__(venv, observation_space=Box(low, high))
        self._seen, self._frames = seen, Frames(frames, venv.num_envs, seen)

    def reset(self) -> NDArray[np.float32]:
        """Begin in every slot, with nothing before."""
        observations: Any = self.venv.reset()
        return self._stacked(observations, np.ones(self.num_envs, bool))

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """See SB3's `VecEnv.step_wait`."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for slot in np.flatnonzero(dones):
            last = infos[slot]["terminal_observation"][None]
            frames = self._frames.after(last[:, : self._seen], self._frames.held[slot : slot + 1])
            infos[slot]["terminal_observation"] = np.concatenate([frames, last[:, self._seen :]], 1)[0]
        assert isinstance(observations, np.ndarray)
        return self._stacked(observations, dones), rewards, dones, infos

    def _stacked(self, observations: NDArray[np.float32], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        frames = self._frames.push(observations[:, : self._seen], starts)
        return np.concatenate([frames, observations[:, self._seen :]], 1)

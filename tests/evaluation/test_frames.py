"""Stacked observations are those of stable-baselines3's own wrapper, newest first, with the critic's part behind."""

from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from llmo.evaluation.frames import Frames, FrameStack, stacked_names


class Walk(gymnasium.Env[np.ndarray, np.int64]):
    """Random observations; episodes of three to five steps."""

    observation_space = gymnasium.spaces.Box(-5, 8, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 6))
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        return self.np_random.uniform(-5, 8, 3).astype(np.float32)

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._observe(), 0.0, self.left == 0, False, {}


def newest_first(stacked: np.ndarray, frames: int) -> np.ndarray:
    return stacked.reshape(len(stacked), frames, -1)[:, ::-1].reshape(len(stacked), -1)


def test_stacks_as_stable_baselines3_does() -> None:
    ours, theirs = (DummyVecEnv([Walk, Walk]) for _ in range(2))
    for env in (ours, theirs):
        env.seed(3)
    stack, reference = FrameStack(ours, 3, 4), VecFrameStack(theirs, 4)
    np.testing.assert_array_equal(stack.reset(), newest_first(reference.reset(), 4))
    ended = 0
    for _ in range(20):
        (seen, _, dones, infos), (other, _, _, others) = (env.step(np.zeros(2, int)) for env in (stack, reference))
        np.testing.assert_array_equal(seen, newest_first(other, 4))
        for slot in np.flatnonzero(dones):
            last = newest_first(others[slot]["terminal_observation"][None], 4)[0]
            np.testing.assert_array_equal(infos[slot]["terminal_observation"], last)
            ended += 1
    assert ended > 5


def test_what_only_the_critic_sees_is_not_stacked() -> None:
    env = DummyVecEnv([Walk])
    env.seed(3)
    stack = FrameStack(env, 2, 3)
    first = stack.reset()
    second = stack.step(np.zeros(1, int))[0]
    assert isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    assert first.shape[1:] == second.shape[1:] == stack.observation_space.shape == (7,)
    assert (first[0, 2:6] == 0).all()
    assert second[0, 2:4].tolist() == first[0, :2].tolist()
    assert (second[0, 4:6] == 0).all() and second[0, 6] != first[0, 6]
    seen, done = second, False
    while not done:
        before = seen
        seen, _, (done,), infos = stack.step(np.zeros(1, int))
    last = infos[0]["terminal_observation"]
    assert last[2:6].tolist() == before[0, :4].tolist()
    assert last.shape == (7,) and last[6] not in (before[0, 6], seen[0, 6])
    assert (seen[0, 2:6] == 0).all(), "the next episode has nothing before it"


def test_one_frame_is_the_observation_itself() -> None:
    frames = Frames(1, 2, 3)
    observations = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert frames.push(observations, np.array([True, False])).tolist() == observations.tolist()
    assert stacked_names(["a", "b"], 1) == ["a", "b"]
    assert stacked_names(["a", "b"], 2) == ["a", "b", "a, 1 steps ago", "b, 1 steps ago"]

"""A population over processes gives what it gives in one, and says when a process has died."""

from collections.abc import Iterator

import numpy as np
import pytest

from llmo.errors import LlmoError, WorkerError
from llmo.evaluation.workers import WorkerVecEnv
from llmo.mdp.sb3_env import PopulationVecEnv

ENV = "llmo/LanguageModel-v0"


@pytest.fixture(scope="module")
def spread() -> Iterator[WorkerVecEnv]:
    env = WorkerVecEnv(ENV, 4, 2, seed=3)
    yield env
    env.close()


def test_two_processes_give_what_one_gives(spread: WorkerVecEnv) -> None:
    together = PopulationVecEnv(ENV, 4, seed=3)
    assert np.array_equal(together.reset(), spread.reset())
    dice = np.random.default_rng(0)
    for _ in range(4):
        masks = together.action_masks()
        assert np.array_equal(masks, spread.action_masks())
        assert np.array_equal(masks[[1, 3]], spread.env_method("action_masks", indices=[1, 3]))
        actions = np.array([dice.choice(np.flatnonzero(mask)) for mask in masks])
        for one, other in zip(together.step(actions)[:3], spread.step(actions)[:3], strict=True):
            assert np.array_equal(one, other)


def test_a_wrong_action_is_reported_and_harms_nothing(spread: WorkerVecEnv) -> None:
    spread.reset()
    masks = spread.action_masks()
    with pytest.raises(LlmoError, match="action"):
        spread.step(np.array([0, 0, 999, 0]))
    assert np.array_equal(masks, spread.action_masks())


def test_replicas_must_be_shared_out_evenly() -> None:
    with pytest.raises(LlmoError, match="multiple"):
        WorkerVecEnv(ENV, 3, 2)


def test_a_dead_process_is_named() -> None:
    env = WorkerVecEnv(ENV, 2, 2)
    env._processes[1].kill()
    with pytest.raises(WorkerError, match="worker process 1 has ended with status -9"):
        env.reset()
    env.close()

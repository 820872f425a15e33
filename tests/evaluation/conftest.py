"""What tests of worker populations share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ENV = "llmo/LanguageModel-v0"


def rollout(env: Any, steps: int = 6) -> list[Any]:
    """All that random allowed moves show, from a reset on."""
    dice = np.random.default_rng(0)
    seen: list[Any] = [env.reset(), list(env.reset_infos)]
    for _ in range(steps):
        masks = env.action_masks()
        actions = np.array([dice.choice(np.flatnonzero(mask)) for mask in masks])
        seen += [masks, *env.step(actions), list(env.reset_infos)]
    return seen


@pytest.fixture(scope="session")
def play() -> Callable[..., list[Any]]:
    return rollout


@pytest.fixture(scope="session")
def alone() -> list[Any]:
    """What four slots show in one process, in short episodes with seed 3."""
    from llmo.mdp.sb3_env import PopulationVecEnv

    return rollout(PopulationVecEnv(ENV, 4, seed=3, budget_scale=0.2))

"""What an environment must obey: Gymnasium's and stable-baselines3's checkers, and what llmo adds to them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from llmo.agent import Space
from llmo.catalog.gym_ids import make_env
from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.evaluation.findings import Findings, require, require_same
from llmo.mdp.env import TrainingEnv
from llmo.mdp.population import Population
from llmo.mdp.spec import EnvSpec, env_spec

BUDGET_SCALE = 0.12
"""Share of the budget that checks play with: two or three steps an episode."""
ANY_SCALE = 0.5
"""The same where a checker plays some instance of its own choice, the smallest budget of all too, for a step or two."""
MOST_STEPS = 1000
"""An episode that is longer does not end."""


def check_environment(name: str, findings: Findings) -> None:
    """Check an environment by its registered name."""
    env: TrainingEnv | None = None
    with findings.that("can be made, and its menu and features have names of their own"):
        env = _make(name, budget_scale=2 * BUDGET_SCALE)
        _names(env.population.spec.space)
    if env is None:
        return
    with findings.that("passes gymnasium's checker"), _strict():
        from gymnasium.utils.env_checker import check_env

        check_env(_make(name, budget_scale=ANY_SCALE))
    with findings.that("passes stable-baselines3's checker"), _strict():
        from stable_baselines3.common.env_checker import check_env as check_env_sb3

        check_env_sb3(_make(name, budget_scale=ANY_SCALE))
    with findings.that("equal seeds give equal episodes; rewards are finite, observations in the space, and they end"):
        require_same(difference(_episode(_make(name)), _episode(_make(name)), "episode"))
    with findings.that("what cannot be done is refused, and changes nothing"):
        _refuses(name)
    with findings.that("a masked action runs as keep and is counted"):
        _masked_runs_as_keep(env)
    with findings.that("restoring undoes every allowed action bit for bit"):
        _restores(env)
    with findings.that("both vector adapters give the same episodes"):
        _adapters_agree(name)
    with findings.that("a run that diverges ends with a finite penalty, and harms no other"):
        _diverges(env.population.spec)


def _make(name: str, **parameters: Any) -> TrainingEnv:
    env = make_env(name, **({"budget_scale": BUDGET_SCALE} | parameters)).unwrapped
    require(isinstance(env, TrainingEnv), f"it makes a {type(env).__name__}")
    return env


@contextmanager
def _strict() -> Iterator[None]:
    """Turns the warnings by which the checkers speak into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def _names(space: Space) -> None:
    for what, names in (("actions", space.actions), ("features", space.features)):
        require(len(set(names)) == len(names), f"two {what} have one name")


def _episode(env: TrainingEnv) -> list[Any]:
    """All that one random episode shows."""
    observation, info = env.reset(seed=5)
    choose = np.random.default_rng(5)
    seen: list[Any] = [observation, info]
    while True:
        require(len(seen) < 2 * MOST_STEPS, f"no end within {MOST_STEPS} steps")
        require(env.observation_space.contains(observation), "an observation lies outside of the space")
        require(env.action_masks()[env.action_names.index("keep")], "keep is masked")
        observation, reward, terminated, truncated, info = env.step(choose.integers(len(env.action_names)))
        require(math.isfinite(reward), f"a reward is {reward}")
        require(not truncated, "it is truncated, not terminated")
        seen += [observation, reward, terminated, info]
        if terminated:
            return seen


def _refuses(name: str) -> None:
    env = _make(name)
    _refused(env, 0, "a step before reset")
    env.reset(seed=1)
    for action in (-1, len(env.action_names), math.nan, 0.0, True, None, np.zeros(2, np.int64)):
        before = env.snapshot()
        _refused(env, action, f"the action {action!r}")
        require_same(difference(before, env.snapshot(), "state"))
    for options in ({"instanse": 0}, {"instance": -1}, {"instance": 0.5}):
        before = env.snapshot()
        try:
            env.reset(options=options)
        except LlmoError:
            require_same(difference(before, env.snapshot(), "state"))
        else:
            require(False, f"the options {options} are accepted")


def _refused(env: TrainingEnv, action: Any, what: str) -> None:
    try:
        env.step(action)
    except LlmoError:
        return
    require(False, f"{what} is accepted")


def _short_step(env: TrainingEnv) -> dict[str, int]:
    """Options of a reset: of some instances, the one whose steps take the fewest optimizer steps."""
    draw = env.population.spec.draw
    return {"instance": min(range(16), key=lambda index: draw("train", index, 1.0).interval)}


def _masked_runs_as_keep(env: TrainingEnv) -> None:
    env.reset(options=_short_step(env))
    masked = np.flatnonzero(~env.action_masks())
    before, keep = env.snapshot(), env.action_names.index("keep")
    kept = env.step(keep)
    for action in masked[:3]:
        env.restore(before)
        *taken, info = env.step(action)
        require_same(difference(list(kept[:4]), taken, f"{env.action_names[action]}, which is masked"))
        require(info["action"] == "keep" and info["masked"] == 1 and info["action_masked"], "it is not counted")


def _restores(env: TrainingEnv) -> None:
    env.reset(options=_short_step(env))
    env.step(env.action_names.index("keep"))
    before = env.snapshot()
    after = env.step(env.action_names.index("keep"))
    env.restore(before)
    for action in np.flatnonzero(env.action_masks()):
        env.step(action)
        env.restore(before)
        require_same(difference(before, env.snapshot(), f"after {env.action_names[action]}"))
    require_same(difference(after, env.step(env.action_names.index("keep")), "continued"))


def _adapters_agree(name: str) -> None:
    from llmo.mdp.sb3_env import PopulationVecEnv
    from llmo.mdp.vector_env import PopulationVectorEnv

    sb3 = PopulationVecEnv(name, 2, seed=4, budget_scale=BUDGET_SCALE)
    vector = PopulationVectorEnv(env_spec(name), 2, budget_scale=BUDGET_SCALE)
    require_same(difference(sb3.reset(), vector.reset(seed=4)[0], "first observations"))
    choose = np.random.default_rng(4)
    for step in range(4):
        masks = sb3.action_masks()
        require_same(difference(masks, vector.action_masks(), "masks"))
        actions = np.array([choose.choice(np.flatnonzero(mask)) for mask in masks])
        observations, rewards, dones, _ = sb3.step(actions)
        others = vector.step(actions)
        require_same(difference(observations, others[0], f"observations of step {step}"))
        require_same(difference(rewards, others[1].astype(np.float32), f"rewards of step {step}"))
        require_same(difference(dones, others[2], f"ends of step {step}"))


def _diverges(spec: EnvSpec) -> None:
    """One of two runs gets a rate that no float32 holds."""
    keep = spec.menu.index("keep")
    instance = spec.draw("train", 0, 2 * BUDGET_SCALE)
    population, alone = Population(spec, 2), Population(spec, 2)
    population.reset({0: instance, 1: instance}, {0: lambda spent: 1e60})
    alone.reset({0: instance, 1: instance})
    steps, undisturbed = population.step({0: keep, 1: keep}), alone.step({0: keep, 1: keep})
    require(steps[0].measurement.diverged and steps[0].terminated, "it goes on")
    require(math.isfinite(steps[0].reward) and steps[0].reward < 0, f"its reward is {steps[0].reward}")
    require(np.isfinite(population.observe(0)).all(), "its observation is not finite")
    require(math.isfinite(population.test_loss(0)), "its best weights are lost")
    require_same(difference(undisturbed[1], steps[1], "the other run"))

"""`TrainingEnv`: one training run as a Gymnasium environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics.features import LIMIT
from llmo.errors import LlmoError
from llmo.mdp.population import Population, Snapshot, Step
from llmo.mdp.spec import EnvSpec, env_spec

DRAWN = 2**31
"""Instances of a split that a reset without one draws from."""


class TrainingEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One training run: an action is one improvement, a step is some optimizer steps and a validation pass.

    Args:
        spec: Problems and menu.
        split: ``train``, ``dev`` or ``test``: which instances are drawn.
        instance: Index of the instance that every episode plays; None draws one at each reset.
        reward: ``gain``, ``relative`` or ``final``.
        render_mode: ``ansi`` or ``rgb_array``.
        strict: Whether a masked action raises, instead of running `keep`.
        budget_scale: Multiplies every instance's budget.

    Raises:
        LlmoError: No such split, reward or render mode, or a number is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}

    def __init__(
        self,
        spec: EnvSpec,
        split: str = "train",
        instance: int | None = None,
        reward: str = "gain",
        render_mode: str | None = None,
        strict: bool = False,
        budget_scale: float = 1.0,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise LlmoError("render mode", render_mode, self.metadata["render_modes"])
        spec.draw(split, 0 if instance is None else instance, budget_scale)
        self.split = split
        self.instance = instance
        self.render_mode = render_mode
        self.budget_scale = budget_scale
        self.action_names, self.feature_names = spec.space.actions, spec.space.features
        self.observation_space, self.action_space = spaces(spec)
        self.population = Population(spec, 1, reward, strict)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Of the stream that instances are drawn from.
            options: ``{"instance": INDEX}`` plays that instance, this time.

        Returns:
            The observation [F], and an info with the action mask and the first measurement.

        Raises:
            LlmoError: No such option or instance; nothing has changed then.
        """
        given = {"instance": self.instance} | (options or {})
        for option in given:
            if option != "instance":
                raise LlmoError("reset option", option, ("instance",))
        index, draw = given["instance"], self.population.spec.draw
        if index is not None:
            draw(self.split, index, self.budget_scale)
        super().reset(seed=seed)
        if index is None:
            index = int(self.np_random.integers(DRAWN))
        self.population.reset({0: draw(self.split, index, self.budget_scale)})
        return self.population.observe(0), self._info()

    def step(
        self, action: int | np.integer | NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply an action, train one interval, measure.

        Raises:
            LlmoError: The action is no index of the menu, or there is no episode to step; nothing has changed then.
        """
        step = self.population.step({0: action})[0]
        return self.population.observe(0), step.reward, step.terminated, False, self._info(step)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions would do something now, [A]."""
        return self.population.mask(0)

    def snapshot(self) -> Snapshot:
        """Everything of the episode, for search and tests."""
        return self.population.snapshot(0)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; continuing from it is bit-identical."""
        self.population.restore(0, snapshot)

    def test_loss(self) -> float:
        """Test loss of the best weights by validation, nats per token; for scoring only."""
        return self.population.test_loss(0)

    def render(self) -> Any:
        """One line of text (``ansi``), or a plot of the run so far as an array [H, W, 3] (``rgb_array``)."""
        from llmo.mdp import render

        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode: 'ansi' or 'rgb_array'")
            return None
        history = self.population.episode(0).history
        return render.as_text(history) if self.render_mode == "ansi" else render.as_image(history)

    def _info(self, step: Step | None = None) -> dict[str, Any]:
        return step_info(self.population, 0, step)


def spaces(spec: EnvSpec, more: int = 0) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Discrete]:
    """The observation space [F + more] and the action space of one run."""
    observations = gymnasium.spaces.Box(-LIMIT, LIMIT, (len(spec.space.features) + more,), np.float32)
    return observations, gymnasium.spaces.Discrete(len(spec.menu))


def step_info(population: Population, slot: int, step: Step | None) -> dict[str, Any]:
    """The info of one slot: mask, measurement, instance, and after a step what was done."""
    episode = population.episode(slot)
    info: dict[str, Any] = {
        "action_mask": population.mask(slot),
        "measurement": episode.history.last,
        "instance": episode.instance.index,
        "masked": episode.masked,
    }
    if step is not None:
        info |= {"action": step.action, "action_masked": step.masked}
    return info


def make(name: str, **parameters: Any) -> TrainingEnv:
    """The environment of a registered name: what `gymnasium.make` calls.

    Raises:
        LlmoError: No such environment, or it has no such parameter.
    """
    return TrainingEnv(env_spec(name), **known_parameters(name, TrainingEnv, parameters))


def known_parameters(name: str, maker: Callable[..., Any], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters themselves.

    Raises:
        LlmoError: The maker of the environment `name` lacks one of them.
    """
    accepted = [parameter for parameter in inspect.signature(maker).parameters if parameter != "spec"]
    for parameter in parameters:
        if parameter not in accepted:
            raise LlmoError(f"parameter of {name}", parameter, accepted)
    return parameters

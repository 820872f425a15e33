"""One worker of a population: what a process and a Ray actor that hold a share of its slots have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.engine.memory import out_of_memory
from llmo.evaluation.processes import one_thread
from llmo.mdp.sb3_env import PopulationVecEnv


@dataclass(frozen=True)
class Frame:
    """What n slots show after a reset or a step.

    Attributes:
        observations: [n, F].
        masks: Which actions each slot may take, [n, A].
        rewards: [n]; zeros after a reset.
        dones: Whether an episode has ended, so that the slot is in its next one, [n]; all false after a reset.
        infos: Of the step; empty dictionaries after a reset.
        reset_infos: Of the resets that began an episode, by slot.
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]
    reset_infos: dict[int, dict[str, Any]]


class Share:
    """The slots of a population that one worker holds.

    They are made at the first request, so that what is wrong with the arguments is the answer to that.

    Args:
        **arguments: Of `PopulationVecEnv`.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._env: PopulationVecEnv | None = None

    def answer(self, method: str, *values: Any) -> Frame | None:
        """What one of the methods below gives.

        Raises:
            MemoryError: There is not enough memory for it.
        """
        one_thread()
        try:
            frame: Frame | None = getattr(self, method)(*values)
        except RuntimeError as error:
            if out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise
        return frame

    def make(self) -> None:
        """Make the slots.

        Raises:
            LlmoError: The arguments are not usable.
        """
        self._made()

    def reset(self, seed: int, begun: Sequence[int]) -> Frame:
        """Begin an episode in every slot.

        Args:
            seed: Of the instances drawn.
            begun: How many episodes each slot has begun with it before, here or elsewhere.
        """
        env = self._made()
        env.continue_from(seed, begun)
        observations = env.reset()
        nothing = np.zeros(env.num_envs, np.float32)
        infos: list[dict[str, Any]] = [{} for _ in nothing]
        return Frame(observations, env.action_masks(), nothing, nothing > 0, infos, dict(enumerate(env.reset_infos)))

    def step(self, actions: NDArray[np.int64]) -> Frame:
        """Step every slot by its action, [n]."""
        env = self._made()
        env.step_async(actions)
        observations, rewards, dones, infos = env.step_wait()
        begun = {int(slot): env.reset_infos[slot] for slot in np.flatnonzero(dones)}
        return Frame(observations, env.action_masks(), rewards, dones, infos, begun)

    def _made(self) -> PopulationVecEnv:
        if self._env is None:
            self._env = PopulationVecEnv(**self._arguments)
        return self._env


class Worker(ABC):
    """A share that lives elsewhere and answers one request at a time."""

    @abstractmethod
    def send(self, method: str, *arguments: Any) -> None:
        """Ask for a method of `Share`.

        Raises:
            WorkerLost: It has died.
        """

    @abstractmethod
    def receive(self, seconds: float) -> Any:
        """The answer to the last request; what it has raised is raised here.

        Args:
            seconds: How long to wait.

        Raises:
            WorkerLost: It has died, is out of memory, or gives no answer in time.
        """

    @abstractmethod
    def end(self) -> None:
        """End it, whatever it is doing."""

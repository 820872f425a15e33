"""A population that workers share, behind SB3's interface, and that outlives the loss of any of them.

Which instance a slot plays follows from the seed, the slot's number and how many episodes the slot has begun. This side
keeps count of them, so a new worker goes on with the next episode of every slot of a lost one.
"""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.errors import LlmoError, WorkerError
from llmo.evaluation.processes import WorkerLost
from llmo.evaluation.worker import Frame, Worker
from llmo.mdp.env import spaces
from llmo.mdp.population import valid_action
from llmo.mdp.privileged import PRIVILEGED
from llmo.mdp.sb3_env import SlotVecEnv
from llmo.mdp.spec import env_spec
from llmo.mdp.stream import valid_seed

ANSWER_SECONDS = 600.0
"""A worker that takes longer for a step hangs."""
START_SECONDS = 600.0
"""A worker that takes longer to start, import libraries and make its slots hangs."""
MOST_LOSSES = 3
"""A worker that is lost as often without a finished step in between will be lost again."""


class WorkerVecEnv(SlotVecEnv):
    """Workers that hold equal shares of one population; what it gives does not depend on how many they are.

    A worker that has died, is out of memory or hangs is replaced. The episodes of its slots end: `dones` is true, the
    reward 0, and the info has ``"TimeLimit.truncated": True``, the last known ``"terminal_observation"`` and
    ``"lost": True``. The other workers are not disturbed.

    Args:
        env: Registered name of the environment.
        replicas: Slots in all; a multiple of `workers`.
        workers: How many, at least 1.
        seed: Of the instances drawn.
        timeout: Seconds after which a worker that gives no answer to a step counts as lost.
        **parameters: Further arguments of `PopulationVecEnv`.

    Raises:
        LlmoError: `replicas` is no multiple of `workers`, or an argument is not usable.
        WorkerError: A worker is lost again and again.
    """

    def __init__(
        self, env: str, replicas: int, workers: int, seed: int = 0, timeout: float = ANSWER_SECONDS, **parameters: Any
    ) -> None:
        if workers < 1 or replicas % workers:
            raise LlmoError("replicas", replicas, f"a multiple of the number of workers, {workers}")
        observations, actions = spaces(env_spec(env), len(PRIVILEGED) if parameters.get("curves") else 0)
        super().__init__(replicas, observations, actions)
        self._features, self._menu = observations.shape[0], int(actions.n)
        self.timeout = timeout
        self._each = replicas // workers
        self._next_seed: int | None = valid_seed(seed)
        self._seed = 0
        self._begun: NDArray[np.int64] = np.zeros(replicas, np.int64)
        self._observations: NDArray[np.float32] | None = None
        self._masks: NDArray[np.bool_] | None = None
        self._lost: dict[int, str] = {}
        self._losses = [0] * workers
        self._arguments = [
            {"env": env, "replicas": self._each, "first_slot": worker * self._each, **parameters}
            for worker in range(workers)
        ]
        self._workers: list[Worker] = []
        try:
            for worker in range(workers):
                self._workers.append(self._start(worker))
                self._send(worker, "make")
            self._hear(range(workers), START_SECONDS)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _start(self, worker: int) -> Worker:
        """A new worker for a share of the slots, without waiting for it."""

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of the instances that come after the next reset; None for 0."""
        self._next_seed = valid_seed(seed or 0)
        return [self._next_seed] * self.num_envs

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every slot; observations [N, F]."""
        if self._next_seed is not None:
            self._seed, self._next_seed = self._next_seed, None
            self._begun[:] = 0
        for worker in range(len(self._workers)):
            self._ask_to_reset(worker)
        frames = self._hear(range(len(self._workers)), self.timeout) | self._replace()
        self._begun += 1
        self._take(frames)
        return self._shown()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Send the actions [N] to the workers.

        Raises:
            LlmoError: There are not N, one is no index of the menu, or nothing was reset; nothing has changed then.
        """
        if self._observations is None:
            raise LlmoError("step", "before reset", "a call of reset first")
        if len(actions) != self.num_envs:
            raise LlmoError("number of actions", len(actions), f"{self.num_envs}, one for each slot")
        chosen = np.array([valid_action(action, self._menu) for action in actions])
        for worker in range(len(self._workers)):
            self._send(worker, "step", chosen[self._slots(worker)])

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Wait for every worker; see SB3's `VecEnv.step_wait`."""
        frames = self._hear(range(len(self._workers)), self.timeout)
        for worker in frames:
            self._losses[worker] = 0
        for worker, frame in self._replace().items():
            frames[worker] = self._truncated(worker, frame)
            self.lost_episodes += self._each
        ordered = [frames[worker] for worker in range(len(self._workers))]
        dones = np.concatenate([frame.dones for frame in ordered])
        self._begun += dones
        self._take(frames)
        infos = [info for frame in ordered for info in frame.infos]
        return self._shown(), np.concatenate([frame.rewards for frame in ordered]), dones, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each slot may take, [N, A].

        Raises:
            LlmoError: Nothing was reset.
        """
        if self._masks is None:
            raise LlmoError("step", "before reset", "a call of reset first")
        return self._masks.copy()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _slots(self, worker: int) -> slice:
        return slice(worker * self._each, (worker + 1) * self._each)

    def _shown(self) -> NDArray[np.float32]:
        assert self._observations is not None
        return self._observations.copy()

    def _take(self, frames: dict[int, Frame]) -> None:
        """Take note of what every slot shows now."""
        ordered = [frames[worker] for worker in range(len(self._workers))]
        self._observations = np.concatenate([frame.observations for frame in ordered])
        self._masks = np.concatenate([frame.masks for frame in ordered])
        for worker, frame in enumerate(ordered):
            for slot, info in frame.reset_infos.items():
                self.reset_infos[worker * self._each + slot] = info

    def _send(self, worker: int, method: str, *arguments: Any) -> None:
        try:
            self._workers[worker].send(method, *arguments)
        except WorkerLost as lost:
            self._lost[worker] = str(lost)

    def _ask_to_reset(self, worker: int) -> None:
        self._send(worker, "reset", self._seed, self._begun[self._slots(worker)].tolist())

    def _hear(self, workers: Iterable[int], seconds: float) -> dict[int, Any]:
        """The answers of those that are not lost; all are heard before an error of one is raised."""
        deadline = time.monotonic() + seconds
        answers: dict[int, Any] = {}
        errors: list[Exception] = []
        for worker in workers:
            if worker in self._lost:
                continue
            try:
                answers[worker] = self._workers[worker].receive(max(0.0, deadline - time.monotonic()))
            except WorkerLost as lost:
                self._lost[worker] = str(lost)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return answers

    def _replace(self) -> dict[int, Frame]:
        """Put new workers in the place of the lost ones; what their slots show in their next episodes."""
        frames: dict[int, Frame] = {}
        while self._lost:
            lost = dict(self._lost)
            for worker, reason in lost.items():
                self._workers[worker].end()
                self._losses[worker] += 1
                if self._losses[worker] == MOST_LOSSES:
                    raise WorkerError(
                        f"worker {worker} was lost {MOST_LOSSES} times running without a finished step (it {reason}): "
                        "if memory is short, take fewer --replicas or --workers; --resume goes on"
                    )
                warnings.warn(f"worker {worker} {reason}; a new one goes on", RuntimeWarning, stacklevel=2)
                self._workers[worker] = self._start(worker)
            self._lost.clear()
            for worker in lost:
                self._ask_to_reset(worker)
            frames |= self._hear(lost, START_SECONDS)
        return frames

    def _truncated(self, worker: int, begun: Frame) -> Frame:
        """The end of the episodes of a lost worker and the begin of their next ones."""
        assert self._observations is not None
        infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": True, "terminal_observation": observation.copy(), "lost": True}
            for observation in self._observations[self._slots(worker)]
        ]
        dones = np.ones(self._each, np.bool_)
        return Frame(begun.observations, begun.masks, np.zeros(self._each, np.float32), dones, infos, begun.reset_infos)

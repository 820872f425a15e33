"""A population spread over processes, one a core, behind the same `VecEnv` interface."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from llmo.errors import LlmoError, WorkerError
from llmo.evaluation.processes import one_thread, prepare_worker
from llmo.mdp.population import valid_action
from llmo.mdp.sb3_env import PopulationVecEnv, SlotVecEnv


def _serve(pipe: Connection, arguments: dict[str, Any]) -> None:
    """The life of one worker process: answer ``(method, arguments)`` until told to stop."""
    prepare_worker()
    env = PopulationVecEnv(**arguments)
    pipe.send((env.observation_space, env.action_space))
    while True:
        method, values = pipe.recv()
        if method == "close":
            return
        try:
            pipe.send((True, getattr(env, method)(*values)))
        except Exception as error:
            pipe.send((False, error))


def population_env(env: str, replicas: int, workers: int, **parameters: Any) -> VecEnv:
    """A population over some processes, or in this one where `workers` is 0; see `WorkerVecEnv`."""
    if workers:
        return WorkerVecEnv(env, replicas, workers, **parameters)
    one_thread()
    return PopulationVecEnv(env, replicas, **parameters)


class WorkerVecEnv(SlotVecEnv):
    """Processes that hold equal parts of one population.

    What an episode measures does not depend on the number of processes: a slot's instances follow from its number.

    Args:
        env: Registered name of the environment.
        replicas: Slots in all; a multiple of `workers`.
        workers: Processes, at least 1.
        **parameters: Further arguments of `PopulationVecEnv`.

    Raises:
        LlmoError: `replicas` is no multiple of `workers`.
    """

    def __init__(self, env: str, replicas: int, workers: int, **parameters: Any) -> None:
        if workers < 1 or replicas % workers:
            raise LlmoError("replicas", replicas, f"a multiple of the number of workers, {workers}")
        self._each = replicas // workers
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for worker in range(workers):
            here, there = context.Pipe()
            arguments = {"env": env, "replicas": self._each, "first_slot": worker * self._each, **parameters}
            process = context.Process(target=_serve, args=(there, arguments), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        spaces = [self._receive(worker) for worker in range(workers)]
        super().__init__(replicas, *spaces[0])

    def _receive(self, worker: int) -> Any:
        try:
            return self._pipes[worker].recv()
        except (EOFError, OSError) as error:
            raise self._lost(worker) from error

    def _lost(self, worker: int) -> WorkerError:
        self._processes[worker].join(1)
        status = self._processes[worker].exitcode
        return WorkerError(f"worker process {worker} has ended with status {status}; --resume goes on")

    def _answers(self) -> list[Any]:
        """What every worker answers; all are heard before an error of one is raised."""
        answers = [self._receive(worker) for worker in range(len(self._pipes))]
        for sound, value in answers:
            if not sound:
                raise value
        return [value for _, value in answers]

    def _send(self, method: str, values: Sequence[tuple[Any, ...]]) -> None:
        for worker, arguments in enumerate(values):
            try:
                self._pipes[worker].send((method, arguments))
            except OSError as error:
                raise self._lost(worker) from error

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        self._send(method, [arguments] * len(self._pipes))
        return self._answers()

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every slot; observations [N, F]."""
        return np.concatenate(self._ask("reset"))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of the instances that come after the next reset."""
        return [value for values in self._ask("seed", seed) for value in values]

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Send the actions [N] to the workers.

        Raises:
            LlmoError: One is no index of the menu; nothing has changed then.
        """
        for action in actions:
            valid_action(action, self.action_space.n)  # type: ignore[attr-defined]
        self._send("step", [(part,) for part in np.split(np.asarray(actions), len(self._pipes))])

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Wait for every worker; see SB3's `VecEnv.step_wait`."""
        observations, rewards, dones, infos = zip(*self._answers(), strict=True)
        gathered = [info for part in infos for info in part]
        return np.concatenate(observations), np.concatenate(rewards), np.concatenate(dones), gathered

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each slot may take, [N, A]."""
        return np.concatenate(self._ask("action_masks"))

    def close(self) -> None:
        """End the worker processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                pipe.send(("close", ()))
            except OSError:
                continue
            process.join(5)
        for process in self._processes:
            if process.is_alive():
                process.kill()

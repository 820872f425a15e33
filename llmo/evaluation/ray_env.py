"""A population that Ray actors share, on one machine or many."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from llmo.evaluation.processes import WorkerLost
from llmo.evaluation.ray_cluster import environment, join_cluster, loss
from llmo.evaluation.worker import Share, Worker
from llmo.evaluation.worker_env import WorkerVecEnv

PLACE_SECONDS = 60.0
"""After that, the successor of a lost actor shares a CPU with others: with a node, CPUs may be gone for good."""


class RayWorker(Worker):
    """A share in an actor of its own.

    Args:
        patience: Seconds in which a node must have a CPU free for it alone; later it shares one. None waits.
        arguments: Of `PopulationVecEnv`.
    """

    def __init__(self, patience: float | None, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._place_by = None if patience is None else time.monotonic() + patience
        self.actor: Any = self._begin(cpus=1)

    def send(self, method: str, *arguments: Any) -> None:
        """See `Worker.send`."""
        self._request = (method, *arguments)
        self._answer = self.actor.answer.remote(*self._request)

    def receive(self, seconds: float) -> Any:
        """See `Worker.receive`."""
        if self._place_by is not None:
            left = max(0.0, self._place_by - time.monotonic())
            self._place_by = None
            if not ray.wait([self.actor.__ray_ready__.remote()], timeout=left)[0]:
                self.end()
                self.actor = self._begin(cpus=0)
                self.send(*self._request)
        try:
            return ray.get(self._answer, timeout=seconds)
        except GetTimeoutError as error:
            raise WorkerLost("gave no answer in time") from error
        except RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                raise WorkerLost("is out of memory") from error
            raise error.cause from error
        except RayError as error:
            raise loss(error) from error

    def end(self) -> None:
        """See `Worker.end`."""
        if ray.is_initialized():
            ray.kill(self.actor)

    def _begin(self, cpus: int) -> Any:
        return ray.remote(num_cpus=cpus, runtime_env=environment())(Share).remote(**self._arguments)


class RayVecEnv(WorkerVecEnv):
    """A population shared by actors of a Ray cluster, one a CPU; see `WorkerVecEnv` and `join_cluster`."""

    def __init__(self, env: str, replicas: int, workers: int, **parameters: Any) -> None:
        join_cluster(workers)
        super().__init__(env, replicas, workers, **parameters)

    def _start(self, worker: int) -> Worker:
        first = worker == len(self._workers)
        return RayWorker(None if first else PLACE_SECONDS, self._arguments[worker])

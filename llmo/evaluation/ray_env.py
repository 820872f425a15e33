"""A population that Ray actors share, on one machine or many."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from llmo.evaluation.processes import WorkerLost
from llmo.evaluation.ray_cluster import environment, join_cluster, loss
from llmo.evaluation.worker import Share, Worker
from llmo.evaluation.worker_env import WorkerVecEnv


class RayWorker(Worker):
    """A share in an actor of its own.

    Args:
        cpus: CPUs that a node must have free for it.
        arguments: Of `PopulationVecEnv`.
    """

    def __init__(self, cpus: int, arguments: dict[str, Any]) -> None:
        self.actor: Any = ray.remote(num_cpus=cpus, runtime_env=environment())(Share).remote(**arguments)

    def send(self, method: str, *arguments: Any) -> None:
        """See `Worker.send`."""
        self._answer = self.actor.answer.remote(method, *arguments)

    def receive(self, seconds: float) -> Any:
        """See `Worker.receive`."""
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


class RayVecEnv(WorkerVecEnv):
    """A population shared by actors of a Ray cluster, one a CPU; see `WorkerVecEnv` and `join_cluster`."""

    def __init__(self, env: str, replicas: int, workers: int, **parameters: Any) -> None:
        join_cluster(workers)
        super().__init__(env, replicas, workers, **parameters)

    def _start(self, worker: int) -> Worker:
        # After the loss of a node there may be no CPU for each any more; then some share one.
        enough = ray.cluster_resources().get("CPU", 0) >= len(self._arguments)
        return RayWorker(int(enough), self._arguments[worker])

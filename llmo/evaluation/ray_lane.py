"""Calls as tasks of a Ray cluster, one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from llmo.evaluation.processes import one_thread
from llmo.evaluation.ray_cluster import environment, loss


def _call(folder: str, function: Callable[..., Any], *arguments: Any) -> Any:
    # Paths may be relative; on another machine the same folder may be shared, or none is needed.
    if os.path.isdir(folder):
        os.chdir(folder)
    one_thread()
    return function(*arguments)


class RayLane:
    """One task at a time, on whatever node has a CPU free."""

    def __init__(self) -> None:
        self._task = ray.remote(num_cpus=1, max_retries=0, runtime_env=environment())(_call)
        self._reference: ray.ObjectRef[Any] | None = None

    def submit(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Future[Any]:
        """Begin a call; the function and its arguments can be pickled."""
        self._reference = self._task.remote(os.getcwd(), function, *arguments)
        return self._reference.future()

    def outcome(self, future: Future[Any]) -> Any:
        """What a finished call gave or raised.

        Raises:
            WorkerLost: Its process or node has died.
        """
        self._reference = None
        try:
            return future.result()
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise loss(error) from error

    def close(self) -> None:
        """End the task, whatever it is doing."""
        if self._reference is not None and ray.is_initialized():
            ray.cancel(self._reference, force=True)
        self._reference = None

"""What every process does that works for another one, and one that takes calls."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any

PRELOADED = ("llmo.evaluation.rollout", "llmo.evaluation.worker", "transformers.models.llama.modeling_llama")
"""What is slow to import and needed by every worker."""


class WorkerLost(Exception):
    """A process that worked for this one has died or gives no answer; the text says which, as in "has ended"."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """Let torch use one thread in this process: sums may round differently with another number of them."""
    import torch

    torch.set_num_threads(1)


def context() -> BaseContext:
    """How worker processes begin: as copies of one that has imported the libraries, where the system can do that."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(PRELOADED))
    return server


def prepare_worker(environment: Mapping[str, str]) -> None:
    """What every worker process does first.

    It takes over the environment variables of the process that started it, leaves an interrupt to that one, does not
    outlive it, and uses one thread.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    one_thread()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class ProcessLane:
    """A process that takes one call after another; when it has died, the next call begins a new one."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    def submit(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Future[Any]:
        """Begin a call; the function and its arguments can be pickled."""
        if self._pool is not None:
            try:
                return self._pool.submit(function, *arguments)
            except BrokenProcessPool:
                # It has died since its last answer.
                self.close()
        others = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(1, context(), initializer=prepare_worker, initargs=(dict(os.environ),))
        future = self._pool.submit(function, *arguments)
        (self._process,) = set(multiprocessing.active_children()) - others
        return future

    def outcome(self, future: Future[Any]) -> Any:
        """What a finished call gave or raised.

        Raises:
            WorkerLost: The process has died.
        """
        try:
            return future.result()
        except BrokenProcessPool as error:
            self.close()
            raise WorkerLost("has ended") from error

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
        if self._pool is not None:
            # Waiting for the pool's thread, which ends with the process, or it would still be at work when Python ends.
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._process = None

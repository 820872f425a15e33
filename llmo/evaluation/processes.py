"""Work spread over processes of one thread each; what comes out does not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from llmo.errors import LlmoError, WorkerError

T = TypeVar("T")


def worker_count(asked: int | None) -> int:
    """How many processes to use: as many as asked for, 0 for none but this one, or one a core.

    Raises:
        LlmoError: The number is negative.
    """
    if asked is not None and asked < 0:
        raise LlmoError("workers", asked, "a number of processes, 0 to work in this one")
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """Let torch use one thread in this process: sums may round differently with another number of them."""
    import torch

    torch.set_num_threads(1)


def prepare_worker() -> None:
    """What every worker process does first: one thread, and leave an interrupt to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_thread()


def spread(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, T]]:
    """Call a function with each tuple of arguments.

    Args:
        function: What to call; it and its arguments can be pickled where there are workers.
        calls: The arguments of each call.
        workers: Processes; 0 calls it in this one.

    Returns:
        The place of each call and what it gave, as they finish.

    Raises:
        WorkerError: A process has ended before its work was done.
    """
    if not workers:
        one_thread()
        for place, arguments in enumerate(calls):
            yield place, function(*arguments)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=prepare_worker)
    try:
        futures = {pool.submit(function, *arguments): place for place, arguments in enumerate(calls)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise WorkerError("a worker process has ended before its work was done; --resume goes on") from error
    finally:
        # Nobody waits for what is still being worked on after an interrupt or an error.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
